"""``fit_density`` on rows that are read when a step takes them."""

import warnings
from functools import partial
from itertools import pairwise

import numpy as np
import numpyro
import pytest
import torch
from scipy.stats import kstest
from sources import (
    FLOW,
    ITERATED,
    NUMBERED,
    ROWS,
    SHORT,
    Batches,
    Dataset,
    in_hdf5,
    loader,
    memory_map,
    peak_of_memory,
    table,
)

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.core.params import flatten
from ppl_flows.inference import row_source
from ppl_flows.inference.numbered_rows import permuted, rows_of_step

SHELLS = pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])


def assert_same(fit, other):
    np.testing.assert_array_equal(fit.losses, other.losses)
    for (path, a), (_, b) in zip(flatten(fit.params), flatten(other.params), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=path)


def assert_trained(shell, fit):
    """The loss fell, and every parameter moved."""
    assert fit.losses[-10:].mean() < fit.losses[:10].mean() - 0.1
    for (path, a), (_, b) in zip(
        flatten(fit.bijection.init(np.random.default_rng(0))), flatten(fit.params), strict=True
    ):
        assert not np.array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32)), f"{path} did not train"


# --- the same rows give the same fit, whatever they come from


@SHELLS
def test_rows_with_numbers_give_one_fit(shell, tmp_path):
    fit = shell.fit_density(FLOW, memory_map(ROWS, tmp_path / "rows.npy"), **SHORT)
    assert_trained(shell, fit)
    for name, make in NUMBERED.items():
        assert_same(shell.fit_density(FLOW, make(ROWS, tmp_path / name), **SHORT), fit)
    in_memory = shell.fit_density(FLOW, ROWS, **SHORT)
    assert fit.losses[-20:].mean() == pytest.approx(in_memory.losses[-20:].mean(), abs=0.15)  # of other rows


@SHELLS
@pytest.mark.slow_in_numpyro
def test_batches_of_any_sizes_give_one_fit(shell, monkeypatch):
    monkeypatch.setattr(row_source, "SAMPLE_ROWS", 400)  # as if there were more rows than in a sample
    batches = Batches(ROWS)
    fit = shell.fit_density(FLOW, batches, **SHORT)
    assert_trained(shell, fit)
    assert batches.passes == 3, "3,000 rows of 1,000: nothing is read before it is needed"
    for make in ITERATED.values():
        assert_same(shell.fit_density(FLOW, make(ROWS), **SHORT), fit)


@SHELLS
@pytest.mark.slow_in_numpyro
def test_contexts_go_with_their_rows(shell, tmp_path):
    c = np.random.default_rng(1).uniform(-2, 2, (1_000, 2)).astype(np.float32)
    data = (3 * c[:, :1] + 0.1 * ROWS[:, :1]).astype(np.float32)
    flow = pf.Elementwise(1, context_dim=2, conditioner=pf.MLP((16,)))
    given = partial(shell.fit_density, flow, **SHORT | {"steps": 150})
    on_disk = memory_map(data, tmp_path / "data.npy")
    fit = given(on_disk, context=in_hdf5(c, tmp_path / "c"))
    assert fit.losses[-20:].mean() < fit.losses[:20].mean() - 0.7, "the context tells where the data are"
    assert_same(given(on_disk, context=c), fit)
    assert_same(given(Dataset(data, c)), fit)
    pairs = given(Batches(data, c))
    assert pairs.losses[-20:].mean() == pytest.approx(fit.losses[-20:].mean(), abs=0.3)
    assert_same(given(loader(data, c)), pairs)


@SHELLS
def test_an_encoder_trains_on_what_is_read(shell, tmp_path):
    c = np.random.default_rng(1).uniform(-2, 2, (1_000, 2)).astype(np.float32)
    data = (3 * c[:, :1] + 0.1 * ROWS[:, :1]).astype(np.float32)
    if shell is in_pyro:

        class Encoder(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(2, 2)

            def forward(self, values):
                return self.layer(values["c"])

        encoder = Encoder()
    else:

        def encoder(values):
            return values["c"] @ numpyro.param("w", 0.5 * np.ones((2, 2)))

    flow = pf.Elementwise(1, context_dim=2, conditioner=pf.MLP((16,)))
    options = SHORT | {"steps": 150, "validation": 0.1, "encoder": encoder}
    fit = shell.fit_density(
        flow, memory_map(data, tmp_path / "x.npy"), context={"c": memory_map(c, tmp_path / "c.npy")}, **options
    )
    assert fit.losses[-20:].mean() < fit.losses[:20].mean() - 0.7
    assert fit.validation_losses[-1] == pytest.approx(fit.losses[-20:].mean(), abs=0.3)
    assert fit.encoder({"c": torch.as_tensor(c[:5]) if shell is in_pyro else c[:5]}).shape == (5, 2)


@SHELLS
@pytest.mark.slow_in_numpyro
def test_running_averages_levels_validation_and_callbacks(shell, tmp_path):
    data = np.clip(np.round(2 * ROWS + 5), 0, 31).astype(np.uint8)
    calls, flow = [], pf.Chain([FLOW, pf.BatchNorm(3)])
    options = SHORT | {"levels": 32, "validation": 0.2, "callback": lambda *call: calls.append(call[:2])}
    fit = shell.fit_density(flow, memory_map(data, tmp_path / "rows.npy"), **options)
    assert fit.losses[-10:].mean() < fit.losses[:10].mean() - 0.1
    assert [step for step, _ in calls] == [*range(3, 61, 3)]
    assert len(fit.validation_losses) == 20
    assert fit.validation_losses[-1] == pytest.approx(fit.losses[-10:].mean(), abs=0.3)
    assert_same(shell.fit_density(flow, Dataset(data), **options), fit)


@pytest.mark.parametrize("levels", [None, 32])
def test_a_compiled_fit_in_pyro_reads_every_step(levels, tmp_path):
    data = ROWS if levels is None else np.clip(np.round(2 * ROWS + 5), 0, 31)
    on_disk = memory_map(data, tmp_path / "rows.npy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it goes on without
        eager, replay = (
            in_pyro.fit_density(FLOW, on_disk, levels=levels, compile=mode, **SHORT) for mode in (False, "jit")
        )
    np.testing.assert_allclose(replay.losses, eager.losses, rtol=1e-4, atol=1e-4)


def test_what_a_loader_draws_in_pyro_goes_by_the_seed_and_leaves_the_training_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit = partial(in_pyro.fit_density, FLOW, loader(ROWS, shuffle=True), **SHORT)
    first = fit()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(fit(), first)
    assert not np.array_equal(fit(seed=1).losses, first.losses)


# --- which rows


def test_the_rows_of_a_step_are_a_function_of_seed_and_step():
    rows = rows_of_step(20_000_000, 256, 3, 17)
    assert len({*rows}) == 256
    np.testing.assert_array_equal(rows_of_step(20_000_000, 256, 3, 17), rows)
    for other in (rows_of_step(20_000_000, 256, 3, 18), rows_of_step(20_000_000, 256, 4, 17)):
        assert len({*rows, *other}) > 500
    many = np.concatenate([rows_of_step(20_000_000, 256, 0, step) for step in range(20)])
    assert kstest(many / 20_000_000, "uniform").pvalue > 1e-3
    assert [*np.sort(rows_of_step(5, 5, 0, 0))] == [*range(5)]


@pytest.mark.parametrize("n", [2, 3, 5, 64, 65, 1_000, 4_097])
def test_a_permutation_without_a_table_is_one(n):
    there = permuted(np.arange(n), n, 1)
    assert [*np.sort(there)] == [*range(n)]
    if n > 60:
        assert not np.array_equal(permuted(np.arange(n), n, 2), there)
        assert abs(np.corrcoef(np.arange(n), there)[0, 1]) < 4 / np.sqrt(n)


@SHELLS
def test_rows_held_out_are_never_trained_on(shell):
    data = Dataset(ROWS)
    seen = []
    fit = shell.fit_density(
        pf.Elementwise(3), data, validation=0.3, callback=lambda *_: seen.append(len(data.asked)), **SHORT
    )
    held = {i for i in range(1_000) if i not in {int(i) for i in permuted(np.arange(300, 1_000), 1_000, 0)}}
    assert len(held) == 300
    last_validation = data.asked[-300:]
    assert {*last_validation} == held
    blocks = [2, *seen]  # after a look at how large a row is
    trained_on = {i for first, last in pairwise(blocks) for i in data.asked[first : last - 300]}
    assert trained_on == {*range(1_000)} - held, "60 steps of 50 rows leave no row of 700 out"
    best = -fit.flow.log_prob((torch.as_tensor if shell is in_pyro else np.asarray)(ROWS[sorted(held)])).mean()
    assert float(best) == pytest.approx(fit.validation_losses.min(), abs=1e-4)


# --- memory


@SHELLS
@pytest.mark.parametrize("kind", ["memory map", "iterable"])
def test_memory_does_not_grow_with_the_rows(shell, kind, tmp_path):
    """64 MB of rows, whose numbers alone would take 32."""

    def fit(n):
        path = tmp_path / f"{n}.bin"
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            for _ in range(0, n, 100_000):
                rng.standard_normal((min(n, 100_000), 4), dtype=np.float32).tofile(file)
        rows = np.memmap(path, np.float32, "r").reshape(-1, 4)
        data = rows if kind == "memory map" else lambda: (rows[i : i + 8_192] for i in range(0, n, 8_192))
        return shell.fit_density(pf.Elementwise(4), data, steps=40, batch_size=1_000, progress=False)

    fit(50_000)  # what is compiled, and what allocators keep
    with peak_of_memory() as few:
        fit(50_000)
    with peak_of_memory() as many:
        assert len(fit(4_000_000).losses) == 40
    assert many[0] < few[0] + 16


# --- a fit that goes on


class KilledError(Exception):
    """In place of a kill."""


def killed(shell, data, path, **options):
    def callback(step, *_):
        if step >= 30:
            raise KilledError

    with pytest.raises(KilledError):
        shell.fit_density(FLOW, data, checkpoint=path, checkpoint_every=0, callback=callback, **SHORT | options)


@SHELLS
def test_a_fit_goes_on_with_the_rows_that_come_next(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(row_source, "SAMPLE_ROWS", 400)
    on_disk = memory_map(ROWS, tmp_path / "rows.npy")
    kinds = {
        "numbers": (lambda: on_disk, {"validation": 0.1}),
        "iterable": (lambda: Batches(ROWS), {}),
        "one pass": (lambda: ITERATED["generator"](ROWS), {}),
    }
    for name, (data, options) in kinds.items():
        killed(shell, data(), tmp_path / name, **options)
        resumed = shell.fit_density(FLOW, data(), checkpoint=tmp_path / name, checkpoint_every=0, **SHORT | options)
        assert_same(resumed, shell.fit_density(FLOW, data(), **SHORT | options))


@SHELLS
def test_other_rows_than_before_are_an_error(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(row_source, "SAMPLE_ROWS", 100)
    killed(shell, Batches(ROWS), tmp_path / "fit")
    again = partial(shell.fit_density, FLOW, checkpoint=tmp_path / "fit", **SHORT)
    others = np.concatenate([ROWS[:300], ROWS[300:][::-1]])
    with pytest.raises(ValueError, match=r"other rows for step \d+ than before.* seed what shuffles them"):
        again(Batches(others))
    with pytest.raises(ValueError, match="is of another fit: data has other values"):
        again(Batches(table(1_000, seed=1)))
