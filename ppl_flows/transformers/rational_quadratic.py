from __future__ import annotations

import math
from dataclasses import dataclass

from ppl_flows.core.bijection import Array
from ppl_flows.core.ops import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.transformers.knots import bin_of, bin_sizes, check_knots, knots


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
        check_knots(self, fewest=2)

    @property
    def size(self) -> int:
        return 3 * self.bins - 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        inside = (x > -self.bound) & (x < self.bound)
        x_in = xp.where(inside, x, 0.0)  # both branches are differentiated: keep the unused one finite
        y, log_slope = spline(x_in, *bin_of(x_in, self._table(theta), axis=0))
        return xp.where(inside, y, x), xp.where(inside, log_slope, 0.0)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        inside = (y > -self.bound) & (y < self.bound)
        y_in = xp.where(inside, y, 0.0)
        x, log_slope = spline_inverse(y_in, *bin_of(y_in, self._table(theta), axis=1))
        return xp.where(inside, x, y), xp.where(inside, log_slope, 0.0)

    def _table(self, theta: Array) -> Array:
        """x, y and slope at the knots: ``(*batch, dim, 3, bins + 1)``."""
        xp, n = namespace(theta), 2 * self.bins
        raw = xp.reshape(theta[..., :n], (*theta.shape[:-1], 2, self.bins))
        xy = knots(bin_sizes(raw, self.bound, self.min_bin), self.bound)
        slopes = knot_slopes(theta[..., n:], self.min_slope)
        one = xp.ones_like(slopes[..., :1])
        return xp.concat([xy, xp.concat([one, slopes, one], axis=-1)[..., None, :]], axis=-2)


def knot_slopes(raw: Array, min_slope: float) -> Array:
    """Slopes above min_slope; 1 for ``raw = 0``."""
    identity = math.log(math.expm1(1 - min_slope))  # softplus(identity) = 1 - min_slope
    return min_slope + namespace(raw).softplus(raw + identity)


def spline(x: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """``(y, log dy/dx)`` for x in a bin with x, y and slope at its ends, ``(*batch, dim, 3)``, left and right."""
    w, h, s, bend = _shape(left, right)
    xi = (x - left[..., 0]) / w
    xi_1 = xi * (1 - xi)
    y = left[..., 1] + h * (s * xi**2 + left[..., 2] * xi_1) / (s + bend * xi_1)  # eq. 4
    return y, _log_slope(xi, xi_1, s, bend, left, right)


def spline_inverse(y: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """``(x, log dx/dy)``, as ``spline``."""
    xp = namespace(y)
    w, h, s, bend = _shape(left, right)
    r = y - left[..., 1]
    a = h * (s - left[..., 2]) + r * bend  # eq. 7
    b = h * left[..., 2] - r * bend
    c = -s * r
    xi = 2 * c / (-b - xp.sqrt(xp.clip(b**2 - 4 * a * c, 0.0, None)))  # the root that stays accurate for a -> 0
    return left[..., 0] + xi * w, -_log_slope(xi, xi * (1 - xi), s, bend, left, right)


def _shape(left: Array, right: Array) -> tuple[Array, Array, Array, Array]:
    size = right - left
    w, h = size[..., 0], size[..., 1]
    s = h / w
    return w, h, s, right[..., 2] + left[..., 2] - 2 * s


def _log_slope(xi: Array, xi_1: Array, s: Array, bend: Array, left: Array, right: Array) -> Array:
    xp = namespace(xi)
    numerator = right[..., 2] * xi**2 + 2 * s * xi_1 + left[..., 2] * (1 - xi) ** 2  # eq. 5
    return xp.log(numerator) + 2 * xp.log(s / (s + bend * xi_1))
