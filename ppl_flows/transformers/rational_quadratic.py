from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import partial

from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.transformers.knots import bin_of_rows, bins_first, check_knots, pick


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

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.RationalQuadratic(bins=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032, eqs. 4-8.
    """

    bins: int = 8
    _: KW_ONLY
    bound: float = 5.0
    min_bin: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_knots(self, fewest=2)

    @property
    def size(self) -> int:
        return 3 * self.bins - 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        return self._apply(theta, x, axis=0)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return self._apply(theta, y, axis=1)

    def _apply(self, theta: Array, v: Array, axis: int) -> tuple[Array, Array]:
        xp = namespace(v)
        rows, v, back = bins_first(theta, v)
        inside = (v > -self.bound) & (v < self.bound)
        v_in = xp.where(inside, v, 0.0)  # both branches are differentiated: keep the unused one finite
        out, log_slope = xp.rational_quadratic(partial(self._spline, axis), v_in, rows, axis, self)
        return back(xp.where(inside, out, v)), back(xp.where(inside, log_slope, 0.0))

    def _spline(self, axis: int, v: Array, rows: Array) -> tuple[Array, Array]:
        raw, raw_slopes = namespace(v).pieces(rows, (2 * self.bins, self.bins - 1), axis=0)
        k, corner, size = bin_of_rows(v, raw, self.bound, self.min_bin, axis)
        # no row stands for the outer knots, whose slope is 1
        slopes = (knot_slopes(pick(raw_slopes, end), self.min_slope) for end in (k - 1, k))
        return (spline_inverse if axis else spline)(v, corner, size, *slopes)


def knot_slopes(raw: Array, min_slope: float) -> Array:
    """Slopes above min_slope; 1 for ``raw = 0``."""
    return min_slope + namespace(raw).softplus(raw + identity_slope(min_slope))


def identity_slope(min_slope: float) -> float:
    """What softplus takes to ``1 - min_slope``."""
    return math.log(math.expm1(1 - min_slope))


def spline(x: Array, corner: Array, size: Array, d_0: Array, d_1: Array) -> tuple[Array, Array]:
    """``(y, log dy/dx)`` for x in a bin with its lower left corner, width and height, and slopes at its ends.

    Args:
        corner, size: x and y in the first axis.
    """
    w, h = size[0], size[1]
    s = h / w
    bend = d_0 + d_1 - 2 * s
    xi = (x - corner[0]) / w
    xi_1 = xi * (1 - xi)
    bottom = s + bend * xi_1
    y = corner[1] + h * (s * xi * xi + d_0 * xi_1) / bottom  # eq. 4
    return y, _log_slope(xi, xi_1, s, bottom, d_0, d_1)


def spline_inverse(y: Array, corner: Array, size: Array, d_0: Array, d_1: Array) -> tuple[Array, Array]:
    """``(x, log dx/dy)``, as ``spline``."""
    xp = namespace(y)
    w, h = size[0], size[1]
    s = h / w
    bend = d_0 + d_1 - 2 * s
    r = y - corner[1]
    a = h * (s - d_0) + r * bend  # eq. 7
    b = h * d_0 - r * bend
    c = -s * r
    xi = 2 * c / (-b - xp.sqrt(xp.clip(b * b - 4 * a * c, 0.0, None)))  # the root that stays accurate for a -> 0
    xi_1 = xi * (1 - xi)
    return corner[0] + xi * w, -_log_slope(xi, xi_1, s, s + bend * xi_1, d_0, d_1)


def _log_slope(xi: Array, xi_1: Array, s: Array, bottom: Array, d_0: Array, d_1: Array) -> Array:
    xp = namespace(xi)
    top = d_1 * xi * xi + 2 * s * xi_1 + d_0 * (1 - xi) ** 2  # eq. 5
    return xp.log(top) + 2 * xp.log(s / bottom)
