from __future__ import annotations

import math
from dataclasses import dataclass

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
        x_knots, y_knots, d_knots = self._knots(theta)
        inside = (x > -self.bound) & (x < self.bound)
        x_in = xp.where(inside, x, 0.0)  # both branches are differentiated: keep the unused one finite
        x_k, w, y_k, h, d_k, d_next = self._segment(x_in, x_knots, x_knots, y_knots, d_knots)
        s = h / w
        xi = (x_in - x_k) / w
        xi_1 = xi * (1 - xi)
        y = y_k + h * (s * xi**2 + d_k * xi_1) / (s + (d_next + d_k - 2 * s) * xi_1)  # eq. 4
        log_slope = self._log_slope(xi, s, d_k, d_next)
        return xp.where(inside, y, x), xp.where(inside, log_slope, 0.0)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        x_knots, y_knots, d_knots = self._knots(theta)
        inside = (y > -self.bound) & (y < self.bound)
        y_in = xp.where(inside, y, 0.0)
        x_k, w, y_k, h, d_k, d_next = self._segment(y_in, y_knots, x_knots, y_knots, d_knots)
        s = h / w
        r = y_in - y_k
        bend = d_next + d_k - 2 * s
        a = h * (s - d_k) + r * bend  # eq. 7
        b = h * d_k - r * bend
        c = -s * r
        xi = 2 * c / (-b - xp.sqrt(xp.clip(b**2 - 4 * a * c, 0.0, None)))  # the root that stays accurate for a -> 0
        log_slope = self._log_slope(xi, s, d_k, d_next)
        return xp.where(inside, x_k + xi * w, y), xp.where(inside, -log_slope, 0.0)

    def _log_slope(self, xi: Array, s: Array, d_k: Array, d_next: Array) -> Array:
        xp, xi_1 = namespace(xi), xi * (1 - xi)
        numerator = s**2 * (d_next * xi**2 + 2 * s * xi_1 + d_k * (1 - xi) ** 2)  # eq. 5
        return xp.log(numerator) - 2 * xp.log(s + (d_next + d_k - 2 * s) * xi_1)

    def _knots(self, theta: Array) -> tuple[Array, Array, Array]:
        """x and y of the knots, and the slopes there, each ``(*batch, dim, bins + 1)``."""
        xp, k = namespace(theta), self.bins
        one = xp.ones_like(theta[..., :1])
        identity = math.log(math.expm1(1 - self.min_slope))  # softplus(identity) = 1 - min_slope: slope 1 at theta = 0
        slopes = self.min_slope + xp.softplus(theta[..., 2 * k :] + identity)
        d = xp.concat([one, slopes, one], axis=-1)
        return self._positions(theta[..., :k]), self._positions(theta[..., k : 2 * k]), d

    def _positions(self, unnormalised: Array) -> Array:
        xp = namespace(unnormalised)
        sizes = self.min_bin + (1 - self.min_bin * self.bins) * xp.softmax(unnormalised)
        inner = 2 * self.bound * xp.cumulative_sum(sizes, axis=-1)[..., :-1] - self.bound
        edge = xp.full_like(inner[..., :1], self.bound)
        return xp.concat([-edge, inner, edge], axis=-1)

    def _segment(self, v: Array, edges: Array, x_knots: Array, y_knots: Array, d_knots: Array) -> tuple[Array, ...]:
        """``(x_k, w, y_k, h, d_k, d_k+1)`` of the segment of ``edges`` in which v lies."""
        xp = namespace(v)
        k = xp.sum(v[..., None] >= edges[..., 1:-1], axis=-1, keepdims=True)
        table = xp.stack([x_knots, y_knots, d_knots], axis=-2)
        shape = (*k.shape[:-1], 3)
        k = xp.broadcast_to(k[..., None, :], (*shape, 1))
        table = xp.broadcast_to(table, (*shape, self.bins + 1))
        left = xp.take_along_axis(table, k, axis=-1)[..., 0]
        right = xp.take_along_axis(table, k + 1, axis=-1)[..., 0]
        w, h, _ = (lambda d: (d[..., 0], d[..., 1], d[..., 2]))(right - left)
        return left[..., 0], w, left[..., 1], h, left[..., 2], right[..., 2]
