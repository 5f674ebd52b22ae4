from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Interval
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.transformers.knots import bin_of_rows, bins_first, check_knots, pick
from ppl_flows.transformers.rational_quadratic import knot_slopes, spline, spline_inverse

# pi, and what float32 makes of it
END = math.pi * (1 + 2**-23)


@dataclass(frozen=True)
class CircularRationalQuadratic(Transformer):
    """Angles: a rational-quadratic spline of the circle ``[-pi, pi)`` onto itself, then a rotation.

    theta holds, per coordinate, ``bins`` unnormalised widths, ``bins`` heights, ``bins`` slopes (first and last knot
    are the same point, and share one) and the angle of the rotation. Every input is wrapped into ``[-pi, pi)`` first,
    so this inverts on the circle only: a round trip of x gives ``wrap(x)``. The base has to live on the circle too,
    such as a uniform; of a ``Coupling`` all coordinates are angles. A network that conditions on an angle sees the
    number, which jumps from pi to -pi. Exact inverse; cost O(bins) a coordinate, both ways.

    Args:
        bins: number of segments, at least 2.
        min_bin: smallest width and height of a segment, as a fraction of the circle; below ``1 / bins``.
        min_slope: smallest slope at a knot, between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.CircularRationalQuadratic(bins=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Rezende et al. (2020), Normalizing Flows on Tori and Spheres, arXiv:2002.02428, sec. 2.1.2.
    """

    domain: ClassVar[Interval] = (-END, END)
    codomain: ClassVar[Interval] = (-END, END)

    bins: int = 8
    _: KW_ONLY
    min_bin: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_knots(self, fewest=2)

    @property
    def size(self) -> int:
        return 3 * self.bins + 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        y, log_slope = self._apply(spline, theta, _wrap(x), axis=0)
        return _wrap(y + theta[..., -1]), log_slope

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        x, log_slope = self._apply(spline_inverse, theta, _wrap(y - theta[..., -1]), axis=1)
        return _wrap(x), log_slope

    def _apply(
        self, formula: Callable[..., tuple[Array, Array]], theta: Array, v: Array, axis: int
    ) -> tuple[Array, Array]:
        xp, n = namespace(theta), 2 * self.bins
        rows, v, back = bins_first(theta[..., :-1], v)
        k, corner, size = bin_of_rows(v, rows[:n], math.pi, self.min_bin, axis)
        ends = rows[n:], xp.concat([rows[n + 1 :], rows[n : n + 1]], axis=0)
        out, log_slope = formula(v, corner, size, *(knot_slopes(pick(end, k), self.min_slope) for end in ends))
        return back(out), back(log_slope)


def _wrap(angle: Array) -> Array:
    turns = namespace(angle).floor((angle + math.pi) / (2 * math.pi))
    return angle - 2 * math.pi * turns
