"""``AutoFlow`` and ``fit``: what must hold in both languages alike."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
import numpyro.infer.autoguide
import pyro
import pyro.distributions
import pyro.infer.autoguide
import pytest
import torch
from jax import random
from numpyro import handlers
from numpyro.infer.reparam import NeuTraReparam as NumPyroNeuTra
from numpyro.infer.util import log_density
from pyro import poutine
from pyro.infer.reparam import NeuTraReparam as PyroNeuTra
from scipy import stats
from torch.distributions import biject_to as pyro_biject_to

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.params import flatten, map_params
from ppl_flows.inference.auto_flow import QUALITIES, Quality, budget
from ppl_flows.inference.gradient_estimators import path_gradients
from ppl_flows.inference.schedule import converged, learning_rate

MEAN = np.array([3.0, -3.0])
COVARIANCE = np.array([[1.0, 0.9], [0.9, 1.0]])
SHORT = {"steps": 100, "num_particles": 8, "draws": 500, "progress": False}
STILL = {"steps": 1, "lr": 1e-12, "num_particles": 50, "progress": False}  # measures a guide as it starts


def small(dim):
    """A flow that compiles fast, and starts near the identity."""
    return pf.iaf(dim, flow_layers=1, hidden=(8, 8))


def identity(dim):
    """A flow that starts at the identity."""
    return pf.Elementwise(dim, pf.SinhArcsinh())


# --- the languages


class Language(NamedTuple):
    """What the twins have under other names."""

    ppl: Any  # sample, plate, factor, deterministic
    dist: Any
    xp: Any
    array: Callable
    AutoFlow: Callable
    fit: Callable
    flow: Callable
    autoguide: Any
    hide: Callable  # (model, sites): the model without these sites
    init_to: Callable  # values by site: an init_loc_fn
    set_up: Callable  # (guide, *args): runs it once
    parameters: Callable  # (guide, result or None): {name: NumPy array}, trained, or as they start
    posterior_draws: Callable  # (guide, n): of the latent vector, as the guide starts
    transform: Callable  # (guide, result)
    gradients: Callable  # of the loss; see the functions
    set_params: Callable  # (guide, f): the guide's parameters, nested, through f; what ``gradients`` takes
    log_joint: Callable  # (model, values): log density of the model and its latents, in nats
    unconstrained: Callable  # (model, values): {site: (unconstrained value, log det of the site's own map)}
    neutra: Callable  # (guide, result, model): log density of a latent vector, and the map to sites


def pyro_parameters(guide, result=None):
    return {name: p.detach().clone().numpy() for name, p in guide.named_parameters()}


def pyro_gradients(model, guide, _, estimator, *, repeats, particles):
    """``(repeats, n)``: of the loss with so many particles, for all parameters of the guide."""
    elbo = pyro.infer.Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=0)
    rows = []
    for _ in range(repeats):

        def on_path():
            with path_gradients(estimator == "path"):
                return guide()

        guide.zero_grad()
        elbo.loss_and_grads(model, on_path)
        rows.append(np.concatenate([p.grad.numpy().ravel() for p in guide.parameters()]))
    return np.stack(rows)


def pyro_set_params(guide, f):
    with torch.no_grad():
        new = dict(flatten(f(map_params(lambda _, a: a.detach().numpy().copy(), guide.transform.params))))
        for path, p in flatten(guide.transform.params):
            p.copy_(torch.as_tensor(new[path]))


def pyro_log_joint(model, values):
    with torch.no_grad():
        return poutine.trace(poutine.condition(model, data=values)).get_trace().log_prob_sum().item()


def pyro_neutra(guide, _, model):
    neutra = PyroNeuTra(guide)
    reparametrised = neutra.reparam(model)
    name = f"{next(iter(guide.prototype_trace.stochastic_nodes))}_shared_latent"

    def log_joint(z):
        return poutine.trace(poutine.condition(reparametrised, data={name: z})).get_trace().log_prob_sum()

    return log_joint, torch.no_grad()(neutra.transform_sample)


def pyro_unconstrained(model, values):
    nodes = poutine.trace(poutine.condition(model, data=values)).get_trace().nodes
    maps = {name: pyro_biject_to(nodes[name]["fn"].support) for name in values}
    found = {}
    for name, value in values.items():
        u = maps[name].inv(value)
        found[name] = u, float(maps[name].log_abs_det_jacobian(u, value).sum())
    return found


def numpyro_start(guide):
    trace = handlers.trace(handlers.seed(guide, 0)).get_trace()
    return {name: site["value"] for name, site in trace.items() if site["type"] == "param"}


def numpyro_parameters(guide, result=None):
    leaves = jax.tree_util.tree_leaves_with_path(numpyro_start(guide) if result is None else result.params)
    # the last, fixed map is state: in the site, but not trained
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves if "'state'" not in str(path)}


def numpyro_gradients(model, guide, params, estimator, *, repeats, particles):
    """As in Pyro; ``params`` as ``set_params`` gave them."""

    def on_path():
        with path_gradients(estimator == "path"):
            return guide()

    elbo = numpyro.infer.Trace_ELBO(num_particles=particles)
    one = jax.grad(lambda p, key: elbo.loss(key, p, model, on_path))
    run = jax.jit(lambda keys: jax.lax.map(partial(one, params), keys))
    rows = run(random.split(random.key(1), repeats))
    return np.concatenate([np.asarray(leaf).reshape(repeats, -1) for leaf in jax.tree.leaves(rows)], axis=1)


def numpyro_neutra(guide, result, model):
    neutra = NumPyroNeuTra(guide, numpyro_start(guide) if result is None else result.params)
    reparametrised = handlers.seed(neutra.reparam(model), 0)
    name = f"{guide.prefix}_shared_latent"
    return lambda z: log_density(reparametrised, (), {}, {name: z})[0], neutra.transform_sample


def numpyro_unconstrained(model, values):
    trace = handlers.trace(handlers.seed(handlers.substitute(model, values), 0)).get_trace()
    found = {}
    for name, value in values.items():
        t = numpyro.distributions.biject_to(trace[name]["fn"].support)
        u = t.inv(value)
        found[name] = u, float(jnp.sum(t.log_abs_det_jacobian(u, value)))
    return found


def numpyro_guide_draws(guide, n):
    params = numpyro_start(guide)
    return np.asarray(jax.jit(lambda key: guide.get_posterior(params).sample(key, (n,)))(random.key(0)))


def pyro_guide_draws(guide, n):
    guide()
    return guide.get_posterior().sample((n,)).numpy()


LANGUAGES = {
    "pyro": Language(
        ppl=pyro,
        dist=pyro.distributions,
        xp=torch,
        array=lambda a: torch.as_tensor(np.asarray(a), dtype=torch.get_default_dtype()),
        AutoFlow=ppl_flows.pyro.AutoFlow,
        fit=ppl_flows.pyro.fit,
        flow=ppl_flows.pyro.flow,
        autoguide=pyro.infer.autoguide,
        hide=lambda model, sites: poutine.block(model, hide=sites),
        init_to=lambda values: pyro.infer.autoguide.initialization.init_to_value(values=values),
        set_up=lambda guide, *args: guide(*args),
        parameters=pyro_parameters,
        posterior_draws=pyro_guide_draws,
        transform=lambda guide, _: guide.get_transform(),
        gradients=pyro_gradients,
        set_params=pyro_set_params,
        log_joint=pyro_log_joint,
        unconstrained=pyro_unconstrained,
        neutra=pyro_neutra,
    ),
    "numpyro": Language(
        ppl=numpyro,
        dist=numpyro.distributions,
        xp=jnp,
        array=lambda a: jnp.asarray(a, dtype=float),
        AutoFlow=ppl_flows.numpyro.AutoFlow,
        fit=ppl_flows.numpyro.fit,
        flow=ppl_flows.numpyro.flow,
        autoguide=numpyro.infer.autoguide,
        hide=lambda model, sites: handlers.block(model, hide=sites),
        init_to=lambda values: numpyro.infer.initialization.init_to_value(values=values),
        set_up=lambda guide, *args: handlers.seed(guide, 0)(*args),
        parameters=numpyro_parameters,
        posterior_draws=numpyro_guide_draws,
        transform=lambda guide, result: guide.get_transform(numpyro_start(guide) if result is None else result.params),
        gradients=numpyro_gradients,
        set_params=lambda guide, f: {k: f(v) for k, v in numpyro_start(guide).items()},
        log_joint=lambda model, values: float(log_density(handlers.seed(model, 0), (), {}, values)[0]),
        unconstrained=numpyro_unconstrained,
        neutra=numpyro_neutra,
    ),
}


@pytest.fixture(params=LANGUAGES)
def lang(request, float64):
    """One language after the other, in float64."""
    return LANGUAGES[request.param]


def correlated(lang):
    """A model without data, log evidence 0, whose posterior no mean field has."""

    def model():
        lang.ppl.sample("z", lang.dist.MultivariateNormal(lang.array(MEAN), lang.array(COVARIANCE)))

    return model


def normal(lang, loc=0.0, scale=1.0):
    def model():
        lang.ppl.sample("z", lang.dist.Normal(lang.array(loc), lang.array(scale)))

    return model


def sub_sampled(lang):
    data = lang.array(np.random.default_rng(0).standard_normal(50))

    def model():
        mu = lang.ppl.sample("mu", lang.dist.Normal(0.0, 1.0))
        with lang.ppl.plate("rows", 50, subsample_size=5) as rows:
            lang.ppl.sample("y", lang.dist.Normal(mu, 1.0), obs=data[rows])

    return model


class Regression:
    """Normal prior and noise, so that evidence and posterior are known; columns nearly collinear, of other units."""

    def __init__(self, lang):
        rng = np.random.default_rng(0)
        first = rng.standard_normal(40)
        x = np.stack([first, first + 1e-3 * rng.standard_normal(40), rng.standard_normal(40)], axis=1)
        self.x = x * np.array([1.0, 1.0, 300.0])
        self.y = self.x @ np.array([1.0, -0.5, 0.01]) + rng.standard_normal(40)
        self.lang, self.prior = lang, 10.0

    def model(self):
        dist, ppl, array = self.lang.dist, self.lang.ppl, self.lang.array
        w = ppl.sample("w", dist.Normal(array(np.zeros(3)), self.prior).to_event(1))
        mean = (array(self.x) * w).sum(-1)  # under vectorised particles w has shape (particles, 1, 3)
        with ppl.plate("rows", 40):
            ppl.sample("y", dist.Normal(mean, 1.0), obs=array(self.y))

    @property
    def covariance(self):
        return np.linalg.inv(self.x.T @ self.x + np.eye(3) / self.prior**2)

    @property
    def log_evidence(self):
        covariance = np.eye(40) + self.prior**2 * self.x @ self.x.T
        solved = np.linalg.solve(covariance, self.y)
        return -0.5 * (40 * np.log(2 * np.pi) + np.linalg.slogdet(covariance)[1] + self.y @ solved)


def assert_moved(before, after):
    assert before.keys() == after.keys()
    assert len(before) > 0
    still = [name for name in before if np.array_equal(before[name], after[name])]
    assert not still, f"{still} did not train"


# --- the gradient of the path


def at_the_posterior(lang):
    """A guide whose affine map is the posterior of ``correlated``, after a flow that is the identity."""
    guide = lang.AutoFlow(correlated(lang), small, start="init")
    lang.set_up(guide)
    l = np.linalg.cholesky(COVARIANCE)
    log_factor = np.tril(l, -1) + np.diag(np.log(np.diag(l)))

    def exact(params):
        # networks of zeros: the identity
        zeros = map_params(lambda _, a: lang.array(np.zeros(np.shape(a))), params["0"])
        return {**params, "0": zeros, "1": {"l": lang.array(log_factor), "b": lang.array(MEAN)}}

    return guide, lang.set_params(guide, exact)


def test_at_the_exact_posterior_the_path_gradient_is_zero_for_every_draw(lang):
    guide, params = at_the_posterior(lang)
    path = lang.gradients(correlated(lang), guide, params, "path", repeats=5, particles=1)
    np.testing.assert_allclose(path, 0, atol=1e-9)  # float64: rounding of scores of size 10
    reparam = lang.gradients(correlated(lang), guide, params, "reparam", repeats=5, particles=1)
    assert np.abs(reparam).max() > 0.1, "the noise that the path gradient is free of"


def test_path_and_ordinary_gradients_have_the_same_mean(lang):
    guide = lang.AutoFlow(correlated(lang), small, start="init", init_scale=1.0)
    lang.set_up(guide)
    rng = np.random.default_rng(0)
    noisy = partial(map_params, lambda _, a: lang.array(np.asarray(a) + 0.2 * rng.standard_normal(np.shape(a))))
    params = lang.set_params(guide, noisy)
    path, reparam = (
        lang.gradients(correlated(lang), guide, params, estimator, repeats=30, particles=200)
        for estimator in ("path", "reparam")
    )
    se = np.sqrt((path.var(0, ddof=1) + reparam.var(0, ddof=1)) / 30)
    moving = se > 0  # masked weights have no gradient
    assert moving.sum() > 20
    t = (path.mean(0) - reparam.mean(0))[moving] / se[moving]
    assert np.abs(t).max() < 5, "standard errors"
    assert np.abs(path.mean(0)[moving] / se[moving]).max() > 10, "a mean that is not just noise"


def test_a_flow_in_the_model_trains_beside_a_guide_on_the_path(lang):
    prior = pf.real_nvp(2, flow_layers=2, hidden=(8,))

    def model():
        z = lang.ppl.sample("z", lang.flow("prior", prior))
        lang.ppl.sample("y", lang.dist.Normal(z, 0.5).to_event(1), obs=lang.array([2.0, -2.0]))

    result = lang.fit(model, lang.AutoFlow(model, identity, start="init"), estimator="path", **SHORT)
    trained = dict(flatten(result.params["prior"])) if lang.ppl is numpyro else result.params
    for path, start in flatten(initial_params(prior, 0)):
        after = trained[path] if lang.ppl is numpyro else trained[f"prior.{path}"]
        assert not np.array_equal(np.asarray(after), np.asarray(start)), f"{path} did not train"
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 1


# --- where a guide starts


def test_a_badly_scaled_and_collinear_posterior_is_found_in_few_steps(lang):
    target = Regression(lang)
    assert np.linalg.cond(target.covariance) > 1e8
    guide = lang.AutoFlow(target.model, identity)
    result = lang.fit(target.model, guide, steps=20, num_particles=16, draws=2_000, progress=False)
    assert guide.start == "full_rank"
    assert target.log_evidence - result.elbo.mean < 0.01
    assert result.elbo.mean - target.log_evidence < max(4 * result.elbo.se, 1e-6)
    assert result.verdict.startswith("good")


def test_a_sub_sampled_likelihood_has_no_gaussian_to_start_at(lang):
    guide = lang.AutoFlow(sub_sampled(lang), small)
    lang.set_up(guide)
    assert guide.start == "init"
    for start in ("full_rank", "mean_field", "laplace"):
        with pytest.raises(ValueError, match=f"start='{start}' is not possible: the likelihood is sub-sampled"):
            lang.set_up(lang.AutoFlow(sub_sampled(lang), small, start=start))


def test_sites_hidden_from_the_guide_leave_no_gaussian_to_start_at(lang):
    def model():
        a = lang.ppl.sample("a", lang.dist.Normal(0.0, 10.0))
        b = lang.ppl.sample("b", lang.dist.Normal(0.0, 10.0))
        lang.ppl.sample("y", lang.dist.Normal(a + b, 0.1), obs=lang.array(0.0))

    guide = lang.AutoFlow(lang.hide(model, ["b"]), small)
    lang.set_up(guide)
    assert guide.start == "init", "given one draw of b, a is sharp, and far from where it belongs"


@pytest.mark.parametrize("start", ["auto", "full_rank", "mean_field", "laplace", "draws", "init"])
def test_every_start_puts_the_guide_where_it_says(lang, start):
    draws = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, size=400)
    given = {"z": lang.array(draws)} if start == "draws" else start
    init = lang.init_to({"z": lang.array(MEAN - 1)})
    guide = lang.AutoFlow(correlated(lang), small, start=given, init_loc_fn=init, init_scale=0.5)
    z = lang.posterior_draws(guide, 4_000)
    assert guide.start == {"auto": "full_rank"}.get(start, start)
    covariance = {
        "draws": np.cov(draws.T),
        "init": 0.25 * np.eye(2),
        # the best Gaussian with independent coordinates has the precision's diagonal
        "mean_field": np.diag(1 / np.diag(np.linalg.inv(COVARIANCE))),
    }.get(start, COVARIANCE)
    mean = {"draws": draws.mean(0), "init": MEAN - 1}.get(start, MEAN)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.1)  # 4,000 draws: 5 standard errors are 0.08
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.12)


def test_draws_to_start_from_may_be_of_bounded_sites(lang):
    def model():
        lang.ppl.sample("scale", lang.dist.Gamma(2.0, 2.0))
        lang.ppl.sample("share", lang.dist.Dirichlet(lang.array(np.ones(3))))

    rng = np.random.default_rng(0)
    draws = {"scale": lang.array(rng.gamma(2.0, 0.5, 300)), "share": lang.array(rng.dirichlet(np.ones(3), 300))}
    guide = lang.AutoFlow(model, small, start=draws)
    z = lang.posterior_draws(guide, 4_000)
    log_scale = np.log(np.asarray(draws["scale"]))
    assert z.shape == (4_000, 3)
    assert z[:, 0].mean() == pytest.approx(log_scale.mean(), abs=5 * log_scale.std() / 4_000**0.5)
    assert z[:, 0].std() == pytest.approx(log_scale.std(), rel=0.1)


def test_initial_values_that_the_model_rejects_are_replaced(lang):
    def model(bias=0.0):
        a = lang.ppl.sample("a", lang.dist.Normal(lang.array(0.0), 1.0))
        share = lang.xp.exp(a) / (1 + lang.xp.exp(a))  # nan far out
        lang.ppl.sample("y", lang.dist.Bernoulli(share + bias), obs=lang.array(1.0))

    far = lang.init_to({"a": lang.array(1e4)})
    guide = lang.AutoFlow(model, identity, init_loc_fn=far)
    draws = lang.posterior_draws(guide, 4_000)
    assert guide.start == "full_rank"
    # the mean is 0.413, of the prior times the logistic function; the Gaussian's a little off
    np.testing.assert_allclose(draws.mean(), 0.413, atol=0.1)
    with pytest.raises(ValueError, match="Bernoulli"):
        lang.set_up(lang.AutoFlow(model, identity, init_loc_fn=far), np.nan)


def test_options_that_the_guide_does_not_have_are_errors_that_name_those_it_has(lang):
    with pytest.raises(ValueError, match="start must be one of auto, full_rank, mean_field, laplace, init, or draws"):
        lang.AutoFlow(correlated(lang), start="advi")
    with pytest.raises(ValueError, match="quality must be one of quick, standard, thorough; got 'best'"):
        lang.AutoFlow(correlated(lang), quality="best")


# --- how much


def test_the_quality_says_the_flow_and_the_budget(lang, monkeypatch):
    for i, name in enumerate(("quick", "standard", "thorough"), 1):
        monkeypatch.setitem(QUALITIES, name, Quality(flow_layers=2 * i, steps=5 + i, num_particles=1 + i))
        guide = lang.AutoFlow(correlated(lang), quality=name, start="init")
        pyro.clear_param_store()
        lang.set_up(guide)
        assert lang.transform(guide, None).bijection.parts[0] == pf.guide_flow(2, flow_layers=2 * i)
        assert budget(guide, None, None) == (5 + i, 1 + i)
        assert budget(guide, 3, 4) == (3, 4)
    guide = lang.AutoFlow(correlated(lang), identity, quality="thorough", start="init")
    pyro.clear_param_store()
    assert len(lang.fit(correlated(lang), guide, draws=10, progress=False).losses) == 8
    assert budget(lambda: None, None, None) == (7, 3), "of a guide without a quality: the standard"


# --- what a result says


@pytest.mark.parametrize(
    ("scale", "verdict"), [(1.0, "good"), (0.65, "usable with importance weights"), (0.1, "do not trust")]
)
def test_the_verdict_is_that_of_the_weights(lang, scale, verdict):
    # normal weights of a proposal narrower than its target have the tail index 1 - scale^2
    init = lang.init_to({"z": lang.array(0.0)})
    guide = lang.AutoFlow(normal(lang), identity, start="init", init_loc_fn=init, init_scale=scale)
    result = lang.fit(normal(lang), guide, **STILL)
    assert result.verdict.startswith(verdict)
    exact = -0.5 * (scale**2 - 1 - 2 * np.log(scale))  # minus the KL of two normals
    assert result.elbo.mean == pytest.approx(exact, abs=max(5 * result.elbo.se, 1e-9))
    assert 0 < result.ess <= 1 + 1e-9
    if scale == 1.0:
        assert result.ess == pytest.approx(1)
    assert verdict in repr(result)


def test_a_sub_sampled_likelihood_is_not_judged(lang):
    guide = lang.AutoFlow(sub_sampled(lang), identity)
    result = lang.fit(sub_sampled(lang), guide, **(SHORT | {"steps": 5, "draws": 50}))
    assert result.verdict.startswith("not judged")
    assert np.isnan(result.khat)
    assert np.isnan(result.ess)
    with pytest.raises(ValueError, match="the likelihood is sub-sampled"):
        result.reweighted(10)


def test_the_elbo_is_not_above_the_evidence(lang):
    target = Regression(lang)
    guide = lang.AutoFlow(target.model, identity, start="init", init_scale=1e-3)
    result = lang.fit(target.model, guide, **(SHORT | {"steps": 50}))
    assert result.elbo.mean < target.log_evidence + 4 * result.elbo.se


def test_reweighted_draws_correct_a_guide_that_is_wrong(lang):
    init = lang.init_to({"z": lang.array(MEAN + 0.5)})
    guide = lang.AutoFlow(correlated(lang), identity, start="init", init_loc_fn=init, init_scale=1.0)
    result = lang.fit(correlated(lang), guide, **(STILL | {"draws": 500}))
    plain = np.asarray(result.sample(2_000)["z"])
    np.testing.assert_allclose(plain.mean(0), MEAN + 0.5, atol=0.1)
    weighed = result.reweighted(2_000)
    assert set(weighed) == {"z"}
    z = np.asarray(weighed["z"])
    assert z.shape == (2_000, 2)
    # of 8,000 draws of a mean field some 30 % are effective; the correlation is what it cannot have
    np.testing.assert_allclose(z.mean(0), MEAN, atol=0.1)
    assert np.corrcoef(plain.T)[0, 1] == pytest.approx(0, abs=0.1)
    assert np.corrcoef(z.T)[0, 1] == pytest.approx(0.9, abs=0.05)
    np.testing.assert_array_equal(weighed["z"], result.reweighted(2_000)["z"])
    assert not np.array_equal(weighed["z"], result.reweighted(2_000, seed=2)["z"])


# --- annealing


def two_modes(lang):
    """Two normals of equal weight; log evidence 0. As a factor, as Pyro's mixtures have no unconstrained form."""

    def model():
        wide = lang.dist.Normal(lang.array(0.0), 10.0)
        z = lang.ppl.sample("z", wide)
        modes = (lang.dist.Normal(lang.array(loc), 0.4).log_prob(z) + np.log(0.5) for loc in (-1.5, 1.5))
        lang.ppl.factor("modes", lang.xp.logaddexp(*modes) - wide.log_prob(z))

    return model


def test_annealing_finds_the_mode_that_a_plain_fit_misses(lang):
    found = {}
    for anneal in (1.0, 0.02):
        pyro.clear_param_store()
        init = lang.init_to({"z": lang.array(-1.5)})
        spline = partial(pf.nsf, flow_layers=1)
        guide = lang.AutoFlow(two_modes(lang), spline, start="init", init_loc_fn=init, init_scale=0.4)
        options = SHORT | {"steps": 300, "num_particles": 16, "lr": 5e-2, "draws": 2_000, "seed": 1}
        result = lang.fit(two_modes(lang), guide, anneal=anneal, **options)
        found[anneal] = float((np.asarray(result.sample(2_000)["z"]) > 0).mean()), result.elbo.mean
    (plain, plain_elbo), (annealed, annealed_elbo) = found[1.0], found[0.02]
    assert plain < 0.01, "the trap: one of two modes"
    assert plain_elbo == pytest.approx(-np.log(2), abs=0.05), "half of the mass is missing"
    assert 0.2 < annealed < 0.8
    assert annealed_elbo > plain_elbo + 0.3


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"anneal": 0.0}, "anneal must be above 0"),
        ({"anneal": 1.5}, "anneal must be above 0 and at most 1"),
        ({"draws": 1}, "draws must be at least 2"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"estimator": "score"}, "estimator must be .*got 'score'"),
        ({"num_particles": 0}, "at least 1"),
    ],
)
def test_options_that_fit_does_not_have_are_errors(lang, option, match):
    with pytest.raises(ValueError, match=match):
        lang.fit(correlated(lang), lang.AutoFlow(correlated(lang), small, start="init"), **(SHORT | option))


# --- when a fit ends


def test_a_fit_ends_when_it_has_converged(lang):
    options = SHORT | {"steps": 400, "num_particles": 32, "lr": 3e-3, "draws": 2_000}
    fits = []
    for tolerance in (1e-3, None):
        pyro.clear_param_store()
        guide = lang.AutoFlow(correlated(lang), identity, start="laplace")
        fits.append(lang.fit(correlated(lang), guide, tolerance=tolerance, **options))
    early, full = fits
    assert len(full.losses) == 400
    assert 40 <= len(early.losses) < 400
    assert len(early.losses) % 20 == 0
    assert early.elbo.mean == pytest.approx(full.elbo.mean, abs=5e-3)


def test_convergence_wants_both_a_narrow_spread_and_an_elbo_that_stands_still():
    rng = np.random.default_rng(0)
    narrow, wide = 1 + 1e-3 * rng.standard_normal(100), 1 + rng.standard_normal(100)
    still = partial(converged, steps=1_000, num_particles=10, anneal=1.0, tolerance=1e-3)
    assert still(narrow)
    assert not still(wide), "log weights spread"
    assert not still(np.append(narrow[:50] + 0.01, narrow[50:])), "the ELBO still rises"
    assert not still(narrow[:50]), "one block has nothing to be compared with"
    assert not still(narrow, num_particles=100_000)
    assert not still(narrow, tolerance=None)
    assert not still(narrow, anneal=0.5), "the tempered ELBO is another one"
    assert still(np.tile(narrow, 6), anneal=0.5)
    assert not still(narrow, steps=100), "five steps are too few to know a spread"


def test_a_fit_returns_the_mean_of_the_last_twentieth_of_its_steps(lang):
    def model():
        lang.ppl.factor("parabola", -0.5 * (lang.ppl.param("p", lang.array(0.0)) - 3.0) ** 2)

    steps, lr = 120, 0.5
    result = lang.fit(model, lambda: None, steps=steps, lr=lr, num_particles=1, tolerance=None, progress=False)
    p, m, v, iterates = 0.0, 0.0, 0.0, []
    for step in range(steps):  # Adam, by hand
        gradient = p - 3.0
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        rate = lr * learning_rate(step, steps, np)
        p -= rate * m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.99 ** (step + 1))) ** 0.5 + 1e-8)
        iterates.append(p)
    assert float(result.params["p"]) == pytest.approx(np.mean(iterates[-6:]), abs=1e-9)
    assert abs(np.mean(iterates[-6:]) - p) > 1e-6, "or the last iterate would pass too"


# --- models of many kinds of sites


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


def test_bounded_sites_have_a_gaussian_to_start_at(lang):
    guide = lang.AutoFlow(bounded(lang), identity)
    result = lang.fit(bounded(lang), guide, **STILL)
    assert guide.start == "full_rank"
    assert result.ess > 0.3, "unconstrained, the posterior is no Gaussian, but unimodal with light tails"


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


def test_fit_sums_over_enumerated_sites(lang):
    init = lang.init_to({"loc": lang.array(-0.5)})
    guide = lang.AutoFlow(lang.hide(mixture(lang), ["k"]), identity, init_loc_fn=init, init_scale=0.5)
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


# --- NeuTra


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
