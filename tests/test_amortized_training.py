"""How an amortised posterior is trained: held-out simulations, an early end, fresh simulations, rounds."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import stats

import ppl_flows as pf
from ppl_flows.core.params import flatten
from ppl_flows.inference.amortized import draw_inside
from ppl_flows.inference.posterior_start import Regression, posterior_start
from ppl_flows.inference.schedule import BestParams


def shell(lang):
    return __import__(f"ppl_flows.{lang.ppl.__name__}", fromlist=["fit_amortized"])


def linear(lang):
    """``y ~ N(z, 1/2)`` of ``z ~ N(0, 1)``: the posterior is ``N(4 y / 5, 1/5)``."""

    def model(y):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(1.0)))
        lang.ppl.sample("y", lang.dist.Normal(z, lang.array(0.5)), obs=y)

    return model


def wide(dim, *, context_dim):
    """Far more parameters than a few simulations can tell."""
    return pf.Elementwise(dim, pf.RationalQuadratic(8), context_dim=context_dim, conditioner=pf.MLP((64, 64)))


def narrow(dim, *, context_dim):
    return pf.Elementwise(dim, pf.Affine(), context_dim=context_dim, conditioner=pf.MLP((8,)))


def test_a_training_ends_when_held_out_simulations_say_so_and_has_its_best_parameters(lang):
    options = {"flow": wide, "simulations": 200, "steps": 200, "batch_size": 50, "lr": 2e-2, "progress": False}
    y, fit_amortized = lang.array(0.0), shell(lang).fit_amortized
    fit = fit_amortized(linear(lang), y, **options)
    held = fit.density.validation_losses
    assert len(fit.density.losses) == 10 * len(held) < 200
    assert len(held) - held.argmin() == 5, "four more blocks than the best one"
    assert f"validation loss={held.min():.3f} nats" in repr(fit)
    if lang.ppl.__name__ == "pyro":
        whole = fit_amortized(linear(lang), y, patience=None, **options)
        assert len(whole.density.losses) == 200
        np.testing.assert_allclose(whole.density.validation_losses[: len(held)], held)
        last = fit_amortized(linear(lang), y, validation=0.0, **options)
        assert last.density.validation_losses is None
        assert len(last.density.losses) == 200
        assert np.isclose(whole.density.validation_losses.min(), held.min()), "the best is the same"


@pytest.mark.slow_in_numpyro
def test_simulations_on_the_fly_train_and_are_new_in_every_step(lang):
    seen = []

    def model(y):
        z = lang.ppl.sample("z", lang.dist.Gamma(lang.array(2.0), lang.array(1.0)))
        seen.append(z)
        lang.ppl.sample("y", lang.dist.Normal(z, lang.array(0.5)), obs=y)

    options = {"flow": narrow, "simulations": None, "steps": 120, "batch_size": 64, "lr": 2e-2, "progress": False}
    if lang.ppl.__name__ == "pyro":
        options["compile"] = False
    fit = shell(lang).fit_amortized(model, lang.array(1.0), **options)
    assert fit.density.validation_losses is None
    assert fit.density.losses[-30:].mean() < fit.density.losses[:10].mean() - 0.1
    assert fit.density.skipped == 0
    if lang.ppl.__name__ == "pyro":
        batches = [np.asarray(z) for z in seen if np.shape(z) == (64,)]
        assert len(batches) >= 120
        assert len(np.unique(np.concatenate(batches))) == np.concatenate(batches).size
    draws = np.asarray(fit.sample(500, lang.array(4.0))["z"])
    assert abs(draws.mean() - 3.75) < 0.5


@pytest.mark.slow
def test_a_posterior_on_the_fly_is_the_exact_one(lang):
    options = {"flow": narrow, "simulations": None, "steps": 1_000, "lr": 5e-3, "progress": False}
    fit = shell(lang).fit_amortized(linear(lang), lang.array(0.0), **options)
    for y in (-1.5, 0.0, 2.0):
        draws = np.asarray(fit.sample(20_000, lang.array(y))["z"])
        assert abs(draws.mean() - 0.8 * y) < 0.03
        assert abs(draws.std() - 0.2**0.5) < 0.02


@pytest.mark.slow_in_numpyro
def test_rounds_are_for_their_data_and_others_are_warned_of(lang, tmp_path):
    y = lang.array(2.0)
    options = {"flow": narrow, "simulations": 800, "rounds": 2, "steps": 100, "lr": 5e-3, "progress": False}
    fit = shell(lang).fit_amortized(linear(lang), y, **options)
    draws = np.asarray(fit.sample(4_000, y)["z"])
    assert abs(draws.mean() - 1.6) < 0.15
    assert abs(draws.std() - 0.2**0.5) < 0.1
    assert "for the data of its rounds" in repr(fit)
    fit.save(tmp_path / "fit")
    for one in (fit, shell(lang).load_amortized(tmp_path / "fit", linear(lang))):
        for ask in (one.sample, one.to_arviz):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                ask(3, lang.array(1.9))
            assert [w.filename for w in seen] == [__file__]
            assert "trained in rounds for the data in its arguments, and these are others" in str(seen[0].message)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit.correct(lang.array(1.9), draws=100, check_modes=False, progress=False)
    assert [w.filename for w in seen if "in rounds" in str(w.message)] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.sample(3, y)


@pytest.mark.long
def test_rounds_find_a_narrow_posterior_better_than_one(lang):
    """A posterior on one hundredth of the prior's width, whose shape few of its simulations show."""

    def model(y):
        z = lang.ppl.sample("z", lang.dist.Uniform(lang.array(-1.0), lang.array(1.0)))
        lang.ppl.sample("y", lang.dist.Normal(10.0 * z**3 + z, lang.array(0.1)), obs=y)

    grid = np.linspace(-1, 1, 40_001)
    weights = stats.norm.pdf(0.0, 10 * grid**3 + grid, 0.1)
    exact = (weights * grid**2).sum() ** 0.5 / weights.sum() ** 0.5
    off = []
    for rounds in (1, 4):
        options = {"simulations": 1_000, "rounds": rounds, "progress": False}
        fit = shell(lang).fit_amortized(model, lang.array(0.0), **options)
        off.append(abs(np.log(np.asarray(fit.sample(10_000, lang.array(0.0))["z"]).std() / exact)))
    assert off[1] < 0.1, off


def test_options_that_do_not_go_together_are_errors(lang):
    fit_amortized, y = shell(lang).fit_amortized, lang.array(0.0)
    cases = {
        "simulations must be at least 100 a round, got 50": {"simulations": 200, "rounds": 4},
        "rounds share a number of simulations": {"simulations": None, "rounds": 2},
        "a checkpoint is of one training": {"rounds": 2, "checkpoint": "file"},
        "patience must be at least 1": {"patience": 0},
    }
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            fit_amortized(linear(lang), y, **options)
    with pytest.raises(TypeError, match="simulations must be a whole number, None, or a dict"):
        fit_amortized(linear(lang), y, simulations=1e4)


def test_draws_inside_of_a_region_are_those_of_the_prior_there():
    def draw(n, seed):
        z = np.random.default_rng(seed).normal(size=(n, 1))
        return z, {"y": z + 1}

    z, data = draw_inside(draw, lambda z: z[:, 0] > 1, 2_000, 0)
    assert z.shape == (2_000, 1)
    np.testing.assert_array_equal(data["y"], z + 1)
    assert stats.kstest(z[:, 0], stats.truncnorm(1, np.inf).cdf).pvalue > 1e-3
    with pytest.raises(ValueError, match="draws of the prior 0 are where the posterior is"):
        draw_inside(draw, lambda z: z[:, 0] > 9, 10, 0)


def test_a_regression_is_that_of_least_squares_and_shrinks_where_there_is_nothing():
    rng = np.random.default_rng(0)
    context, noise = rng.normal(size=(5_000, 3)), rng.normal(size=(5_000, 2)) @ np.array([[0.5, 0.0], [0.3, 0.1]])
    slope = np.array([[1.0, 0.0], [0.0, -2.0], [0.5, 0.5]])
    found = Regression.of(context @ slope + noise + 4, context)
    np.testing.assert_allclose(found.weights, slope, atol=0.05)
    np.testing.assert_allclose(found.offset, 4, atol=0.05)
    np.testing.assert_allclose(found.covariance, np.cov(noise.T), atol=0.02)
    few = Regression.of(rng.normal(size=(60, 2)), rng.normal(size=(60, 50)))
    assert np.abs(few.weights).max() < 0.1, "no signal: what least squares would find is noise"
    assert np.all(np.diag(few.covariance) > 0.5)


@pytest.mark.parametrize("dim", [2, 70])
def test_a_flow_starts_at_the_normal_around_its_regression(dim):
    rng = np.random.default_rng(0)
    context = rng.normal(size=(3_000, 2))
    z = context @ rng.normal(size=(2, dim)) + rng.normal(size=(3_000, dim)) * np.linspace(0.5, 2, dim)
    flow = pf.Elementwise(dim, pf.SinhArcsinh(), context_dim=2)
    bijection, params = posterior_start(flow, z, context, regression=True, seed=0)
    x, _ = bijection.inverse(params, z, context)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.1)
    np.testing.assert_allclose(x.std(0), 1, atol=0.1)
    plain, params = posterior_start(flow, z, context, regression=False, seed=0)
    assert not any("regression" in name for name, _ in flatten(params))
    np.testing.assert_allclose(plain.inverse(params, z, context)[0].std(0), 1, atol=0.1)


def test_a_loss_that_is_not_finite_is_never_the_best():
    best = BestParams(lambda p: p[0], pack=lambda p: p, unpack=lambda p, _: p)
    for loss, name in ((np.nan, "a"), (np.inf, "b")):
        best((loss, name))
        assert best.params[1] == name
        assert not best.stalled(0)
    for loss in (2.0, np.nan, 3.0):
        best((loss, "c" if loss == 2.0 else "d"))
    assert best.params[1] == "c"
    assert best.stalled(2)
    assert not best.stalled(3)


def test_the_best_parameters_may_be_the_first_ones():
    best = BestParams(float, pack=lambda p: p, unpack=lambda p, _: p, first=1.0)
    best(2.0)
    assert (best.params, best.losses) == (1.0, [1.0])
    best(0.5)
    assert (best.params, best.stalled(1)) == (0.5, False)
    best(0.7)
    assert best.stalled(1)
    assert not best.stalled(2)
