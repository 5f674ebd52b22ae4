"""Density estimation: rows held out, and real tables."""

import warnings
from functools import partial
from inspect import signature
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import torch
from scipy.stats import multivariate_normal

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.core.params import flatten
from ppl_flows.inference.density import split_rows

UCI = Path(__file__).parent.parent.parent / "shared" / "data" / "uci"
SHELLS = pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])


def log_prob(shell, flow, rows):
    with torch.no_grad():
        return np.asarray(flow.log_prob(torch.tensor(rows) if shell is in_pyro else jnp.asarray(rows)))


def small_table(n):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((n, 3)).astype(np.float32)
    return np.concatenate([x[:, :1], x[:, 1:] * np.exp(x[:, :1] / 2)], axis=-1)


@SHELLS
@pytest.mark.slow_in_numpyro
def test_the_parameters_that_score_best_on_held_out_rows_are_kept(shell):
    train, test = small_table(200), small_table(10_000)
    bijection = pf.Chain([pf.maf(3, flow_layers=2, hidden=(64, 64)), pf.BatchNorm(3)])
    options = {"steps": 125, "batch_size": 150, "lr": 2e-2, "base": pf.DiagonalNormal(3), "progress": False}
    fit = shell.fit_density(bijection, train, validation=0.25, **options)
    assert len(fit.validation_losses) == 21, "twenty blocks of 6 steps, and a rest"
    assert 0 < fit.validation_losses.argmin() < 15, "it learned, and then overfitted"
    assert fit.losses[-20:].mean() < fit.losses[:20].mean() - 0.3
    smallest, last = fit.validation_losses.min(), fit.validation_losses[-1]
    held = train[split_rows(200, 0.25, 0)[1]]
    assert -log_prob(shell, fit.flow, held).mean() == pytest.approx(smallest, abs=1e-4)
    assert -log_prob(shell, fit.flow, test).mean() < last - 0.3
    assert f"validation loss={smallest:.3f}" in repr(fit)


@SHELLS
def test_validation_scores_conditions_and_dequantised_rows(shell):
    rng = np.random.default_rng(0)
    context = rng.uniform(-2, 2, (300, 1)).astype(np.float32)
    data = np.floor(8 * (context + 2) + rng.uniform(0, 8, (300, 1)))
    bijection = pf.maf(1, flow_layers=1, hidden=(16,), context_dim=1)
    options = {"levels": 40, "steps": 60, "lr": 3e-2, "validation": 0.2, "progress": False}
    fit = shell.fit_density(bijection, data, context=context, **options)
    assert np.isfinite(fit.validation_losses).all()
    assert fit.validation_losses[-1] < fit.validation_losses[0] - 0.3
    assert fit.validation_losses[-1] == pytest.approx(fit.losses[-20:].mean(), abs=0.3)


@SHELLS
def test_a_held_out_row_without_a_density_is_named_and_the_last_parameters_are_kept(shell, tmp_path):
    dtype, far = (np.float32, 1e25) if shell is in_pyro else (np.float64, 1e200)  # whose square overflows there
    data = np.random.default_rng(0).normal(3.0, 2.0, (200, 1)).astype(dtype)
    data[split_rows(200, 0.1, 0)[1][0]] = far
    options = {"steps": 200, "lr": 0.1, "standardize": False, "progress": False, "checkpoint": tmp_path / "density"}
    for _ in range(2):  # trained, and taken from the checkpoint
        with pytest.warns(UserWarning, match=r"held-out rows was never finite.*validation=0\.0") as caught:
            fit = shell.fit_density(pf.TriangularAffine(1), data, validation=0.1, **options)
        assert caught[0].filename == __file__
        assert not np.isfinite(fit.validation_losses).any()
        assert float(fit.params["b"][0]) == pytest.approx(3.0, abs=0.5)


@SHELLS
def test_the_encoder_returned_belongs_to_the_parameters_kept(shell):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2, 60, 1)).astype(np.float32)  # nothing to learn, so that it overfits
    encoder = torch.nn.Linear(1, 2) if shell is in_pyro else lambda v: v @ numpyro.param("w", jnp.ones((1, 2)))
    bijection = pf.Elementwise(1, context_dim=2, conditioner=pf.MLP((64, 64)))
    options = {"context": x, "encoder": encoder, "steps": 60, "lr": 3e-2, "progress": False}
    fit = shell.fit_density(bijection, y, validation=0.5, **options)
    assert fit.losses[-5:].mean() < fit.losses[:5].mean() - 0.2
    assert fit.validation_losses.argmin() < 15
    held = split_rows(60, 0.5, 0)[1]
    given = fit.encoder(torch.tensor(x[held]) if shell is in_pyro else x[held])
    score = log_prob(shell, shell.Flow(fit.bijection, fit.params, context=given), y[held]).mean()
    assert -score == pytest.approx(fit.validation_losses.min(), abs=1e-5)


COMPILED = {
    "running averages and a base that trains": (
        pf.Chain([pf.Coupling(3, conditioner=pf.MLP((8,))), pf.BatchNorm(3)]),
        {"base": pf.DiagonalNormal(3), "validation": 0.2, "standardize": False},  # whose shift the averages undo
    ),
    "all rows, which are constants": (pf.maf(3, flow_layers=2, hidden=(8,)), {"batch_size": 200}),
    "dequantised rows": (pf.nsf(3, flow_layers=2, hidden=(8,), bins=3), {"levels": 8}),
    "an encoder": (
        pf.Coupling(3, context_dim=2, conditioner=pf.MLP((8,))),
        {"context": torch.ones(200, 1), "encoder": torch.nn.Linear(1, 2)},
    ),
}


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_fit_in_pyro_is_the_eager_one(name):
    bijection, options = COMPILED[name]
    table = small_table(200)
    rows = np.clip(np.round(table + 4), 0, 7) if "levels" in options else table
    options = {"steps": 40, "batch_size": 50, "lr": 1e-2, "progress": False} | options
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that it goes on without
        eager, replay = (in_pyro.fit_density(bijection, rows, compile=mode, **options) for mode in (False, "jit"))
    assert eager.losses[-10:].mean() < eager.losses[:10].mean() - 0.01
    np.testing.assert_allclose(replay.losses, eager.losses, rtol=1e-4, atol=1e-4)
    if "validation" in options:
        np.testing.assert_allclose(replay.validation_losses, eager.validation_losses, atol=1e-4)
    for (path, a), (_, b) in zip(flatten(eager.params), flatten(replay.params), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4, msg=path)


def test_jax_compiles_validation_once(monkeypatch):
    calls = []
    inverse = pf.Elementwise._inverse
    monkeypatch.setattr(pf.Elementwise, "_inverse", lambda *args: calls.append(1) or inverse(*args))
    counts = []
    for steps in (4, 30):
        calls.clear()
        in_numpyro.fit_density(pf.Elementwise(3), small_table(60), steps=steps, validation=0.5, progress=False)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


def test_an_unknown_mode_of_compilation_is_an_error_before_anything_is_done():
    with pytest.raises(ValueError, match="compile must be one of"):
        in_pyro.fit_density(pf.maf(3), small_table(60), compile="yes")


@pytest.mark.parametrize("validation", [-0.1, 1.0, 0.99, 0.001])
def test_validation_needs_rows_for_both_uses(validation):
    with pytest.raises(ValueError, match="validation must be a share of the rows"):
        in_pyro.fit_density(pf.maf(3), small_table(60), validation=validation)


RECIPES = {r.__name__: r for r in map(partial(getattr, pf), pf.recipes.__all__) if "dim" in signature(r).parameters}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name):
    """In one language: all else that training needs of a recipe, the laws show in each."""
    flow, y = RECIPES[name](3), torch.tensor(small_table(60))
    blocks = []
    fit = in_pyro.fit_density(
        flow, y, steps=20, lr=1e-2, progress=False, callback=lambda *call: blocks.append(dict(flatten(call[2])))
    )
    assert fit.losses[-5:].mean() < fit.losses[:5].mean()
    weights = [leaf for leaf in blocks[0] if "state" not in leaf]
    assert weights
    for leaf in weights:
        assert not torch.equal(blocks[0][leaf], blocks[-1][leaf]), f"{leaf} did not train"


@pytest.mark.slow
def test_on_a_real_table_splines_are_ahead_of_affine_maps_and_these_of_a_gaussian():
    if not UCI.exists():
        pytest.skip("the UCI tables are not in this checkout (../shared/data/uci)")
    stored = np.load(UCI / "power_plant.npz")
    rows = np.concatenate([stored["x"], stored["y"].reshape(-1, 1)], axis=-1)
    rows = (rows - rows.mean(0)) / rows.std(0)
    train, test = np.split(rows[np.random.default_rng(0).permutation(len(rows))], [8_600])
    options = {"steps": 80, "lr": 2e-2, "validation": 0.1, "progress": False}

    def score(shell, recipe):
        fit = shell.fit_density(recipe(5, flow_layers=2, hidden=(32, 32)), train, **options)
        assert fit.validation_losses[-1] < fit.validation_losses[0] - 0.1
        return log_prob(shell, fit.flow, test).mean()

    gaussian = multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(test).mean()
    affine, spline, in_other_language = score(in_pyro, pf.maf), score(in_pyro, pf.nsf), score(in_numpyro, pf.maf)
    assert spline > affine + 0.05
    assert affine > gaussian + 0.2
    assert affine == pytest.approx(in_other_language, abs=0.05)
