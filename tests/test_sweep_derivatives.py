"""Derivatives of an autoregressive inverse, of first and second order, are those of autodiff through the plain loop."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ppl_flows as pf

CONTEXT = 2
METHODS = pytest.mark.parametrize("method", ["sweep", "jacobi"])
RNG = np.random.default_rng(1)
X, C = RNG.standard_normal((6, 5)), RNG.standard_normal((3, CONTEXT))


def perturbed(layer: pf.Bijection) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {k: a + 0.5 * rng.standard_normal(a.shape) / len(a) ** 0.5 for k, a in layer.init(rng).items()}


def slow_inverse(layer, params, y, context):
    """Coordinate by coordinate, one pass of the network each, for plain autodiff."""
    xs, slopes = [], []
    for t in range(layer.dim):
        x = torch.stack([*xs, *(torch.zeros_like(y[:, 0]) for _ in range(t, layer.dim))], -1)
        theta = layer._network(params, x[..., None], context)
        x_t, slope = layer.transformer.inverse(theta[:, t : t + 1], y[:, t : t + 1])
        xs.append(x_t[:, 0])
        slopes.append(slope[:, 0])
    return torch.stack(xs, -1), sum(slopes)


@pytest.fixture(scope="module", params=["plain", "residual"])
def derivatives(request):
    """A layer of two blocks, where it acts, and what autodiff through the plain loop makes there of a loss."""
    residual = request.param == "residual"
    fields = {"context_dim": CONTEXT} if residual else {}
    layer = pf.MaskedAutoregressive(18, **fields, conditioner=pf.MLP((6, 6, 6), residual=residual))
    rng = np.random.default_rng(2)
    args = (perturbed(layer), rng.standard_normal((3, 18)), *([C] if fields else []))
    weights = rng.standard_normal((3, 18))
    expected = torch_derivatives(lambda params, y, c=None: slow_inverse(layer, params, y, c), args, weights)
    assert all(g.abs().max() > 1e-3 for g in expected)
    return layer, args, weights, expected


def loss(run, args, weights):
    x, log_det = run(*args)
    return (x * weights).sum() + (log_det**2).sum()


def torch_derivatives(run, args, weights) -> list[torch.Tensor]:
    """The gradient, and the gradient of its square; plain and differentiable gradients take different ways."""
    arrays = jax.tree.map(lambda a: torch.tensor(a, requires_grad=True), args)
    leaves = jax.tree.leaves(arrays)
    value = loss(run, arrays, torch.tensor(weights))
    once = torch.autograd.grad(value, leaves, retain_graph=True)
    again = torch.autograd.grad(value, leaves, create_graph=True)
    for g, same in zip(once, again, strict=True):
        np.testing.assert_allclose(g, same.detach(), rtol=1e-11, atol=1e-11)
    return [*once, *torch.autograd.grad(sum((g**2).sum() for g in again), leaves)]


@METHODS
def test_first_and_second_derivatives_in_torch_are_those_of_the_plain_loop(derivatives, method):
    layer, args, weights, expected = derivatives
    found = torch_derivatives(replace(layer, method=method).inverse, args, weights)
    for g, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("derivatives", ["residual"], indirect=True)
def test_first_and_second_derivatives_in_jax_are_those_of_the_plain_loop(derivatives):
    layer, args, weights, expected = derivatives

    def gradient(*args):
        return jax.tree.leaves(jax.grad(lambda a: loss(layer.inverse, a, weights))(args))

    def square(args):
        found = gradient(*args)
        return sum((g**2).sum() for g in found), found

    second, first = jax.jit(jax.grad(square, has_aux=True))(jax.tree.map(jnp.asarray, args))
    for g, e in zip((*first, *jax.tree.leaves(second)), expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-9)


@METHODS
def test_forward_mode_in_jax_is_the_finite_difference(method):
    layer = pf.MaskedAutoregressive(5, context_dim=CONTEXT, flip=True, method=method, conditioner=pf.MLP((6,)))
    params, y, c = perturbed(layer), jnp.asarray(X[:3, :5]), C
    along = X[3:6, :5]
    found = jax.jit(lambda y: jax.jvp(lambda y: layer.inverse(params, y, c), (y,), (jnp.asarray(along),))[1])(y)
    up, down = (layer.inverse(params, np.asarray(y) + h * along, c) for h in (1e-6, -1e-6))
    for d, a, b in zip(found, up, down, strict=True):
        np.testing.assert_allclose(d, (a - b) / 2e-6, rtol=1e-7, atol=1e-7)
