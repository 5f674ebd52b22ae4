"""The incremental inverse does the arithmetic of about one pass of the network, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import JAX, TORCH
from jax.extend import core as jax_core
from torch.utils.flop_counter import FlopCounterMode

import ppl_flows as pf
from ppl_flows.core.networks import MaskedMLP

DIM, ROWS = 64, 100
LAYER = pf.MaskedAutoregressive(DIM, hidden=(128, 128))
PARAMS = LAYER.init(np.random.default_rng(0))
X = np.random.default_rng(1).standard_normal((ROWS, DIM))


def torch_flops(f, *args) -> int:
    with FlopCounterMode(display=False) as counter:
        f(*args)
    return counter.get_total_flops()


def jax_flops(jaxpr: jax_core.Jaxpr) -> int:
    """Multiplications in matrix products, loops counted as often as they run."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [p for p in jax.tree.leaves(eqn.params) if isinstance(p, jax_core.Jaxpr | jax_core.ClosedJaxpr)]
        inner = [getattr(p, "jaxpr", p) for p in inner]
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += times * sum(jax_flops(p) for p in inner)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = np.prod([eqn.invars[0].aval.shape[i] for i in contracted], dtype=int)
            total += 2 * depth * np.prod(eqn.outvars[0].aval.shape, dtype=int)
    return int(total)


def test_inverting_in_torch_takes_about_one_pass_of_arithmetic():
    params, x = TORCH.params(PARAMS), torch.tensor(X)
    one_pass = torch_flops(LAYER.forward, params, x)
    assert torch_flops(LAYER.inverse, params, x) <= 1.2 * one_pass


def test_the_gradient_of_the_inverse_in_torch_takes_a_few_passes():
    params = {k: torch.tensor(a, requires_grad=True) for k, a in PARAMS.items()}

    def with_gradient(run):
        y, log_det = run(params, torch.tensor(X, requires_grad=True))
        (y.sum() + log_det.sum()).backward()

    assert torch_flops(with_gradient, LAYER.inverse) <= 2 * torch_flops(with_gradient, LAYER.forward)


def test_inverting_in_jax_takes_a_few_passes_of_arithmetic():
    """The blocks of a scan are padded to one size, so it is a few passes rather than one; the plain loop takes 64."""
    params, x = JAX.params(PARAMS), jnp.asarray(X)
    one_pass = jax_flops(jax.make_jaxpr(LAYER.forward)(params, x).jaxpr)
    # the pass that only a gradient needs is removed by XLA; here it counts
    assert jax_flops(jax.make_jaxpr(LAYER.inverse)(params, x).jaxpr) <= 3.5 * one_pass

    def loss(run, params, x):
        y, log_det = run(params, x)
        return jnp.sum(y) + jnp.sum(log_det)

    def gradient(run):
        return jax_flops(jax.make_jaxpr(jax.grad(lambda p, x: loss(run, p, x), (0, 1)))(params, x).jaxpr)

    assert gradient(LAYER.inverse) <= 4 * gradient(LAYER.forward)


@pytest.mark.parametrize("library", [TORCH, JAX], ids=lambda lib: lib.name)
def test_the_network_runs_not_once_per_dimension(library, monkeypatch):
    """The dense network is passed at most once, for the gradient; the plain loop passes it dim times."""
    passes = []
    trace = MaskedMLP.trace
    monkeypatch.setattr(MaskedMLP, "trace", lambda *args: passes.append(1) or trace(*args))
    LAYER.inverse(library.params(PARAMS), library.array(X))
    assert len(passes) <= 1


@pytest.mark.parametrize("context_dim", [0, 2])
def test_a_coordinate_depends_on_all_before_it_and_on_none_after(context_dim):
    layer = pf.MaskedAutoregressive(5, context_dim=context_dim)
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(a + 0.3 * rng.standard_normal(a.shape)) for k, a in layer.init(rng).items()}
    context = jnp.ones(2) if context_dim else None
    jacobian = jax.jacrev(lambda x: layer.forward(params, x, context)[0])(jnp.asarray(X[0, :5]))
    assert np.all(np.triu(jacobian, 1) == 0)
    assert np.all(np.abs(jacobian[np.tril_indices(5)]) > 1e-8)
    if context_dim:
        first = jax.jacrev(lambda c: layer.forward(params, jnp.asarray(X[0, :5]), c)[0])(context)
        assert np.all(np.abs(first) > 1e-8), "every coordinate, the first too, sees the context"
