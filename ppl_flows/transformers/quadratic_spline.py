from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.transformers.knots import bin_of, bin_sizes, check_knots, knots


@dataclass(frozen=True)
class QuadraticSpline(Transformer):
    """Piecewise quadratic on ``[-bound, bound]``, the identity outside: the slope is piecewise linear.

    theta holds, per coordinate, ``bins`` unnormalised widths and ``bins - 1`` slopes at the inner knots, which are
    scaled so that the spline rises by its width; the outer slopes are 1. Exact inverse; cost O(bins) a coordinate,
    both ways.

    Args:
        bins: number of segments, at least 3 (with 2, the scale leaves nothing free).
        bound: half-width of the interval, the same on both axes.
        min_bin: smallest width of a segment, as a fraction of the interval; below ``1 / bins``.
        min_slope: smallest slope at an inner knot before scaling, between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.QuadraticSpline(bins=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Müller et al. (2019), Neural Importance Sampling, arXiv:1808.03856, sec. 4.2; outer slopes of 1 as in
    Durkan et al. (2019), arXiv:1906.04032.
    """

    bins: int = 8
    _: KW_ONLY
    bound: float = 5.0
    min_bin: float = 1e-3
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_knots(self, fewest=3)

    @property
    def size(self) -> int:
        return 2 * self.bins - 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        inside = (x > -self.bound) & (x < self.bound)
        x_in = xp.where(inside, x, 0.0)
        left, right = bin_of(x_in, self._table(theta), axis=0)
        t = x_in - left[..., 0]
        xi = t / (right[..., 0] - left[..., 0])
        slope = left[..., 2] * (1 - xi) + right[..., 2] * xi
        y = left[..., 1] + 0.5 * t * (left[..., 2] + slope)
        return xp.where(inside, y, x), xp.where(inside, xp.log(slope), 0.0)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        inside = (y > -self.bound) & (y < self.bound)
        y_in = xp.where(inside, y, 0.0)
        left, right = bin_of(y_in, self._table(theta), axis=1)
        r = y_in - left[..., 1]
        rho = r / (right[..., 1] - left[..., 1])
        slope = xp.sqrt(left[..., 2] ** 2 * (1 - rho) + right[..., 2] ** 2 * rho)  # its square is linear in y
        x = left[..., 0] + 2 * r / (left[..., 2] + slope)
        return xp.where(inside, x, y), xp.where(inside, -xp.log(slope), 0.0)

    def _table(self, theta: Array) -> Array:
        """x, y and slope at the knots: ``(*batch, dim, 3, bins + 1)``."""
        xp, n = namespace(theta), self.bins
        w = bin_sizes(theta[..., :n], self.bound, self.min_bin)
        inner = self.min_slope + (1 - self.min_slope) * (n - 1) * xp.softmax(theta[..., n:])
        # Divide by the scale Z for which the spline rises by 2 bound while its outer slopes are 1:
        # 2 Z bound = sum of inner_k (w_k-1 + w_k) / 2 + Z (w_0 + w_K-1) / 2
        rise = xp.sum(0.5 * inner * (w[..., 1:] + w[..., :-1]), axis=-1, keepdims=True)
        scale = rise / (2 * self.bound - 0.5 * (w[..., :1] + w[..., -1:]))
        one = xp.ones_like(scale)
        slopes = xp.concat([one, inner / scale, one], axis=-1)
        h = 0.5 * w * (slopes[..., 1:] + slopes[..., :-1])
        return xp.concat([knots(xp.stack([w, h], axis=-2), self.bound), slopes[..., None, :]], axis=-2)
