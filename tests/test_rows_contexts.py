"""Contexts of rows that are read: they go by the keys of the first, and every row has one, or none."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from sources import FLOW, ROWS, SHORT

from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.inference.open_rows import open_rows
from ppl_flows.inference.row_source import Reading

READING = Reading(3, 16, 0.0, 0, lambda rows, row: None, np.float64, nullcontext)
AB, BA, C = {"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}, {"c": 1.0}


class Rows(torch.utils.data.Dataset):
    def __init__(self, *contexts):
        self.contexts = contexts

    def __len__(self):
        return 40

    def __getitem__(self, i):
        context = self.contexts[i % len(self.contexts)]
        return ROWS[i], _of_shape(context, (1,))


class Batches(torch.utils.data.IterableDataset):
    """With a length, which does not make it a dataset of numbered rows."""

    def __init__(self, *contexts):
        self.contexts = contexts

    def __len__(self):
        return 8

    def __iter__(self):
        for i in range(8):
            context = _of_shape(self.contexts[i % len(self.contexts)], (5, 1))
            yield ROWS[5 * i : 5 * i + 5] if context is None else (ROWS[5 * i : 5 * i + 5], context)


def _of_shape(context, shape):
    if isinstance(context, dict):
        return {name: np.full(shape, value) for name, value in context.items()}
    return None if context is None else np.full(shape, context)


SOURCES = pytest.mark.parametrize("source", [Rows, Batches])


@SOURCES
def test_contexts_go_by_their_names_and_not_by_their_order(source):
    rows, _, sample = open_rows(source(AB, BA), None, READING)
    for context in (sample, *(rows.step(step)[1] for step in range(3))):
        assert [*context] == ["a", "b"]
        assert (context["a"] == 1).all()
        assert (context["b"] == 2).all()


@SOURCES
@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ((AB, C), r"1 has a dict of \['c'\], but {} 0 has a dict of \['a', 'b'\]; give every one the same"),
        ((AB, None), "1 has none, but {} 0 has a dict of"),
        ((None, AB), "1 has a dict of .*, but {} 0 has none"),
        ((1.0, None), "1 has none, but {} 0 has one array"),
        ((1.0, AB), "1 has a dict of .*, but {} 0 has one array"),
    ],
)
def test_contexts_that_do_not_go_together_are_refused_by_the_row(source, contexts, message):
    kind = "row" if source is Rows else "batch"
    with pytest.raises(ValueError, match=f"context: {kind} " + message.format(kind)):
        open_rows(source(*contexts), None, READING)


@pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])
def test_an_iterable_dataset_with_a_length_is_iterated(shell):
    fit = shell.fit_density(FLOW, Batches(None), **SHORT | {"steps": 2, "batch_size": 16})
    assert fit.losses.shape == (2,)
