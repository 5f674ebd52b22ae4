"""What ``fit_density`` says of rows that it cannot read, or train on."""

from itertools import islice

import jax
import numpy as np
import pytest
import torch
from sources import FLOW, ROWS, SHORT, Batches, Dataset, loader, memory_map

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.inference import row_source

SHELLS = pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])


def with_value(value, row, column=1):
    rows = ROWS.copy()
    rows[row, column] = value
    return rows


def ended(n):
    return islice(iter(Batches(ROWS)), n)


def the_same(iterator):
    return lambda: iterator


HALF = pf.Chain([FLOW, pf.Elementwise(3, pf.Sigmoid())])
CONDITIONAL = pf.maf(3, flow_layers=1, hidden=(8,), context_dim=2)
MISTAKES = {
    "not finite on disk": (lambda at: memory_map(with_value(np.nan, 321), at), {}, "1 of .* rows .*first is row 321"),
    "not finite in a batch": (lambda at: Batches(with_value(np.inf, 160)), {}, r"first is row 2 of batch 4\); drop or"),
    "out of range": (lambda at: Dataset(with_value(2, 321)), {"bijection": HALF}, "bijection's range"),
    "no whole number": (
        lambda at: Dataset(with_value(0.5, 321)),
        {"levels": 9},
        "data must be whole numbers 0, ..., 8",
    ),
    "shape on disk": (
        lambda at: memory_map(ROWS[:, :2], at),
        {},
        r"must have shape \(rows, 3\), got \(2, 2\) from row 0",
    ),
    "one row": (lambda at: memory_map(ROWS[:1], at), {}, "at least 2 rows, got 1"),
    "rows, not batches": (
        lambda at: lambda: iter(ROWS),
        {},
        "from row 0 of batch 0 on; give batches of rows, as a Data",
    ),
    "shapes of rows": (lambda at: Dataset([ROWS[0], ROWS[1, :2]]), {}, r"row 0 has \(3,\), and row 1 \(2,\)"),
    "dicts": (lambda at: [{"x": ROWS}].__iter__, {}, r"batch 0 must be data, or a pair .* got a dict of \['x'\]"),
    "triples": (lambda at: Dataset(ROWS, ROWS, ROWS), {}, "row 0 must be data, or a pair of data and context, got 3"),
    "text": (
        lambda at: Batches(np.array([["a", "b", "c"]])),
        {},
        "data must be an array, a list or a table of numbers",
    ),
    "labels": (lambda at: loader(ROWS, ROWS[:, 0]), {}, "context is not wanted by this bijection; leave it out"),
    "no context": (lambda at: Batches(ROWS), {"bijection": CONDITIONAL}, r"context must have shape \(7, 2\)"),
    "context beside": (lambda at: loader(ROWS), {"context": ROWS}, "context= goes with arrays; .* this DataLoader"),
    "context of other rows": (lambda at: memory_map(ROWS, at), {"context": ROWS[1:]}, "as many rows, got 1000 and 999"),
    "no batch": (
        lambda at: lambda: iter([]),
        {},
        "the data gave no rows; give an iterable of batches that begins anew",
    ),
    "ends": (lambda at: ended(4), {}, r"ended after 158 rows, at step 3 of 60; give what can be .* or steps=3\."),
    "exhausted": (
        lambda at: the_same(ended(4)),
        {},
        "gave no rows in pass 2; .*a function that gives a new",
    ),
    "share": (
        lambda at: Batches(ROWS),
        {"validation": 0.1},
        "validation=0.1: of what is iterated nobody knows how many",
    ),
    "share of few": (lambda at: Dataset(ROWS[:3]), {"validation": 0.9}, "a share of the rows .* got 0.9 of 3 rows"),
    "constant": (lambda at: Dataset(with_value(7, slice(None))), {}, "same value in column 1, where"),
}


@SHELLS
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_say_what_is_wrong(shell, name, tmp_path):
    make, options, message = MISTAKES[name]
    options = SHORT | {"bijection": FLOW} | options
    with pytest.raises((ValueError, TypeError), match=message):
        shell.fit_density(data=make(tmp_path / "rows.npy"), **options)


@SHELLS
def test_a_bad_row_that_only_a_step_reads_is_named(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(row_source, "SAMPLE_ROWS", 10)
    with pytest.raises(ValueError, match=r"1 of .* rows are not \(the first is row 2 of batch 4\)"):
        shell.fit_density(FLOW, Batches(with_value(np.nan, 160)), **SHORT)
    with pytest.raises(ValueError, match="the first is row 700"):
        shell.fit_density(FLOW, memory_map(with_value(np.nan, 700), tmp_path / "rows.npy"), **SHORT)


def test_arrays_of_any_library_in_memory_stay_there():
    for data in (ROWS, [*ROWS.tolist()], torch.as_tensor(ROWS), jax.numpy.asarray(ROWS)):
        assert in_pyro.fit_density(pf.Elementwise(3), data, steps=2, progress=False).losses.shape == (2,)
