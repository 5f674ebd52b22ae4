from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.numerics.root_finding import numerical_inverse
from ppl_flows.transformers.knots import bin_of, bin_sizes, check_knots, knots


@dataclass(frozen=True)
class CubicSpline(Transformer):
    """Monotone cubic Hermite spline on ``[-bound, bound]``, the identity outside.

    theta holds, per coordinate, ``bins`` unnormalised widths and ``bins`` heights. The slopes at the inner knots are
    Steffen's; the outer slopes are 1, or twice the mean slope of the outer bin where that is less, which keeps the
    cubic increasing. The inverse is numerical, within one bin; cost O(bins) a coordinate, both ways.

    Args:
        bins: number of segments, at least 2.
        bound: half-width of the interval, the same on both axes.
        min_bin: smallest width and height of a segment, as a fraction of the interval; below ``1 / bins``.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.CubicSpline(bins=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Durkan et al. (2019), Cubic-Spline Flows, arXiv:1906.02145, where the outer slopes are free;
    Steffen (1990), A simple method for monotonic interpolation in one dimension, Astron. Astrophys. 239, eqs. 8, 11.
    """

    bins: int = 8
    _: KW_ONLY
    bound: float = 5.0
    min_bin: float = 1e-3

    def __post_init__(self) -> None:
        check_knots(self, fewest=2)

    @property
    def size(self) -> int:
        return 2 * self.bins

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        inside = (x > -self.bound) & (x < self.bound)
        x_in = xp.where(inside, x, 0.0)
        y, log_slope = _cubic(x_in, *bin_of(x_in, self._table(theta), axis=0))
        return xp.where(inside, y, x), xp.where(inside, log_slope, 0.0)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        inside = (y > -self.bound) & (y < self.bound)
        y_in = xp.where(inside, y, 0.0)
        x, log_slope = numerical_inverse(_cubic, y_in, *bin_of(y_in, self._table(theta), axis=1))
        return xp.where(inside, x, y), xp.where(inside, log_slope, 0.0)

    def _table(self, theta: Array) -> Array:
        """x, y and slope at the knots: ``(*batch, dim, 3, bins + 1)``."""
        xp = namespace(theta)
        sizes = bin_sizes(xp.reshape(theta, (*theta.shape[:-1], 2, self.bins)), self.bound, self.min_bin)
        w, h = sizes[..., 0, :], sizes[..., 1, :]
        s = h / w
        s_left, s_right, w_left, w_right = s[..., :-1], s[..., 1:], w[..., :-1], w[..., 1:]
        p = (s_left * w_right + s_right * w_left) / (w_left + w_right)  # Steffen's eq. 8
        inner = xp.minimum(2 * xp.minimum(s_left, s_right), p)  # eq. 11, all slopes being positive
        outer = xp.clip(2 * s, None, 1.0)
        slopes = xp.concat([outer[..., :1], inner, outer[..., -1:]], axis=-1)
        return xp.concat([knots(sizes, self.bound), slopes[..., None, :]], axis=-2)


def _cubic(x: Array, left: Array, right: Array) -> tuple[Array, Array]:
    """``(y, log dy/dx)``, with x, y and slope at both ends of the bin; straight on beyond them, as a solver needs."""
    xp = namespace(x)
    size = right - left
    w, h = size[..., 0], size[..., 1]
    s = h / w
    a, b = left[..., 2] / s, right[..., 2] / s  # at most 2 each: increasing (Fritsch & Carlson ask for at most 3)
    xi = (x - left[..., 0]) / w
    u = xp.where(xi < 0, 0.0, xp.where(xi > 1, 1.0, xi))  # unlike clip, a full derivative at 0 and 1
    v = 1 - u
    slope = a * v**2 + 2 * (3 - a - b) * u * v + b * u**2
    y = left[..., 1] + h * (u**2 * (3 - 2 * u) + u * v * (a * v - b * u) + (xi - u) * slope)
    return y, xp.log(s * slope)
