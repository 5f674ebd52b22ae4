"""Knots: what the spline transformers share."""

from __future__ import annotations

import numpy as np

from ppl_flows.core.bijection import Array
from ppl_flows.core.ops import namespace


def check_knots(owner, fewest: int) -> None:
    """Raises ValueError unless the fields bins, bound, min_bin and (where it exists) min_slope are in their ranges."""
    name = type(owner).__name__
    if owner.bins < fewest:
        raise ValueError(f"{name}: bins must be at least {fewest}, got {owner.bins}.")
    if not getattr(owner, "bound", 1.0) > 0:
        raise ValueError(f"{name}: bound must be positive, got {owner.bound}.")
    if not 0 < owner.min_bin < 1 / owner.bins:
        raise ValueError(f"{name}: min_bin must lie in (0, 1/bins), got {owner.min_bin}.")
    if not 0 < getattr(owner, "min_slope", 0.5) < 1:
        raise ValueError(f"{name}: min_slope must lie in (0, 1), got {owner.min_slope}.")


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
