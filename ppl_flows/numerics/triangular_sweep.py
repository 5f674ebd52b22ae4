"""Triangular systems made of a masked autoregressive network, solved coordinate by coordinate in about one pass.

Inverting ``y_t = h(x_t; net(x_1, ..., x_{t-1}))`` needs x in order, and so do the two linear systems of its
derivative, ``J u = b`` and, in the reverse order, ``J^T v = g``. Step t computes only the hidden units that the steps
before it newly determine. Such units are neighbours, since the degrees of the network are sorted: steps are taken in
blocks, what a block needs of all earlier ones is one matrix product per layer, and the single steps work on the small
matrices inside the block. Arrays are ``(features, n)``: a step works on contiguous rows.

Here are the rules of the three systems, for every library, and the loop for those that run eagerly (NumPy, torch).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array

if TYPE_CHECKING:
    from ppl_flows.conditioners.masked_mlp import MaskedMLP
    from ppl_flows.core.transformer import Transformer

STEPS_PER_BLOCK = 16  # more make the small products of a step longer, fewer make the large ones inefficient

Order = tuple[tuple[int, ...], ...]


class Rules(NamedTuple):
    """What a step computes, besides its matrix products.

    Attributes:
        unit: ``(layer, a, earlier, unit_slope) -> value`` of units, from their sums a; ``earlier`` lists, for residual
            blocks, what this step's units of the layers before left there.
        solve: ``(theta, *data) -> (inputs, out)``: the rows that the first layer reads, and the step's result.
    """

    unit: Callable[..., Array]
    solve: Callable[..., tuple[Array, Array]]


def inversion(network: MaskedMLP, transformer: Transformer, like: Array) -> Rules:
    """``data = y``; the inputs are x, the results the log slopes of the inverse."""
    acts, skips = network.mlp.activations(namespace(like)), network.mlp.skips

    def unit(i: int, a: Array, earlier: list[Array], unit_slope: Array | None) -> Array:
        if i in skips:
            a = a + earlier[-2]
        earlier.append(a)
        return acts[i](a)

    return Rules(unit, lambda theta, y: transformer.inverse(theta.mT, y))


def tangent(network: MaskedMLP) -> Rules:
    """``J u = b`` for ``data = (b, dy/dx, dy/dtheta)``; inputs and results are u."""
    skips = network.mlp.skips

    def unit(i: int, a: Array, earlier: list[Array], unit_slope: Array | None) -> Array:
        if i in skips:
            a = a + earlier[-2]
        earlier.append(a)
        return a * unit_slope

    def solve(theta: Array, b: Array, slope: Array, by_theta: Array) -> tuple[Array, Array]:
        u = (b - (theta * by_theta).sum(-2)) / slope
        return u, u

    return Rules(unit, solve)


def cotangent(network: MaskedMLP) -> Rules:
    """``J^T v = g`` for ``data = (direct, dy/dx, dy/dtheta, push)``, the last two on their rows; results are v.

    g is the cotangent ``direct`` of x, and what the cotangent ``push`` of theta makes of x through the network.
    """
    last, skips = len(network.mlp.widths) - 1, network.mlp.skips

    def unit(i: int, a: Array, earlier: list[Array], unit_slope: Array | None) -> Array:
        a = a * unit_slope
        if last - i + 2 in skips:
            a = a + earlier[-2]
        earlier.append(a)
        return a

    def solve(back: Array, direct: Array, slope: Array, by_theta: Array, push: Array) -> tuple[Array, Array]:
        v = (direct + back[..., 0, :]) / slope
        return push - v[..., None, :] * by_theta, v

    return Rules(unit, solve)


@cache
def order(network: MaskedMLP) -> Order:
    """For x, each hidden layer and the output: step t computes the units, or makes the rows, ``[o[t], o[t + 1])``."""
    dim, p = network.length, network.outputs
    return (tuple(range(dim + 1)), *network.bounds()[1:], tuple(range(0, (dim + 1) * p, p)))


@cache
def reverse_order(network: MaskedMLP) -> Order:
    """The same of the transposed network, all its axes flipped: the output comes first, the last coordinate too."""
    x, *units, out = order(network)
    # v[t] needs the cotangents of units of degree t + 1 and higher; those of degree 0 see no x
    after = (tuple(u[-1] - b for b in (u[-1], *u[:0:-1])) for u in reversed(units))
    return (out, *after, x)


def whole_pass(
    rules: Rules,
    weights: Sequence[Array],
    biases: Sequence[Array],
    unit_slopes: Sequence[Array],
    data: Sequence[Array],
    inputs: Array,
) -> tuple[Array, Array]:
    """All steps at once, from inputs which may not be the right ones yet: the new inputs, and the results.

    After k passes the inputs of the first k steps are right. Arguments as of ``substitute``.
    """
    a, earlier = inputs, list[Array]()
    for i, unit_slope in enumerate(unit_slopes or [None] * (len(weights) - 1)):
        a = rules.unit(i, weights[i] @ a + biases[i], earlier, unit_slope)
    theta = weights[-1] @ a + biases[-1]
    inputs, results = rules.solve(theta.reshape(data[0].shape[0], -1, theta.shape[-1]), *data)
    return inputs.reshape(-1, inputs.shape[-1]), results


def iterate(
    order: Order,
    rules: Rules,
    weights: Sequence[Array],
    biases: Sequence[Array],
    unit_slopes: Sequence[Array],
    data: Sequence[Array],
) -> tuple[Array, Array]:
    """As ``substitute``, by parallel Jacobi iteration: whole passes until they move the inputs no more.

    At most one pass per step, which is exact; networks need far fewer, since what is wrong in the first coordinates
    fades on its way to the last.

    Reference: Song et al. (2021), Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving,
    arXiv:2002.03629.
    """
    y = data[0]
    xp = namespace(y)
    precision = 4 * float(xp.finfo(y.dtype).eps)

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        inputs, _, _ = state
        after, results = whole_pass(rules, weights, biases, unit_slopes, data, _finite(inputs))
        return after, results, xp.abs(after - inputs) > precision * (1 + xp.abs(after))

    start = _no_inputs(order, y)
    state = (start, xp.zeros_like(y), start < 1)
    inputs, results, _ = xp.while_loop(lambda state: xp.any(state[2]), body, state, len(y))
    return inputs, results


def unroll(
    order: Order,
    rules: Rules,
    weights: Sequence[Array],
    biases: Sequence[Array],
    unit_slopes: Sequence[Array],
    data: Sequence[Array],
) -> tuple[Array, Array]:
    """As ``iterate``, by one pass per step, whatever the data: for a record of it that is differentiated by itself."""
    inputs, results = _no_inputs(order, data[0]), data[0]
    for _ in order[0][1:]:
        inputs, results = whole_pass(rules, weights, biases, unit_slopes, data, _finite(inputs))
    return inputs, results


def _no_inputs(order: Order, y: Array) -> Array:
    xp = namespace(y)
    return xp.broadcast_to(xp.zeros_like(y[:1]), (order[0][-1], y.shape[-1]))


def _finite(inputs: Array) -> Array:
    """A wild trial of a later step must not reach the earlier ones, as zero times infinity."""
    xp = namespace(inputs)
    return xp.where(xp.isfinite(inputs), inputs, 0.0)


class InPlace(NamedTuple):
    """What NumPy and torch do differently: ``[a[o[t]:o[t + 1]] for t]``, ``a += w @ u`` and ``a[...] = b``."""

    views: Callable[[Array, Sequence[int]], Sequence[Array]]
    add_product: Callable[[Array, Array, Array], Any]
    store: Callable[[Array, Array], Any]


def substitute(
    library: InPlace,
    order: Order,
    rules: Rules,
    weights: Sequence[Array],
    biases: Sequence[Array],
    unit_slopes: Sequence[Array],
    data: Sequence[Array],
) -> tuple[Array, Array]:
    """The inputs of the network, ``(features, n)``, and the results of all steps, ``(dim, n)``.

    Args:
        order: ``order(network)`` or ``reverse_order(network)``.
        weights: masked, ``(out, in)`` each.
        biases: ``(out, n or 1)`` each.
        unit_slopes: for the rules of a linear system, ``(features, n)``: the derivative of the activation at each unit;
            else none.
        data: for the rules, ``(dim, ..., n)`` each.
    """
    views, add_product, store = library
    n, xp, steps = data[0].shape[-1], namespace(data[0]), len(order[0]) - 1
    like = {"dtype": data[0].dtype, "device": data[0].device}
    # zeros: the small products run over all units of their block, with weights of zero for those still to come
    units = [xp.zeros((o[-1], n), **like) for o in order[:-1]]
    units_at = [views(a, o) for a, o in zip(units, order, strict=False)]
    slopes_at = [views(a, o) for a, o in zip(unit_slopes, order[1:], strict=False)] or [(None,) * steps] * len(weights)
    blocks = [(first, min(first + STEPS_PER_BLOCK, steps)) for first in range(0, steps, STEPS_PER_BLOCK)]
    scratch = [xp.empty((max(o[last] - o[first] for first, last in blocks), n), **like) for o in order[1:]]
    now, results = list(zip(*data, strict=True)), []
    *hidden, out = range(len(weights))
    for first, last in blocks:
        sums, inner, read = [], [], []
        for i, w in enumerate(weights):
            old, new = order[i][first], order[i][last]
            begin, end = order[i + 1][first], order[i + 1][last]
            rows = [o - begin for o in order[i + 1][first : last + 1]]
            a = scratch[i][: end - begin]
            store(a, biases[i][begin:end])
            if old and begin < end:
                add_product(a, w[begin:end, :old], units[i][:old])
            sums.append(views(a, rows))
            inner.append(views(w[begin:end, old:new], rows))
            read.append(units[i][old:new])
        for t in range(first, last):
            earlier: list[Array] = []
            for i in hidden:
                if order[i + 1][t] < order[i + 1][t + 1]:
                    a = sums[i][t - first]
                    add_product(a, inner[i][t - first], read[i])
                    store(units_at[i + 1][t], rules.unit(i, a, earlier, slopes_at[i][t]))
            theta = sums[out][t - first]
            add_product(theta, inner[out][t - first], read[out])
            inputs, result = rules.solve(theta, *now[t])
            store(units_at[0][t], inputs)
            results.append(result)
    return units[0], xp.stack(results)
