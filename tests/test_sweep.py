"""The incremental inverse does the arithmetic of about one pass of the network, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import JAX, NUMPY, TORCH
from jax.extend import core as jax_core
from torch.utils.flop_counter import FlopCounterMode

import ppl_flows as pf
from ppl_flows.core.networks import MaskedMLP

DIM, ROWS = 64, 100
X = np.random.default_rng(1).standard_normal((ROWS, DIM))


each = pytest.mark.parametrize(
    "layer",
    [pf.MaskedAutoregressive(DIM, hidden=(128, 128)), pf.MaskedAutoregressive(DIM, hidden=(128, 128), residual=True)],
    ids=["plain", "residual"],
)


def initial(layer: pf.Bijection) -> dict[str, np.ndarray]:
    return layer.init(np.random.default_rng(0))


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


@each
def test_inverting_in_torch_takes_about_one_pass_of_arithmetic(layer):
    params, x = TORCH.params(initial(layer)), torch.tensor(X)
    one_pass = torch_flops(layer.forward, params, x)
    assert torch_flops(layer.inverse, params, x) <= 1.2 * one_pass


@each
def test_the_gradient_of_the_inverse_in_torch_takes_a_few_passes(layer):
    params = {k: torch.tensor(a, requires_grad=True) for k, a in initial(layer).items()}

    def with_gradient(run):
        y, log_det = run(params, torch.tensor(X, requires_grad=True))
        (y.sum() + log_det.sum()).backward()

    assert torch_flops(with_gradient, layer.inverse) <= 2 * torch_flops(with_gradient, layer.forward)


@each
def test_inverting_in_jax_takes_a_few_passes_of_arithmetic(layer):
    """The blocks of a scan are padded to one size, so it is a few passes rather than one; the plain loop takes 64."""
    params, x = JAX.params(initial(layer)), jnp.asarray(X)
    one_pass = jax_flops(jax.make_jaxpr(layer.forward)(params, x).jaxpr)
    # the pass that only a gradient needs is removed by XLA; here it counts
    assert jax_flops(jax.make_jaxpr(layer.inverse)(params, x).jaxpr) <= 3.5 * one_pass

    def loss(run, params, x):
        y, log_det = run(params, x)
        return jnp.sum(y) + jnp.sum(log_det)

    def gradient(run):
        return jax_flops(jax.make_jaxpr(jax.grad(lambda p, x: loss(run, p, x), (0, 1)))(params, x).jaxpr)

    assert gradient(layer.inverse) <= 4 * gradient(layer.forward)


@each
@pytest.mark.parametrize("library", [TORCH, JAX], ids=lambda lib: lib.name)
def test_the_network_runs_not_once_per_dimension(layer, library, monkeypatch):
    """The dense network is passed at most once, for the gradient; the plain loop passes it dim times."""
    passes = []
    trace = MaskedMLP.trace
    monkeypatch.setattr(MaskedMLP, "trace", lambda *args: passes.append(1) or trace(*args))
    layer.inverse(library.params(initial(layer)), library.array(X))
    assert len(passes) <= 1


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_a_coordinate_depends_on_all_before_it_and_on_none_after(context_dim, residual):
    layer = pf.MaskedAutoregressive(5, context_dim=context_dim, residual=residual)
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(a + 0.3 * rng.standard_normal(a.shape)) for k, a in layer.init(rng).items()}
    context = jnp.ones(2) if context_dim else None
    jacobian = jax.jacrev(lambda x: layer.forward(params, x, context)[0])(jnp.asarray(X[0, :5]))
    assert np.all(np.triu(jacobian, 1) == 0)
    assert np.all(np.abs(jacobian[np.tril_indices(5)]) > 1e-8)
    if context_dim:
        first = jax.jacrev(lambda c: layer.forward(params, jnp.asarray(X[0, :5]), c)[0])(context)
        assert np.all(np.abs(first) > 1e-8), "every coordinate, the first too, sees the context"


def slow_inverse(layer, params, y, context):
    """Coordinate by coordinate, one pass of the network each, for plain autodiff."""
    xs, slopes = [], []
    for t in range(layer.dim):
        x = torch.stack([*xs, *(torch.zeros_like(y[:, 0]) for _ in range(t, layer.dim))], -1)
        theta = layer._network(params, x, context)
        x_t, slope = layer.transformer.inverse(theta[:, t : t + 1], y[:, t : t + 1])
        xs.append(x_t[:, 0])
        slopes.append(slope[:, 0])
    return torch.stack(xs, -1), sum(slopes)


@pytest.mark.parametrize("residual", [False, True])
def test_the_gradient_of_the_inverse_is_autodiff_through_the_plain_loop(residual):
    layer = pf.MaskedAutoregressive(4, hidden=(6, 6, 6), residual=residual, context_dim=2)
    rng = np.random.default_rng(0)
    params = {k: a + 0.3 * rng.standard_normal(a.shape) for k, a in layer.init(rng).items()}
    y, c, weights = (rng.standard_normal(shape) for shape in ((5, 4), (5, 2), (5, 4)))

    def loss(run, params, y, c, weights):
        x, log_det = run(params, y, c)
        return (x * weights).sum() + (log_det**2).sum()

    def in_torch(run):
        arrays = jax.tree.map(lambda a: torch.tensor(a, requires_grad=True), (params, y, c))
        return torch.autograd.grad(loss(run, *arrays, torch.tensor(weights)), jax.tree.leaves(arrays))

    in_jax = jax.jit(jax.grad(lambda *a: loss(layer.inverse, *a, weights), (0, 1, 2)))
    expected = in_torch(lambda *a: slow_inverse(layer, *a))
    assert all(g.abs().max() > 1e-3 for g in expected)
    for gradient in (in_torch(layer.inverse), jax.tree.leaves(in_jax(*jax.tree.map(jnp.asarray, (params, y, c))))):
        for g, e in zip(gradient, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("hidden", [(), (3,), (9, 9)])  # fewer units than degrees, and more
def test_a_residual_inverse_undoes_its_forward_map_for_every_width(hidden):
    layer = pf.MaskedAutoregressive(6, hidden=hidden, residual=True)
    params = {k: a + 0.3 * np.sin(np.arange(a.size)).reshape(a.shape) for k, a in initial(layer).items()}
    x = X[:7, :6]
    for library in (NUMPY, TORCH, JAX):
        p = library.params(params)
        back, log_det = library.run(lambda y, p=p: layer.inverse(p, layer.forward(p, y)[0]), library.array(x))
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(log_det, -layer.forward(params, x)[1], rtol=0, atol=1e-12)
