"""``flow(...)`` under the effect handlers, loops and ELBOs of both hosts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as tdist
import pytest
import torch
from cases import perturbed
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI as NumPyroSVI  # noqa: N811
from numpyro.infer import Predictive as NumPyroPredictive
from numpyro.infer import RenyiELBO as NumPyroRenyi
from numpyro.infer import TraceGraph_ELBO as NumPyroGraph
from numpyro.infer import TraceMeanField_ELBO as NumPyroMeanField
from numpyro.infer.reparam import TransformReparam as NumPyroTransformReparam
from numpyro.infer.util import log_density
from pyro import poutine
from pyro.infer import SVI as PyroSVI  # noqa: N811
from pyro.infer import Predictive as PyroPredictive
from pyro.infer import RenyiELBO as PyroRenyi
from pyro.infer import TraceGraph_ELBO as PyroGraph
from pyro.infer import TraceMeanField_ELBO as PyroMeanField
from pyro.infer.reparam import TransformReparam as PyroTransformReparam

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows.core.params import flatten, map_params

BIJECTION = pf.maf(2, flow_layers=1, hidden=(4,))
PARAMS = map_params(lambda _, a: a.astype(np.float32), perturbed(BIJECTION))
DATA = np.random.default_rng(0).standard_normal((12, 2)).astype(np.float32) + 1.0


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def pyro_model(size=None, data=DATA):
    prior = pfp.flow("prior", BIJECTION, params=PARAMS)
    with pyro.plate("rows", len(data), subsample_size=size) as rows:
        z = pyro.sample("z", prior)
        pyro.sample("x", tdist.Normal(z, 0.5).to_event(1), obs=torch.tensor(data)[rows])


def numpyro_model(size=None, data=DATA):
    prior = pfn.flow("prior", BIJECTION, params=PARAMS)
    with numpyro.plate("rows", len(data), subsample_size=size) as rows:
        z = numpyro.sample("z", prior)
        numpyro.sample("x", ndist.Normal(z, 0.5).to_event(1), obs=jnp.asarray(data)[rows])


def pyro_site(model):
    """The latent's log density, ``(rows,)``, with the handlers that are around the model."""
    given = poutine.condition(model, data={"z": torch.tensor(DATA)})
    trace = poutine.trace(given).get_trace()
    trace.compute_log_prob()
    return trace.nodes["z"]["log_prob"].detach().numpy()


def numpyro_site(model):
    trace = handlers.trace(handlers.condition(handlers.seed(model, 0), {"z": jnp.asarray(DATA)})).get_trace()
    site = trace["z"]
    log_prob = site["fn"].log_prob(site["value"])
    return np.asarray(log_prob if site["scale"] is None else site["scale"] * log_prob)


HOSTS = {
    "pyro": (pyro_model, pyro_site, poutine.scale, lambda m, mask: poutine.mask(m, mask=torch.tensor(mask))),
    "numpyro": (numpyro_model, numpyro_site, handlers.scale, lambda m, mask: handlers.mask(m, mask=jnp.asarray(mask))),
}


@pytest.mark.parametrize("host", HOSTS)
def test_condition_scale_and_mask(host):
    model, site, scale, mask = HOSTS[host]
    expected = np.asarray(pfn.Flow(BIJECTION, PARAMS).log_prob(DATA))
    np.testing.assert_allclose(site(model), expected, rtol=1e-4)
    np.testing.assert_allclose(site(scale(model, scale=3.0)), 3 * expected, rtol=1e-4)
    seen = np.arange(len(DATA)) % 2 == 0
    np.testing.assert_allclose(site(mask(model, seen)), np.where(seen, expected, 0.0), rtol=1e-4)


def test_block_hides_the_flows_parameters_and_draws():
    assert set(poutine.trace(poutine.block(pyro_model, hide=["z"])).get_trace().nodes) >= {"x"}
    assert "z" not in poutine.trace(poutine.block(pyro_model, hide=["z"])).get_trace().nodes
    hidden = handlers.trace(handlers.seed(handlers.block(numpyro_model, hide=["z", "prior"]), 0)).get_trace()
    assert set(hidden) == {"rows", "x"}


def test_predictive_draws_from_the_trained_prior():
    pyro_model()
    store = pyro.get_param_store()
    with torch.no_grad():
        for name, value in store.named_parameters():
            assert value.requires_grad, name
            value.zero_()  # the identity
    drawn = PyroPredictive(lambda: pyro.sample("z", pfp.flow("prior", BIJECTION)), num_samples=1_000, parallel=False)
    zeros = {"prior": map_params(lambda _, a: jnp.zeros_like(a), PARAMS)}

    def other():
        return numpyro.sample("z", pfn.flow("prior", BIJECTION))

    theirs = NumPyroPredictive(other, params=zeros, num_samples=1_000)(jax.random.key(0))
    for z in (drawn()["z"].numpy(), np.asarray(theirs["z"])):
        np.testing.assert_allclose(z.mean(0), 0, atol=0.12)
        np.testing.assert_allclose(z.std(0), 1, atol=0.12)


def test_transform_reparam_draws_from_the_base():
    reparametrised = poutine.reparam(pyro_model, config={"z": PyroTransformReparam()})
    nodes = poutine.trace(reparametrised).get_trace().nodes
    assert nodes["z"]["infer"].get("_deterministic") or nodes["z"]["is_observed"]
    z = nodes["z_base"]["value"]
    expected = pfp.flow("prior", BIJECTION).transforms[0](z)
    torch.testing.assert_close(nodes["z"]["value"], expected)

    reparametrised = handlers.reparam(numpyro_model, config={"z": NumPyroTransformReparam()})
    trace = handlers.trace(handlers.seed(reparametrised, 0)).get_trace()
    assert trace["z"]["type"] == "deterministic"
    expected = pfn.Flow(BIJECTION, PARAMS).transforms[0](trace["z_base"]["value"])
    np.testing.assert_allclose(trace["z"]["value"], expected, rtol=1e-5)


def test_loops_share_one_flow():
    def steps():
        z = torch.zeros(2)
        for t in pyro.markov(range(3)):
            z = pyro.sample(f"z{t}", pfp.flow("step", BIJECTION, params=PARAMS)) + z
        return z

    trace = poutine.trace(steps).get_trace()
    assert {f"z{t}" for t in range(3)} <= set(trace.nodes)
    assert len([n for n, node in trace.nodes.items() if node["type"] == "param" and n == "step.0.net.b0"]) <= 1

    def scanned():
        step = pfn.flow("step", BIJECTION, params=PARAMS)

        def body(z, _):
            z = z + numpyro.sample("z", step)
            return z, z

        return scan(body, jnp.zeros(2), None, length=3)[1]

    trace = handlers.trace(handlers.seed(scanned, 0)).get_trace()
    assert trace["z"]["value"].shape == (3, 2)
    values = {"z": trace["z"]["value"]}
    total, _ = log_density(handlers.seed(scanned, 0), (), {}, values | {"step": PARAMS})
    expected = pfn.Flow(BIJECTION, PARAMS).log_prob(values["z"]).sum()
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def pyro_guide(size=None, data=DATA):
    context = torch.tensor(data)
    with pyro.plate("rows", len(data), subsample_size=size) as rows:
        pyro.sample("z", pfp.flow("q", pf.iaf(2, flow_layers=1, hidden=(4,), context_dim=2), context=context[rows]))


def numpyro_guide(size=None, data=DATA):
    context = jnp.asarray(data)
    with numpyro.plate("rows", len(data), subsample_size=size) as rows:
        numpyro.sample("z", pfn.flow("q", pf.iaf(2, flow_layers=1, hidden=(4,), context_dim=2), context=context[rows]))


@pytest.mark.parametrize("size", [None, 5], ids=["all", "minibatch"])
@pytest.mark.parametrize("elbo", [PyroMeanField, PyroRenyi, PyroGraph], ids=lambda e: e.__name__)
def test_pyros_elbos_train_a_flow_prior_and_a_flow_posterior(elbo, size):
    svi = PyroSVI(pyro_model, pyro_guide, pyro.optim.Adam({"lr": 2e-2}), elbo(num_particles=2))
    losses = [svi.step(size) for _ in range(120)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 3
    store = pyro.get_param_store()
    assert any(not np.allclose(store[f"prior.{name}"].detach(), start) for name, start in flatten(PARAMS))


@pytest.mark.parametrize("size", [None, 5], ids=["all", "minibatch"])
@pytest.mark.parametrize("elbo", [NumPyroMeanField, NumPyroRenyi, NumPyroGraph], ids=lambda e: e.__name__)
def test_numpyros_elbos_train_a_flow_prior_and_a_flow_posterior(elbo, size):
    svi = NumPyroSVI(numpyro_model, numpyro_guide, numpyro.optim.Adam(2e-2), elbo(num_particles=2))
    result = svi.run(jax.random.key(0), 120, size, progress_bar=False)
    losses = np.asarray(result.losses)
    assert losses[-20:].mean() < losses[:20].mean() - 3
    start = dict(flatten(PARAMS))
    assert any(not np.allclose(value, start[name]) for name, value in flatten(result.params["prior"]))


def test_a_detached_flow_is_the_same_and_passes_no_gradient():
    prior = pfp.flow("prior", BIJECTION, params=PARAMS)
    x = torch.tensor(DATA, requires_grad=True)
    scored = prior.detach().log_prob(x)
    torch.testing.assert_close(scored, prior.log_prob(x))
    scored.sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for _, p in pyro.get_param_store().named_parameters())

    def loss(params):
        return pfn.Flow(BIJECTION, params).detach().log_prob(DATA).sum()

    params = map_params(lambda _, a: jnp.asarray(a), PARAMS)
    assert all(not np.any(g) for g in jax.tree.leaves(jax.grad(loss)(params)))
    np.testing.assert_allclose(loss(params), pfn.Flow(BIJECTION, params).log_prob(DATA).sum())
