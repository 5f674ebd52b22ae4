"""JAX driver: inverse of a masked autoregressive map, with an exact gradient from the implicit function theorem.

The same incremental sweep as ``sweep``, as one ``lax.scan``: hidden units are laid out in blocks of equal size, one
block per degree (padded with units whose weights are zero), so that every step of the scan has the same shapes.
"""

from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl_flows.core.ops import namespace


def autoregressive_inverse(network, transformer, params, y, context):
    """x with ``transformer.forward(network(x), x) = y``, and the log_det of the inverse map, ``y.shape[:-1]``."""
    y = y.astype(jnp.result_type(y, *jax.tree.leaves((params, context))))  # what the forward pass would promote to
    stopped = lax.stop_gradient((params, y, context))
    x, log_det = _forward(network, transformer, *stopped)
    # One ordinary pass at the solution carries the gradient to weights and context; _attach closes the loop to x.
    # Without a gradient its results are unused and XLA removes it.
    seen, theta = network.trace(params, x, context)
    y_again, slopes = transformer.forward(theta, x)
    weights = network.layers(params, x, context)[0]
    return _attach(network, transformer, y, y_again, jnp.sum(slopes, -1), x, log_det, theta, seen, weights)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attach(network, transformer, y, y_again, log_det_again, x, log_det, theta, seen, weights):
    """(x, log_det of the inverse), as functions of y and of what ``transformer.forward`` gave at x.

    With F(x) = y and L the log_det of F, cotangents (g, l) of the two outputs give v = J^-T (g - l dL/dx) for y,
    -v for F and -l for L; autodiff takes them on through the pass that made F and L.
    """
    return x, log_det


def _attach_fwd(network, transformer, y, y_again, log_det_again, x, log_det, theta, seen, weights):
    return (x, log_det), (x, theta, seen, weights)


def _attach_bwd(network, transformer, saved, cotangents):
    x, theta, seen, weights = saved
    g, l = cotangents
    _, pull = jax.vjp(transformer.forward, theta, x)
    y_theta, y_x = pull((jnp.ones_like(x), jnp.zeros_like(x)))
    l_theta, l_x = pull((jnp.zeros_like(x), jnp.ones_like(x)))
    acts = network.activations(namespace(x))
    bends = [jax.vjp(act, a)[1](jnp.ones_like(a))[0] for act, a in zip(acts, seen, strict=True)]
    l_ = l[..., None]
    v = _reverse(network, weights, bends, g - l_ * l_x, y_x, y_theta, -l_[..., None] * l_theta)
    nothing = jax.tree.map(jnp.zeros_like, (x, l, theta, seen, weights))
    return v, -v, -l, *nothing


_attach.defvjp(_attach_fwd, _attach_bwd)


@cache
def _slots(network):
    """Per hidden layer ``(dim, block)``: the units of each degree, padded with the index one past the last unit."""
    layers = []
    for bounds in network.bounds()[1:]:
        grid = np.full((network.dim, max(1, *np.diff(bounds))), bounds[-1])
        for t, (start, stop) in enumerate(pairwise(bounds)):
            grid[t, : stop - start] = np.arange(start, stop)
        layers.append(grid)
    return layers


def _padded(a, slots, axis):
    """a with its units (on ``axis``) laid out in slots; padding reads zeros."""
    return jnp.take(a, slots.reshape(-1), axis=axis, mode="fill", fill_value=0)


def _slotted(network, weights):
    """The weights ``(in, out)`` between units laid out in slots."""
    slots = _slots(network)
    weights = [weights[0], *(_padded(w, s, 0) for w, s in zip(weights[1:], slots, strict=True))]
    return [*(_padded(w, s, 1) for w, s in zip(weights, slots, strict=False)), weights[-1]]


def _forward(network, transformer, params, y, context):
    weights, biases = network.layers(params, y, context)
    dim, slots, batch = network.dim, _slots(network), y.shape[:-1]
    acts, skips = network.activations(namespace(y)), network.skips
    rows = y.reshape(-1, dim).T
    n = rows.shape[1]
    b = [jnp.broadcast_to(a, (*batch, a.shape[-1])).reshape(n, -1).T if a.ndim > 1 else a[:, None] for a in biases]
    b = [*(_padded(a, s, 0) for a, s in zip(b, slots, strict=False)), b[-1]]
    # per step: from all slots of the layer before to the new slots
    w = [a.T.reshape(dim, -1, a.shape[0]) for a in _slotted(network, weights)]

    def step(carry, step_in):
        units, total = carry
        t, row, w, b = step_in
        fresh: list[jax.Array] = []
        for i in range(len(slots)):
            a = w[i] @ units[i] + b[i]
            if i in skips:
                a = a + fresh[-2]
            fresh.append(a)
            units[i + 1] = lax.dynamic_update_slice(units[i + 1], acts[i](a), (t * a.shape[0], 0))
        x, slope = transformer.inverse((w[-1] @ units[-1] + b[-1]).T, row)
        units[0] = lax.dynamic_update_slice(units[0], x[None], (t, 0))
        return (units, total + slope), None

    empty = [jnp.zeros((width, n), y.dtype) for width in (dim, *(s.size for s in slots))]
    steps = (jnp.arange(dim), rows, w, [a.reshape(dim, -1, a.shape[1]) for a in b])
    (units, total), _ = lax.scan(step, (empty, jnp.zeros(n, y.dtype)), steps)
    return units[0].T.reshape(y.shape), total.reshape(batch)


def _reverse(network, weights, bends, direct, slope, theta, push):
    """Solves ``J^T v = g``: one incremental pass from last to first; arguments as in ``sweep.reverse``."""
    dim, slots, shape, skips = network.dim, _slots(network), direct.shape, network.skips

    def rows(a):  # (*batch, dim, ...) -> (dim, ..., n)
        a = a.reshape(-1, *a.shape[len(shape) - 1 :])
        return jnp.moveaxis(a, 0, -1)

    direct, slope, theta, push = rows(direct), rows(slope), rows(theta), rows(push)
    bends = [_padded(rows(a), s, 0).reshape(dim, -1, direct.shape[1]) for a, s in zip(bends, slots, strict=True)]
    # per step: from the new slots to all slots of the layer after
    back = [w.reshape(dim, -1, w.shape[1]) for w in _slotted(network, weights)]

    def step(grads, step_in):
        t, direct, slope, theta, push, bends, back = step_in
        v = (direct + (back[0] @ grads[0])[0]) / slope
        out = push - v * theta
        grads[-1] = lax.dynamic_update_slice(grads[-1], out, (t * out.shape[0], 0))
        fresh: list[jax.Array] = []
        for i in reversed(range(len(slots))):
            new = (back[i + 1] @ grads[i + 1]) * bends[i]
            if i + 2 in skips:
                new = new + fresh[-2]
            fresh.append(new)
            grads[i] = lax.dynamic_update_slice(grads[i], new, (t * new.shape[0], 0))
        return grads, v

    n = direct.shape[1]
    empty = [jnp.zeros((width, n), direct.dtype) for width in (*(s.size for s in slots), dim * network.outputs)]
    steps = (jnp.arange(dim), direct, slope, theta, push, bends, back)
    _, v = lax.scan(step, empty, steps, reverse=True)
    return v.T.reshape(shape)
