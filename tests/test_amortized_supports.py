"""Amortised posteriors of latents on every support, alone and together, in both languages and both precisions."""

from __future__ import annotations

import jax
import numpy as np
import pyro
import pytest
import torch
from languages import LANGUAGES
from scipy import special, stats

import ppl_flows as pf
from ppl_flows.inference.amortized import interval_scores, region_above
from ppl_flows.inference.normal_scores import NormalToLogistic
from ppl_flows.inference.simulation_checks import check_supports, finite_rows


def priors(lang):
    """Distribution and whether a draw, a NumPy array, is in its support, by name of a site."""
    dist, array = lang.dist, lang.array

    def increasing():
        base = dist.Normal(array(np.zeros(3)), array(np.ones(3))).to_event(1)
        return dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()])

    return {
        "interval": (lambda: dist.Uniform(array(-1.0), array(2.0)), lambda v: (v >= -1) & (v <= 2)),
        "unit": (lambda: dist.Beta(array([0.5, 2.0]), array([0.5, 2.0])).to_event(1), lambda v: (v >= 0) & (v <= 1)),
        "positive": (lambda: dist.Gamma(array(0.3), array(1.0)), lambda v: v >= 0),
        "greater": (lambda: dist.Pareto(array(2.0), array(3.0)), lambda v: v >= 2),
        "simplex": (
            lambda: dist.Dirichlet(array(np.ones(4))),
            lambda v: (v >= 0) & np.isclose(v.sum(-1), 1)[..., None],
        ),
        "circular": (lambda: dist.VonMises(array(0.0), array(0.5)), np.isfinite),  # in Pyro its support is all reals
        "ordered": (increasing, lambda v: np.diff(v) >= 0),
        "cholesky": (
            lambda: dist.LKJCholesky(3, array(1.0)),
            lambda v: np.isclose((v**2).sum(-1), 1, atol=1e-4) & (np.triu(v, 1) == 0).all((-1, -2))[..., None],
        ),
        "real": (lambda: dist.StudentT(array(3.0), array(np.zeros(2)), array(np.ones(2))).to_event(1), np.isfinite),
    }


def model_of(lang, sites):
    """Latents of these names, one more of each row of a plate, and data that all of them move a little."""
    made = priors(lang)

    def model(y):
        total = 0.0
        for name in sites:
            value = lang.ppl.sample(name, made[name][0]())
            depth = len(made[name][0]().event_shape)
            total = total + (value.sum(tuple(range(-depth, 0))) if depth else value)
        with lang.ppl.plate("rows", 2):
            local = lang.ppl.sample("local", lang.dist.Uniform(lang.array(0.0), lang.array(1.0)))
            lang.ppl.sample("y", lang.dist.Normal(total + local, lang.array(1.0)), obs=y)

    return model


def one_layer(dim, *, context_dim):
    return pf.Elementwise(dim, pf.Affine(), context_dim=context_dim, conditioner=pf.MLP((8,)))


def check_draws(lang, sites):
    shell = __import__(f"ppl_flows.{lang.ppl.__name__}", fromlist=["fit_amortized"])
    y = lang.array([0.5, 1.0])
    options = {"flow": one_layer, "simulations": 400, "batch_size": 64, "steps": 40, "lr": 5e-3, "progress": False}
    fit = shell.fit_amortized(model_of(lang, sites), y, **options)
    assert np.isfinite(fit.density.losses).all()
    assert fit.density.skipped == 0
    draws = {name: np.asarray(value) for name, value in fit.sample(300, y).items()}
    assert draws.keys() == {*sites, "local"}
    assert draws["local"].shape == (300, 2)
    for name in sites:
        assert np.isfinite(draws[name]).all(), name
        assert np.all(priors(lang)[name][1](draws[name])), name
        assert draws[name].dtype == np.asarray(y).dtype
        assert draws[name].std(0).max() > 1e-3, name


def in_precision(language, precision):
    """The language with arrays of this dtype, as its default."""
    lang = LANGUAGES[language]
    if language == "pyro":
        return lang._replace(array=lambda a: torch.as_tensor(np.asarray(a), dtype=torch.get_default_dtype()))
    return lang._replace(array=lambda a: jax.numpy.asarray(a, dtype=precision))


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """Default of both languages during the test."""
    torch.set_default_dtype(getattr(torch, request.param))
    with jax.enable_x64(request.param == "float64"):
        yield request.param
    torch.set_default_dtype(torch.float32)


def test_latents_of_all_supports_together_are_amortised(precision):
    pyro.set_rng_seed(0)
    lang = in_precision("pyro", precision)
    check_draws(lang, [*priors(lang)])


@pytest.mark.long
def test_latents_of_all_supports_together_are_amortised_in_numpyro(precision):
    lang = in_precision("numpyro", precision)
    check_draws(lang, [*priors(lang)])


@pytest.mark.long
@pytest.mark.parametrize("site", priors(LANGUAGES["pyro"]))
@pytest.mark.parametrize("language", LANGUAGES)
def test_latents_of_every_support_are_amortised(language, site, precision):
    check_draws(in_precision(language, precision), [site])


@pytest.mark.slow_in_numpyro
def test_a_support_that_depends_on_a_latent_is_an_error(lang):
    shell = __import__(f"ppl_flows.{lang.ppl.__name__}", fromlist=["fit_amortized"])

    def model(y):
        most = lang.ppl.sample("most", lang.dist.Gamma(lang.array(2.0), lang.array(1.0)))
        z = lang.ppl.sample("z", lang.dist.Uniform(0.0 * most, most))
        lang.ppl.sample("y", lang.dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ValueError, match="the support of site 'z' depends on other latents"):
        shell.fit_amortized(model, lang.array(0.0), simulations=200, progress=False)


def test_a_uniform_prior_is_a_standard_normal_in_its_scores():
    u = np.random.default_rng(0).uniform(size=(4_000, 2))
    layer = NormalToLogistic(2)
    scores, log_det = layer.inverse({}, special.logit(u))
    assert stats.kstest(scores.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_allclose(scores, special.ndtri(u), atol=1e-12)
    far = np.array([[-40.0, 25.0], [0.0, 1e-8]])
    y, forward = layer.forward({}, far)
    back, inverse = layer.inverse({}, y)
    np.testing.assert_allclose(back, far, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(forward, -inverse, rtol=1e-12)
    slope = (layer.forward({}, far + 1e-6)[0] - layer.forward({}, far - 1e-6)[0]) / 2e-6
    np.testing.assert_allclose(np.log(slope).sum(-1), forward, rtol=1e-6)  # the error of differences
    assert interval_scores([False, False]) is None
    assert interval_scores([True, False, True]).forward({}, np.ones((1, 3)))[0][0, 1] == 1.0
    assert log_det.shape == (4_000,)


def test_few_simulations_on_the_edge_of_a_support_are_left_out_and_others_are_errors():
    z, data = np.zeros((1_000, 2)), {"y": np.arange(1_000.0)}
    z[3, 1] = np.inf
    kept, rest = finite_rows(z, data)
    assert len(kept) == len(rest["y"]) == 999
    assert 3.0 not in rest["y"]
    z[:100] = -np.inf
    with pytest.raises(ValueError, match="100 of 1000 simulations are not finite"):
        finite_rows(z, data)
    with pytest.raises(ValueError, match="1 of 1000 simulations are not finite"):
        finite_rows(np.zeros((1_000, 2)), {"y": np.where(np.arange(1_000) == 5, np.nan, 0.0)})
    with pytest.raises(ValueError, match="depends on other latents"):
        check_supports({"z": np.array([0.1, 0.2])}, {"z": np.array([0.1, 0.3])})


def test_a_region_leaves_out_a_small_share_of_a_density():
    draws = np.random.default_rng(0).normal(size=100_000)
    inside = region_above(lambda z: -0.5 * z**2, -0.5 * draws**2)
    assert inside(np.array([0.0, 3.0, -3.0])).all()
    assert not inside(np.array([4.5, -5.0])).any()
