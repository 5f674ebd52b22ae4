"""The two languages as one, and the models that tests of guides and fits share; ``lang`` of conftest takes turns."""

from collections.abc import Callable
from functools import partial
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
import torch
from jax import random
from numpyro import handlers
from numpyro.infer.reparam import NeuTraReparam as NumPyroNeuTra
from numpyro.infer.util import log_density
from pyro import poutine
from pyro.infer.reparam import NeuTraReparam as PyroNeuTra
from torch.distributions import biject_to as pyro_biject_to

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.numpyro.flow_handlers
import ppl_flows.pyro
import ppl_flows.pyro.flow_handlers
from ppl_flows.core.params import flatten, map_params

MEAN = np.array([3.0, -3.0])
COVARIANCE = np.array([[1.0, 0.9], [0.9, 1.0]])
SHORT = {"steps": 100, "num_particles": 8, "draws": 500, "check_modes": False, "progress": False}
STILL = {
    "steps": 1,
    "lr": 1e-12,
    "num_particles": 50,
    "check_modes": False,
    "progress": False,
}  # measures a guide as it starts


def small(dim):
    """A flow that compiles fast, and starts near the identity."""
    return pf.iaf(dim, flow_layers=1, hidden=(8, 8))


def identity_flow(dim):
    """A flow that starts at the identity."""
    return pf.Elementwise(dim, pf.SinhArcsinh())


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
        guide.zero_grad()
        elbo.loss_and_grads(model, ppl_flows.pyro.flow_handlers.PathGradients(estimator=estimator)(guide))
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

    on_path = ppl_flows.numpyro.flow_handlers.PathGradients(guide, estimator=estimator)
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
