"""Guides of models of every kind of site, and NeuTra with them; in both languages alike."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
import pytest
import torch
from languages import (
    LANGUAGES,
    SHORT,
    STILL,
    assert_moved,
    correlated,
    identity_flow,
    numpyro_neutra,
    numpyro_start,
    small,
)
from scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.core.params import map_params


def every_kind(lang):
    """Bounded, positive, simplex, ordered and correlation sites, and nested plates; one datum in each."""
    dist, ppl, array = lang.dist, lang.ppl, lang.array

    def model():
        share = ppl.sample("share", dist.Beta(2.0, 3.0))
        ppl.sample("bounded", dist.Uniform(-2.0, 5.0))
        scale = ppl.sample("scale", dist.Gamma(2.0, 2.0))
        ppl.sample("simplex", dist.Dirichlet(array([2.0, 3.0, 4.0])))
        ppl.sample("corr", dist.LKJCholesky(3, 2.0))
        base = dist.Normal(array(np.zeros(3)), 1.0).to_event(1)
        ppl.sample("ordered", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()]))
        with ppl.plate("columns", 2, dim=-2):
            loc = ppl.sample("loc", dist.Normal(share, scale))
            with ppl.plate("rows", 2, dim=-1):
                row = ppl.sample("row", dist.Normal(loc, 1.0))
                ppl.sample("y", dist.Normal(row, 0.5), obs=array([[0.0, 1.0], [2.0, 3.0]]))

    return model


SHAPES = {
    "share": (),
    "bounded": (),
    "scale": (),
    "simplex": (3,),
    "corr": (3, 3),
    "ordered": (3,),
    "loc": (2, 1),
    "row": (2, 2),
}


def assert_in_support(draws, n):
    """Draws of the sites of ``every_kind``."""
    assert {name: np.shape(value) for name, value in draws.items()} == {name: (n, *SHAPES[name]) for name in draws}
    draws = {name: np.asarray(value) for name, value in draws.items()}
    assert np.all((draws["share"] > 0) & (draws["share"] < 1))
    assert np.all((draws["bounded"] > -2) & (draws["bounded"] < 5))
    assert np.all(draws["scale"] > 0)
    assert np.all(draws["simplex"] > 0)
    np.testing.assert_allclose(draws["simplex"].sum(-1), 1, rtol=1e-12)
    assert np.all(np.diff(draws["ordered"], axis=-1) > 0)
    l = draws["corr"]
    np.testing.assert_array_equal(l, np.tril(l))
    np.testing.assert_allclose((l**2).sum(-1), 1, rtol=1e-12)
    assert np.all(l[:, range(3), range(3)] > 0)


@cache
def every_kind_trained(lang):
    """Guide, its parameters before, and the result; once for several tests, as the host's set-up takes long."""
    model = every_kind(lang)
    guide = lang.AutoFlow(model, small, start="init")
    lang.set_up(guide)
    before = lang.parameters(guide)
    return guide, before, lang.fit(model, guide, **SHORT)


@pytest.mark.slow_in_numpyro
def test_a_model_of_every_kind_of_site_trains(lang):
    guide, before, result = every_kind_trained(lang)
    assert_moved(before, lang.parameters(guide, result))
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    assert result.skipped == 0
    draws = result.sample(50)
    assert set(draws) == set(SHAPES)
    assert_in_support(draws, 50)
    assert_in_support(result.reweighted(20), 20)


def bounded(lang):
    """Three bounded sites, and a plate with data."""
    dist, ppl, array = lang.dist, lang.ppl, lang.array

    def model():
        ppl.sample("share", dist.Beta(2.0, 3.0))
        scale = ppl.sample("scale", dist.Gamma(2.0, 2.0))
        ppl.sample("simplex", dist.Dirichlet(array([2.0, 3.0, 4.0])))
        with ppl.plate("rows", 3):
            row = ppl.sample("row", dist.Normal(0.0, scale))
            ppl.sample("y", dist.Normal(row, 0.5), obs=array([0.0, 1.0, 4.0]))

    return model


@pytest.mark.slow_in_numpyro
def test_bounded_sites_have_a_gaussian_to_start_at(lang):
    guide = lang.AutoFlow(bounded(lang), identity_flow)
    result = lang.fit(bounded(lang), guide, **STILL)
    assert guide.start == "full_rank"
    assert result.ess > 0.3, "unconstrained, the posterior is no Gaussian, but unimodal with light tails"


@pytest.mark.slow_in_numpyro
def test_flows_and_the_hosts_guides_share_a_list(lang):
    hide, model = lang.hide, bounded(lang)
    guide = lang.autoguide.AutoGuideList(model)
    guide.append(lang.AutoFlow(hide(model, ["share", "simplex"]), small, start="init"))
    guide.append(lang.autoguide.AutoDelta(hide(model, ["scale", "row", "share"])))
    guide.append(lang.autoguide.AutoNormal(hide(model, ["scale", "row", "simplex"])))
    lang.set_up(guide)
    before = lang.parameters(guide)
    assert len(before) > 3, "one of AutoDelta, two of AutoNormal, and those of the flow"
    result = lang.fit(model, guide, **(SHORT | {"lr": 2e-2}))
    assert_moved(before, lang.parameters(guide, result))
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    draws = result.sample(10)
    assert {name: np.shape(v) for name, v in draws.items()} == {
        "share": (10,),
        "scale": (10,),
        "simplex": (10, 3),
        "row": (10, 3),
    }


# --- discrete latents, which the host enumerates


ENUMERATED = np.array([-2.3, -1.6, -2.0, -1.4, 2.2, 1.5])


def mixture(lang):
    """Each datum belongs to a component of unknown location, or to one at 2."""
    dist, ppl, array = lang.dist, lang.ppl, lang.array

    def model():
        loc = ppl.sample("loc", dist.Normal(array(0.0), 2.0))
        with ppl.plate("rows", 6):
            k = ppl.sample("k", dist.Categorical(array([0.3, 0.7])), infer={"enumerate": "parallel"})
            ppl.sample("y", dist.Normal(lang.xp.where(k == 0, loc, array(2.0)), 0.8), obs=array(ENUMERATED))

    return model


def mixture_log_evidence():
    loc = np.linspace(-15, 15, 20_001)
    log_joint = stats.norm(0, 2).logpdf(loc)
    for y in ENUMERATED:
        log_joint += np.logaddexp(
            np.log(0.3) + stats.norm(loc, 0.8).logpdf(y), np.log(0.7) + stats.norm(2, 0.8).logpdf(y)
        )
    return np.log(np.trapezoid(np.exp(log_joint), loc))


@pytest.mark.slow
@pytest.mark.slow_in_numpyro
def test_fit_sums_over_enumerated_sites(lang):
    init = lang.init_to({"loc": lang.array(-0.5)})
    guide = lang.AutoFlow(lang.hide(mixture(lang), ["k"]), identity_flow, init_loc_fn=init, init_scale=0.5)
    lang.set_up(guide)
    assert guide.start == "init", "a log density with draws in it is no function"
    before = lang.parameters(guide)
    result = lang.fit(mixture(lang), guide, **(SHORT | {"steps": 150, "lr": 3e-2}))
    assert_moved(before, lang.parameters(guide, result))
    assert result.losses[-20:].mean() < result.losses[:5].mean() - 1
    kl = mixture_log_evidence() - result.elbo.mean
    # one draw of each k instead of the sum loses E log p(k | loc, y), some nats
    assert -4 * result.elbo.se < kl < 0.1
    assert result.ess > 0.8
    assert set(result.reweighted(10)) == {"loc"}


@pytest.mark.slow
def test_a_guide_leaves_out_enumerated_sites_and_starts_at_their_sum(lang):
    guide = lang.AutoFlow(mixture(lang), identity_flow)
    result = lang.fit(mixture(lang), guide, **STILL, draws=500)
    assert guide.start == "full_rank"
    assert abs(mixture_log_evidence() - result.elbo.mean) < 4 * result.elbo.se + 0.02
    assert set(result.sample(10)) == {"loc"}


@pytest.mark.slow
@pytest.mark.slow_in_numpyro
def test_enumerated_sites_are_drawn_given_the_draws_of_the_guide(lang):
    """Against their exact conditional; at data between the components, where that is not 0 or 1."""
    data = np.array([-1.0, 0.5, 1.0])

    def model():
        dist, ppl, array = lang.dist, lang.ppl, lang.array
        loc = ppl.sample("loc", dist.Normal(array(-1.0), 0.5))
        with ppl.plate("rows", 3):
            k = ppl.sample("k", dist.Categorical(array([0.3, 0.7])), infer={"enumerate": "parallel"})
            ppl.sample("y", dist.Normal(lang.xp.where(k == 0, loc, array(2.0)), 1.0), obs=array(data))

    n = 2_000
    guide = lang.AutoFlow(model, identity_flow)
    result = lang.fit(model, guide, **(STILL | {"num_particles": 500}), draws=500)
    draws = {name: np.asarray(value) for name, value in result.infer_discrete(n).items()}
    assert {name: value.shape for name, value in draws.items()} == {"loc": (n,), "k": (n, 3)}
    np.testing.assert_array_equal(draws["loc"], np.asarray(result.sample(n)["loc"]))
    first = 0.3 * stats.norm(draws["loc"][:, None], 1.0).pdf(data)
    share = first / (first + 0.7 * stats.norm(2.0, 1.0).pdf(data))  # of component 0, given loc
    off = (draws["k"] == 0) - share
    error = np.sqrt((share * (1 - share)).sum(0))
    assert np.all(np.abs(off.sum(0)) < 4 * error)
    # rows belong together: the same share does not explain other rows' draws
    moved = np.abs((off * (share - share.mean(0))).sum(0)) / np.sqrt(
        (share * (1 - share) * (share - share.mean(0)) ** 2).sum(0)
    )
    assert np.all(moved < 4)


def test_pyro_draws_enumerated_sites_of_models_that_do_not_vectorise():
    lang = LANGUAGES["pyro"]

    def model():
        loc = lang.ppl.sample("loc", lang.dist.Normal(0.0, 1.0))
        float(loc.detach())  # of one draw only
        k = lang.ppl.sample("k", lang.dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        lang.ppl.sample("y", lang.dist.Normal(loc + 4 * k, 1.0), obs=torch.tensor(4.0))

    guide = lang.AutoFlow(model, identity_flow, start="init")
    result = lang.fit(model, guide, vectorize_particles=False, **(STILL | {"num_particles": 2}), draws=20)
    assert result.infer_discrete(50)["k"].mean() > 0.8


def test_discrete_latents_that_no_one_sums_over_are_errors_that_say_what_to_do(lang):
    def model(fn, infer=None):
        k = lang.ppl.sample("k", fn, infer=infer)
        lang.ppl.sample("z", lang.dist.Normal(k + lang.array(0.0), 1.0))

    with pytest.raises(ValueError, match=r'discrete latent .k.; mark it infer={"enumerate": "parallel"}'):
        lang.set_up(lang.AutoFlow(model, small), lang.dist.Bernoulli(lang.array(0.5)))
    with pytest.raises(ValueError, match="discrete latent 'k'; it has too many values to sum over"):
        lang.set_up(lang.AutoFlow(model, small), lang.dist.Poisson(lang.array(0.5)))
    result = lang.fit(correlated(lang), lang.AutoFlow(correlated(lang), identity_flow), **STILL, draws=100)
    with pytest.raises(ValueError, match="infer_discrete: the model has no latent that is marked"):
        result.infer_discrete(3)


@pytest.mark.slow_in_numpyro
def test_a_local_guide_leaves_out_enumerated_sites(lang):
    def model():
        dist, ppl, array = lang.dist, lang.ppl, lang.array
        with ppl.plate("rows", 3):
            z = ppl.sample("z", dist.Normal(array(0.0), 1.0))
            k = ppl.sample("k", dist.Bernoulli(array(0.5)), infer={"enumerate": "parallel"})
            ppl.sample("y", dist.Normal(z + k, 1.0), obs=array([0.0, 1.0, 2.0]))

    shell = ppl_flows.pyro if lang is LANGUAGES["pyro"] else ppl_flows.numpyro
    guide = shell.AutoLocalFlow(
        model, "rows", local_flow=lambda dim, context_dim: pf.maf(dim, flow_layers=1, context_dim=context_dim)
    )
    lang.set_up(guide)
    assert guide.start == "full_rank"


# --- NeuTra


@pytest.mark.slow_in_numpyro
def test_the_reparametrised_log_density_is_the_models_and_the_maps(lang):
    model = every_kind(lang)
    guide, _, result = every_kind_trained(lang)
    log_joint, to_sites = lang.neutra(guide, result, model)
    transform = lang.transform(guide, result)
    # the map's log det from NumPy, so that nothing of the host is on both sides
    params = map_params(lambda _, a: np.asarray(a.detach() if hasattr(a, "detach") else a), transform.params)
    for z in np.random.default_rng(0).standard_normal((3, guide.latent_dim)):
        reparametrised = log_joint(lang.array(z)).item()
        sites = to_sites(lang.array(z))
        x, log_det = transform.bijection.forward(params, z)
        outer = lang.unconstrained(model, sites)
        flat = np.concatenate([np.ravel(np.asarray(u)) for u, _ in outer.values()])
        np.testing.assert_allclose(np.sort(flat), np.sort(x), rtol=1e-6, atol=1e-8)
        expected = lang.log_joint(model, sites) + sum(d for _, d in outer.values()) + log_det
        assert reparametrised == pytest.approx(float(expected), rel=1e-8)


def test_a_log_density_of_pyros_neutra_is_one_pass(monkeypatch, float64):
    lang = LANGUAGES["pyro"]
    guide = lang.AutoFlow(correlated(lang), lambda d: pf.real_nvp(d, flow_layers=3, hidden=(8,)), start="init")
    lang.set_up(guide)
    log_joint, _ = lang.neutra(guide, None, correlated(lang))
    passes = []
    original = pf.Coupling._apply
    monkeypatch.setattr(pf.Coupling, "_apply", lambda *args: passes.append(1) or original(*args))
    log_joint(torch.randn(2, requires_grad=True)).backward()
    assert len(passes) == 3


@pytest.mark.parametrize("recipe", [None, lambda d: pf.real_nvp(d, flow_layers=2)], ids=["default", "real_nvp"])
def test_a_log_density_of_numpyros_neutra_is_one_pass(recipe):
    dim = 20

    def model():
        numpyro.sample("z", numpyro.distributions.Normal(jnp.zeros(dim), 1.0).to_event(1))

    guide = ppl_flows.numpyro.AutoFlow(model, recipe, start="init")
    start = numpyro_start(guide)
    log_joint, _ = numpyro_neutra(guide, None, model)
    transform = guide.get_transform(start)

    def one_pass(z):
        y, log_det = transform.call_with_intermediates(z)
        return jnp.sum(y**2) + log_det

    def flops(f):
        return jax.jit(f).lower(jnp.ones(dim)).compile().cost_analysis()["flops"]

    # the model's own density is small beside a network; forward modes alone give 1 and 2, gradients 1 and 1.5
    assert flops(log_joint) < 1.2 * flops(one_pass)
    assert flops(jax.grad(log_joint)) < 1.3 * flops(jax.grad(one_pass))
