"""JAX driver: inverse of a masked autoregressive map, with exact derivatives from the implicit function theorem."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Params
from ppl_flows.numerics import triangular_sweep
from ppl_flows.numerics.triangular_sweep import Order, Rules

if TYPE_CHECKING:
    from ppl_flows.conditioners.masked_mlp import MaskedMLP
    from ppl_flows.core.transformer import Transformer

Arrays = Sequence[Array]
System = tuple[Order, Rules, Arrays, Arrays, Arrays, Arrays]  # what ``triangular_sweep.substitute`` takes


def autoregressive_inverse(
    network: MaskedMLP, transformer: Transformer, method: str, params: Params, y: Array, context: Array | None
) -> tuple[Array, Array]:
    """As in ``Backend``."""
    y = y.astype(jnp.result_type(y, *jax.tree.leaves((params, context))))  # what the forward pass would promote to
    weights, biases = network.layers(params, y, context)
    return _inverse(network, transformer, method, y, biases, weights)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _inverse(
    network: MaskedMLP, transformer: Transformer, method: str, y: Array, biases: Arrays, weights: Arrays
) -> tuple[Array, Array]:
    batch, dim = y.shape[:-1], y.shape[-1]
    biases = [jnp.broadcast_to(a, (*batch, a.shape[-1])) if a.ndim > 1 else a[None] for a in biases]
    system = (
        triangular_sweep.order(network),
        triangular_sweep.inversion(network, transformer, y),
        [w.T for w in weights],
        [a.reshape(-1, a.shape[-1]).T for a in biases],
        (),
        (y.reshape(-1, dim).T,),
    )
    x, slopes = _solve(method, system)
    return x.T.reshape(y.shape), jnp.sum(slopes, axis=0).reshape(batch)


@_inverse.defjvp
def _inverse_jvp(
    network: MaskedMLP,
    transformer: Transformer,
    method: str,
    primals: tuple[Array, Arrays, Arrays],
    tangents: tuple[Array, Arrays, Arrays],
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """With F(x) = y and L the log_det of F, tangents (u, z) of the two outputs: J u = dy - dF and z = -dL - dL/dx u."""
    biases, weights = primals[1:]
    x, log_det = _inverse(network, transformer, method, *primals)

    def one_pass(
        x: Array, biases: list[Array], weights: list[Array]
    ) -> tuple[tuple[Array, Array], tuple[Arrays, Array]]:
        seen, theta = network.trace(weights, biases, x)
        y, slopes = transformer.forward(theta, x)
        return (y, jnp.sum(slopes, axis=-1)), (seen, theta)

    _, push, (seen, theta) = jax.linearize(one_pass, x, biases, weights, has_aux=True)
    held = jax.tree.map(jnp.zeros_like, (biases, weights))
    d_y, d_log_det = push(jnp.zeros_like(x), *tangents[1:])
    _, pull = jax.vjp(transformer.forward, theta, x)
    y_theta, y_x = pull((jnp.ones_like(x), jnp.zeros_like(x)))
    l_theta, l_x = pull((jnp.zeros_like(x), jnp.ones_like(x)))
    acts = network.mlp.activations(namespace(x))
    unit_slopes = [jax.vjp(act, a)[1](jnp.ones_like(a))[0] for act, a in zip(acts, seen, strict=True)]

    # one array of both unknowns: parts that are transposed must all depend on the tangents, and dL need not

    def matvec(unknown: Array) -> Array:
        u, z = unknown[..., :-1], unknown[..., -1]
        j_u, l_u = push(u, *held)
        return _joined(j_u, z + l_u)

    def solve(_: Any, right: Array) -> Array:
        u = _linear(network, method, (right[..., :-1], y_x, y_theta), unit_slopes, weights)
        return _joined(u, right[..., -1] - push(u, *held)[1])

    def transpose_solve(_: Any, right: Array) -> Array:
        g, l = right[..., :-1], right[..., -1:]
        data = (g - l * l_x, y_x, y_theta, -l[..., None] * l_theta)
        return _joined(_linear(network, method, data, unit_slopes, weights), l[..., 0])

    right = _joined(tangents[0] - d_y, -d_log_det)
    out = lax.custom_linear_solve(matvec, right, solve, transpose_solve)
    return (x, log_det), (out[..., :-1], out[..., -1])


def _joined(u: Array, z: Array) -> Array:
    return jnp.concatenate([u, z[..., None]], axis=-1)


def _linear(network: MaskedMLP, method: str, data: Arrays, unit_slopes: Arrays, weights: Arrays) -> Array:
    """Solves ``J u = b`` for data (b, dy/dx, dy/dtheta), or ``J^T v = g`` for (direct, dy/dx, dy/dtheta, push)."""
    shape, reverse = data[0].shape, len(data) == 4

    def rows(a: Array) -> Array:  # (*batch, features, ...) -> (features, ..., n)
        return jnp.moveaxis(a.reshape(-1, *a.shape[len(shape) - 1 :]), 0, -1)

    def flipped(a: Array, axes: int) -> Array:
        return jnp.flip(a, tuple(range(axes)))

    data, unit_slopes = [rows(a) for a in data], [rows(a) for a in unit_slopes]
    if reverse:  # the transposed network, all axes flipped
        order, rules = triangular_sweep.reverse_order(network), triangular_sweep.cotangent(network)
        data, unit_slopes = (
            [flipped(a, min(a.ndim - 1, 2)) for a in data],
            [flipped(a, 1) for a in reversed(unit_slopes)],
        )
        weights = [flipped(w, 2) for w in reversed(weights)]
    else:
        order, rules, weights = (
            triangular_sweep.order(network),
            triangular_sweep.tangent(network),
            [w.T for w in weights],
        )
    biases = [jnp.zeros((len(w), 1), w.dtype) for w in weights]
    _, out = _solve(method, (order, rules, weights, biases, unit_slopes, data))
    return (flipped(out, 1) if reverse else out).T.reshape(shape)


def _solve(method: str, system: System) -> tuple[Array, Array]:
    return triangular_sweep.iterate(*system) if method == "jacobi" else _substitute(*system)


def _substitute(
    order: Order, rules: Rules, weights: Arrays, biases: Arrays, unit_slopes: Arrays, data: Arrays
) -> tuple[Array, Array]:
    """As ``triangular_sweep.substitute``, as one scan over blocks, and in it one over the steps of a block.

    Slices of a scan have one size, so a step computes as many units as the largest one needs. Those too many belong
    to later steps, which overwrite them; until then all that is read of them is multiplied by weights of zero.
    """
    steps, n = data[0].shape[0], data[0].shape[-1]
    block = min(triangular_sweep.STEPS_PER_BLOCK, steps)
    blocks = -(-steps // block)
    at = np.minimum(np.arange(blocks * block), steps)  # steps beyond the last fill up the last block
    starts = [np.asarray(o)[at].reshape(blocks, block) for o in order]
    ends = [np.asarray(o)[np.minimum(np.arange(1, blocks + 1) * block, steps)] for o in order]
    size = [max(1, *np.diff(o)) for o in order]  # of a step
    width = [int(np.max(s[:, -1] - s[:, 0])) + m for s, m in zip(starts, size, strict=True)]  # of a block
    height = [int(s[-1, 0]) + w for s, w in zip(starts, width, strict=True)]  # of all blocks

    def padded(a: Array, *layers: int) -> Array:
        a = a[tuple(slice(order[j][-1]) for j in layers)]
        return jnp.pad(a, [(0, height[j] - order[j][-1]) for j in layers] + [(0, 0)] * (a.ndim - len(layers)))

    weights = [padded(w, i + 1, i) for i, w in enumerate(weights)]
    biases = [padded(b, i + 1) for i, b in enumerate(biases)]
    unit_slopes = [padded(b, i + 1) for i, b in enumerate(unit_slopes)]
    data = [jnp.pad(a, [(0, len(at) - steps)] + [(0, 0)] * (a.ndim - 1), mode="edge") for a in data]
    data = [a.reshape(blocks, block, *a.shape[1:]) for a in data]
    *hidden, out = range(len(weights))

    def rows(a: Array, start: Array, count: int) -> Array:
        return lax.dynamic_slice_in_dim(a, start, count)

    def solve_block(units: list[Array], now: Any) -> tuple[list[Array], Array]:
        first, last, steps_at, data = now
        sums = [
            rows(w, first[i + 1], width[i + 1]) @ units[i] + rows(b, first[i + 1], width[i + 1])
            for i, (w, b) in enumerate(zip(weights, biases, strict=True))
        ]
        near = [lax.dynamic_slice(w, (first[i + 1], first[i]), (width[i + 1], width[i])) for i, w in enumerate(weights)]

        def solve_step(own: list[Array], now: Any) -> tuple[list[Array], Array]:
            start, data = now
            earlier: list[jax.Array] = []

            def summed(i: int) -> Array:
                begin = start[i + 1] - first[i + 1]
                return rows(sums[i], begin, size[i + 1]) + rows(near[i], begin, size[i + 1]) @ own[i]

            def keep(j: int, values: Array) -> None:
                own[j] = lax.dynamic_update_slice_in_dim(own[j], values, start[j] - first[j], 0)

            for i in hidden:
                unit_slope = rows(unit_slopes[i], start[i + 1], size[i + 1]) if unit_slopes else None
                keep(i + 1, rules.unit(i, summed(i), earlier, unit_slope))
            inputs, result = rules.solve(summed(out), *data)
            keep(0, inputs.reshape(-1, n))
            return own, result

        own = [jnp.zeros((w, n), dtype) for w in width[:-1]]
        own, results = lax.scan(solve_step, own, (steps_at, data))
        for i, a in enumerate(own):
            finished = jnp.where((jnp.arange(width[i]) < last[i] - first[i])[:, None], a, 0)
            units[i] = lax.dynamic_update_slice_in_dim(units[i], finished, first[i], 0)
        return units, results

    dtype = data[0].dtype
    units = [jnp.zeros((h, n), dtype) for h in height[:-1]]
    units, results = lax.scan(solve_block, units, ([s[:, 0] for s in starts], ends, starts, data))
    return units[0][: order[0][-1]], results.reshape(-1, n)[:steps]
