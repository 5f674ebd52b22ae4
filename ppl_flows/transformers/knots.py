"""Knots: what the spline transformers share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ppl_flows.core.checks import POSITIVE, check_real, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array


def check_knots(owner: Any, fewest: int) -> None:
    """Raises unless the fields bins, min_bin and (where they exist) bound and min_slope are in their ranges."""
    check_whole(owner, bins=fewest)
    ends = {"bound": POSITIVE, "min_bin": (0.0, 1 / owner.bins), "min_slope": (0.0, 1.0)}
    check_real(owner, **{name: e for name, e in ends.items() if hasattr(owner, name)})


def bin_sizes(raw: Array, bound: float, min_bin: float) -> Array:
    """Positive sizes of the last axis, which fill ``[-bound, bound]``; equal for ``raw = 0``."""
    return 2 * bound * (min_bin + (1 - min_bin * raw.shape[-1]) * namespace(raw).softmax(raw))


def knots(sizes: Array, bound: float) -> Array:
    """The ends of the bins: one number more than sizes, from -bound to exactly bound."""
    xp = namespace(sizes)
    inner = xp.cumulative_sum(sizes, axis=-1)[..., :-1] - bound
    edge = xp.full_like(inner[..., :1], bound)
    return xp.concat([-edge, inner, edge], axis=-1)


def bin_of(v: Array, table: Array, axis: int) -> tuple[Array, Array]:
    """What stands in the table at both ends of the bin in which v lies.

    Args:
        v: ``(*batch, dim)``, within the knots.
        table: ``(*batch, dim, rows, bins + 1)``, or broadcastable to it.
        axis: the row that holds the knots among which v is looked up.

    Returns:
        The rows at the left end and at the right end, each ``(*batch, dim, rows)``.
    """
    xp = namespace(v)
    k = xp.sum(v[..., None] >= table[..., axis, 1:-1], axis=-1)[..., None, None]
    k = xp.concat([k, k + 1], axis=-1)
    batch = np.broadcast_shapes(table.shape[:-2], k.shape[:-2])  # theta may have fewer batch axes than v, or more
    table = xp.broadcast_to(table, (*batch, *table.shape[-2:]))
    both = xp.take_along_axis(table, xp.broadcast_to(k, (*batch, table.shape[-2], 2)), axis=-1)
    return both[..., 0], both[..., 1]


def bins_first(theta: Array, v: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
    """theta with its last axis first, v fit to it, and what brings a result back to v's shape.

    Sums over the bins then run along contiguous numbers of the batch. Over a batch the coordinates come next and
    the batch last, since this turns the output of a network by one plain transposition.
    """
    xp = namespace(v)
    if v.ndim < 2 or theta.shape[:-1] != v.shape:  # one event, or theta and v broadcast
        theta = xp.moveaxis(theta[(None,) * (v.ndim + 1 - theta.ndim)], -1, 0)
        return theta, v, lambda a: a
    dim, size = theta.shape[-2:]
    rows = xp.transposed(xp.reshape(theta, (-1, dim * size)))
    rows = xp.moveaxis(xp.reshape(rows, (dim, size, -1)), 1, 0)
    return rows, xp.reshape(v, (-1, dim)).T, lambda a: xp.reshape(a.T, v.shape)


def bin_of_rows(v: Array, raw: Array, bound: float, min_bin: float, axis: int) -> tuple[Array, Array, Array]:
    """The bin in which v lies, among bins of which raw has unnormalised widths and then heights.

    Args:
        v: within ``[-bound, bound]``.
        raw: bins first, as in ``bins_first``.
        axis: 0 if v is on the axis of the widths, 1 for the heights.

    Returns:
        k, the bin's index; its lower left corner, x and y in the first axis; its width and height, likewise.
    """
    xp, bins = namespace(v), raw.shape[0] // 2
    raw = xp.reshape(raw, (2, bins, *raw.shape[1:]))
    least, rest = 2 * bound * min_bin, 2 * bound * (1 - min_bin * bins)
    e = xp.exp(raw - xp.stop_gradient(xp.max(raw, axis=1, keepdims=True)))
    scale = rest / xp.sum(e, axis=1)  # only of what is picked: the gradient then has fewer passes over all bins
    k, edge, v = xp.zeros_like(v), -bound, xp.stop_gradient(v)
    for size in xp.unstack(xp.stop_gradient(least + scale[axis] * e[axis])[:-1], axis=0):
        edge = edge + size
        k = k + xp.astype(v >= edge, v.dtype)
    return k, least * k + scale * pick(e, k, axis=1, below=True) - bound, least + scale * pick(e, k, axis=1)


def pick(rows: Array, k: Array, axis: int = 0, below: bool = False) -> Array:
    """Row k of the axis, or the sum of the rows below it; zeros where there is no such row."""
    xp, n = namespace(rows), rows.shape[axis]
    index = xp.constant(_count(n), k)[(slice(None), *(None,) * k.ndim)]
    return xp.masked_sum(rows, index < k if below else index == k, axis)


@cache
def _count(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float64)
