from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ppl_flows.core.bijection import Array
from ppl_flows.core.ops import namespace
from ppl_flows.core.transformer import Transformer


@dataclass(frozen=True)
class RationalQuadratic(Transformer):
    """Monotone rational-quadratic spline on ``[-bound, bound]``, the identity outside.

    theta holds, per coordinate, ``bins`` unnormalised widths, ``bins`` heights and ``bins - 1`` slopes at the inner
    knots; the outer slopes are 1. Exact inverse (a quadratic equation); cost O(bins) a coordinate, both ways.

    Args:
        bins: number of segments, at least 2.
        bound: half-width of the interval, the same on both axes.
        min_bin: smallest width and height of a segment, as a fraction of the interval; below ``1 / bins``.
        min_slope: smallest slope at a knot, between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032, eqs. 4-8.
    """

    bins: int = 8
    bound: float = 5.0
    min_bin: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise ValueError(f"RationalQuadratic: bins must be at least 2, got {self.bins}.")
        if not self.bound > 0:
            raise ValueError(f"RationalQuadratic: bound must be positive, got {self.bound}.")
        if not 0 < self.min_bin < 1 / self.bins:
            raise ValueError(f"RationalQuadratic: min_bin must lie in (0, 1/bins), got {self.min_bin}.")
        if not 0 < self.min_slope < 1:
            raise ValueError(f"RationalQuadratic: min_slope must lie in (0, 1), got {self.min_slope}.")

    @property
    def size(self) -> int:
        return 3 * self.bins - 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        inside = (x > -self.bound) & (x < self.bound)
        x_in = xp.where(inside, x, 0.0)  # both branches are differentiated: keep the unused one finite
        x_k, w, y_k, h, d_k, d_next = self._segment(theta, x_in, axis=0)
        s = h / w
        xi = (x_in - x_k) / w
        xi_1 = xi * (1 - xi)
        bend = d_next + d_k - 2 * s
        y = y_k + h * (s * xi**2 + d_k * xi_1) / (s + bend * xi_1)  # eq. 4
        return xp.where(inside, y, x), xp.where(inside, self._log_slope(xi, xi_1, s, bend, d_k, d_next), 0.0)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        inside = (y > -self.bound) & (y < self.bound)
        y_in = xp.where(inside, y, 0.0)
        x_k, w, y_k, h, d_k, d_next = self._segment(theta, y_in, axis=1)
        s = h / w
        r = y_in - y_k
        bend = d_next + d_k - 2 * s
        a = h * (s - d_k) + r * bend  # eq. 7
        b = h * d_k - r * bend
        c = -s * r
        xi = 2 * c / (-b - xp.sqrt(xp.clip(b**2 - 4 * a * c, 0.0, None)))  # the root that stays accurate for a -> 0
        log_slope = self._log_slope(xi, xi * (1 - xi), s, bend, d_k, d_next)
        return xp.where(inside, x_k + xi * w, y), xp.where(inside, -log_slope, 0.0)

    def _log_slope(self, xi: Array, xi_1: Array, s: Array, bend: Array, d_k: Array, d_next: Array) -> Array:
        xp = namespace(xi)
        numerator = d_next * xi**2 + 2 * s * xi_1 + d_k * (1 - xi) ** 2  # eq. 5
        return xp.log(numerator) + 2 * xp.log(s / (s + bend * xi_1))

    def _segment(self, theta: Array, v: Array, axis: int) -> tuple[Array, ...]:
        """``(x_k, w, y_k, h, d_k, d_k+1)`` of the segment in which v lies, v on the x (0) or y (1) axis."""
        xp, bins, bound = namespace(v), self.bins, self.bound
        shape = theta.shape[:-1]
        share = xp.softmax(xp.reshape(theta[..., : 2 * bins], (*shape, 2, bins)))
        sizes = 2 * bound * (self.min_bin + (1 - self.min_bin * bins) * share)
        inner = xp.cumulative_sum(sizes, axis=-1)[..., :-1] - bound
        edge = xp.full_like(inner[..., :1], bound)
        knots = xp.concat([-edge, inner, edge], axis=-1)  # x and y, (*batch, dim, 2, bins + 1)
        identity = math.log(math.expm1(1 - self.min_slope))  # softplus(identity) = 1 - min_slope: slope 1 at theta = 0
        slopes = self.min_slope + xp.softplus(theta[..., 2 * bins :] + identity)
        one = xp.ones_like(slopes[..., :1])
        table = xp.concat([knots, xp.concat([one, slopes, one], axis=-1)[..., None, :]], axis=-2)
        k = xp.sum(v[..., None] >= knots[..., axis, 1:-1], axis=-1)[..., None, None]
        both = xp.take_along_axis(*_same_batch(xp, table, xp.concat([k, k + 1], axis=-1)), axis=-1)
        left, size = both[..., 0], both[..., 1] - both[..., 0]
        return left[..., 0], size[..., 0], left[..., 1], size[..., 1], left[..., 2], both[..., 2, 1]


def _same_batch(xp, table: Array, k: Array) -> tuple[Array, Array]:
    """Both with the same batch axes: theta may have fewer than x, or more."""
    batch = np.broadcast_shapes(table.shape[:-2], k.shape[:-2])
    return xp.broadcast_to(table, (*batch, *table.shape[-2:])), xp.broadcast_to(k, (*batch, 3, 2))
