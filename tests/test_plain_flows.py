"""Flows in plain torch and plain JAX: the same densities as the hosts' own, training, contexts, state."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro as in_numpyro
import ppl_flows.pyro as in_pyro

NUMPY = np.random.default_rng(3)


def perturbed(bijection, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape), bijection.init(rng))


CASES = {
    "vectors": (pf.nsf(3, hidden=(8,), flow_layers=1), None),
    "context": (pf.maf(2, hidden=(8,), context_dim=3, flow_layers=1), None),
    "images": (pf.Chain([pf.LULinear(4), pf.Reshape((2, 2, 1))]), None),
    "base": (pf.real_nvp(2, hidden=(8,), flow_layers=2), pf.StudentT(2)),
}


@pytest.fixture(params=CASES)
def case(request):
    bijection, base = CASES[request.param]
    params = perturbed(bijection)
    base_params = None if base is None else perturbed(base, 1)
    context = NUMPY.normal(size=(5, 3)) if bijection.context_dim else None
    return bijection, params, base, base_params, context


def test_the_density_is_that_of_the_hosts_and_integrates_draws(case, float64):
    bijection, params, base, base_params, context = case
    torch_flow = bijection.to_torch(params, base=base, base_params=base_params, context=context).eval()
    jax_flow = bijection.to_jax(params, base=base, base_params=base_params, context=context)
    y = NUMPY.normal(size=(5, *bijection.output_shape))
    for shell, flow, array in ((in_pyro, torch_flow, torch.as_tensor), (in_numpyro, jax_flow, jnp.asarray)):
        host_base = None if base is None else shell.BaseDistribution(base, base_params)
        host = shell.Flow(bijection, params, base=host_base, context=None if context is None else array(context))
        ours, theirs = (np.asarray(d.log_prob(array(y)).tolist()) for d in (flow, host))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    draws, log_prob = torch_flow.rsample_and_log_prob((7,))
    assert draws.shape == (7, *(() if context is None else (5,)), *bijection.output_shape)
    np.testing.assert_allclose(log_prob.detach(), torch_flow.log_prob(draws).detach(), atol=1e-8)
    draws, log_prob = jax_flow.sample_and_log_prob(jax.random.key(0), (7,))
    np.testing.assert_allclose(log_prob, jax_flow.log_prob(draws), atol=1e-8)


def test_draws_follow_the_density(float64):
    """The shares of two halves of the plane, counted and integrated."""
    bijection = pf.nsf(2, hidden=(8,), flow_layers=2)
    params = perturbed(bijection)
    grid = np.stack(np.meshgrid(*[np.linspace(-8, 8, 401)] * 2), -1).reshape(-1, 2)
    flow = bijection.to_jax(params)
    density = np.exp(flow.log_prob(grid)) * 0.04**2
    assert density.sum() == pytest.approx(1, abs=2e-3)
    share = density[grid[:, 0] > grid[:, 1]].sum()
    for draws in (flow.sample(jax.random.key(2), (20_000,)), bijection.to_torch(params).sample((20_000,)).numpy()):
        assert np.mean(draws[:, 0] > draws[:, 1]) == pytest.approx(share, abs=0.02)


def test_a_torch_flow_trains_as_any_module():
    torch.manual_seed(0)
    data = torch.randn(256, 2).exp()
    flow = pf.maf(2, hidden=(16,), activation="tanh").to_torch(base=pf.StudentT(2))
    before = copy.deepcopy(flow.state_dict())
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = -flow(data).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    assert all(not torch.equal(before[k], v) for k, v in flow.state_dict().items() if k.startswith("base_weights"))
    other = pf.maf(2, hidden=(16,), activation="tanh").to_torch(base=pf.StudentT(2), seed=5)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other.log_prob(data), flow.log_prob(data))


def test_a_jax_flow_trains_as_any_pytree_with_one_trace():
    data = jnp.exp(jax.random.normal(jax.random.key(0), (256, 2)))
    flow = pf.maf(2, hidden=(16,), activation="tanh").to_jax(base=pf.StudentT(2))
    optimizer = optax.adam(1e-2)
    traces = []

    @jax.jit
    def step(flow, state):
        traces.append(1)
        loss, gradient = jax.value_and_grad(lambda flow: -flow.log_prob(data).mean())(flow)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(flow, updates), state, loss

    state, losses, start = optimizer.init(flow), [], flow
    for _ in range(60):
        flow, state, loss = step(flow, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.3
    assert len(traces) == 1
    assert all(not jnp.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (start, flow)), strict=True))


def test_condition_shares_parameters_and_leaves_the_flow_as_it_is(float64):
    bijection = pf.maf(2, hidden=(8,), context_dim=3, flow_layers=1)
    flow = bijection.to_torch(perturbed(bijection))
    context = torch.randn(3)
    given = flow.condition(context)
    assert next(given.parameters()) is next(flow.parameters())
    assert flow.context is None
    assert given.log_prob(torch.zeros(2)).shape == ()
    assert given.condition(torch.zeros(4, 3)).sample((2,)).shape == (2, 4, 2)
    assert "context" not in given.state_dict()
    jax_flow = bijection.to_jax(perturbed(bijection))
    np.testing.assert_allclose(
        given.log_prob(torch.ones(2)).item(), jax_flow.condition(context.numpy()).log_prob(jnp.ones(2)), rtol=1e-12
    )
    for plain in (flow, jax_flow):
        value = torch.zeros(2) if plain is flow else jnp.zeros(2)
        with pytest.raises(ValueError, match="got no context"):
            plain.log_prob(value)
        with pytest.raises(ValueError, match="context of shape"):
            plain.condition(np.zeros(2))


@pytest.mark.slow
def test_running_averages_move_in_training_only_and_get_no_gradient(float64):
    bijection = pf.Chain([pf.BatchNorm(2), pf.real_nvp(2, hidden=(4,), flow_layers=1)])
    data = NUMPY.normal(2.0, 3.0, size=(64, 2))
    flow = bijection.to_torch().start(torch.as_tensor(data))
    buffers = {k: v.clone() for k, v in flow.named_buffers()}
    flow.eval().log_prob(torch.as_tensor(data + 1))
    assert all(torch.equal(v, buffers[k]) for k, v in flow.named_buffers())
    loss = flow.train().log_prob(torch.as_tensor(data + 1))
    assert any(not torch.equal(v, buffers[k]) for k, v in flow.named_buffers())

    jax_flow = bijection.to_jax().start(data)
    moved, log_prob = jax_flow.observe(data + 1)
    np.testing.assert_allclose(log_prob, loss.detach(), rtol=1e-10)
    np.testing.assert_allclose(moved.log_prob(data), flow.eval().log_prob(torch.as_tensor(data)).detach(), rtol=1e-10)
    gradient = jax.grad(lambda flow: flow.log_prob(data).sum())(jax_flow)
    weights, state = pf.split(gradient.params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(state))
    assert any(leaf.any() for leaf in jax.tree.leaves(weights))


@pytest.mark.slow
def test_draws_without_gradients_say_so():
    base = pf.ResampledNormal(2, hidden=(4,), nodes=64)
    flow = pf.real_nvp(2, hidden=(4,), flow_layers=1).to_torch(base=base)
    assert flow.sample((3,)).shape == (3, 2)
    with pytest.raises(NotImplementedError, match="use sample"):
        flow.rsample_and_log_prob((3,))
    jax_flow = pf.real_nvp(2, hidden=(4,), flow_layers=1).to_jax(base=base)
    with pytest.raises(NotImplementedError, match="carry no gradients"):
        jax.grad(lambda flow: flow.sample(jax.random.key(0)).sum())(jax_flow)


@pytest.mark.parametrize("to", ["to_torch", "to_jax"])
def test_mistakes_are_named(to):
    make = getattr(pf.nsf(2), to)
    with pytest.raises(TypeError, match="ppl_flows Base"):
        make(base=torch.distributions.Normal(0, 1))
    with pytest.raises(ValueError, match="vectors of size 3"):
        make(base=pf.StudentT(3))
    with pytest.raises(ValueError, match="base_params"):
        make(base_params={})
    with pytest.raises(ValueError, match="no normal lies"):
        getattr(pf.Inverse(pf.Elementwise(2, pf.Sigmoid())), to)()
    with pytest.raises(ValueError, match="expects values of shape"):
        make().log_prob((torch.zeros if to == "to_torch" else jnp.zeros)((4, 1)))
    with pytest.raises(TypeError, match="array of the language"):
        make().log_prob([0.0, 0.0])
    with pytest.raises(TypeError, match=r"a shape such as \(1000,\), got 5"):
        make().sample(5) if to == "to_torch" else make().sample(jax.random.key(0), 5)


def test_narrow_values_are_scored_in_float32(float64):
    """512 numbers, whose squares would lose nats in bfloat16."""
    flow = pf.Elementwise(512, pf.Affine()).to_torch()
    value = torch.randn(3, 512).bfloat16()
    np.testing.assert_allclose(
        flow.bfloat16().log_prob(value).detach().float(), flow.float().log_prob(value.float()).detach(), rtol=1e-4
    )


def test_a_flow_of_the_identity_is_its_base():
    x = np.linspace(-2, 2, 5)[:, None]
    flow = pf.Elementwise(1, pf.Affine()).to_jax()
    np.testing.assert_allclose(flow.log_prob(x), stats.norm.logpdf(x[:, 0]), rtol=1e-6)


@pytest.mark.parametrize(("to", "absent"), [("to_torch", "pyro"), ("to_jax", "numpyro")])
def test_no_host_is_loaded(to, absent):
    code = f"import sys, ppl_flows as pf; pf.nsf(2).{to}(); assert '{absent}' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_the_page_of_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parent.parent / "docs" / "plain_frameworks.md"
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, str(page), "exec"), {})
