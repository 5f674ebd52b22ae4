from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.transformers.knots import bin_of, bin_sizes, check_knots, knots


@dataclass(frozen=True)
class LinearSpline(Transformer):
    """Piecewise linear on ``[-bound, bound]``, in bins of equal width; the identity outside.

    theta holds, per coordinate, ``bins`` unnormalised heights. The slope, and with it the density, jumps at the
    knots. Exact inverse; cost O(bins) a coordinate, both ways.

    Args:
        bins: number of segments, at least 2.
        bound: half-width of the interval, the same on both axes.
        min_bin: smallest height of a segment, as a fraction of the interval; below ``1 / bins``.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.LinearSpline(bins=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Müller et al. (2019), Neural Importance Sampling, arXiv:1808.03856, sec. 4.1.
    """

    bins: int = 16
    _: KW_ONLY
    bound: float = 5.0
    min_bin: float = 1e-3

    def __post_init__(self) -> None:
        check_knots(self, fewest=2)

    @property
    def size(self) -> int:
        return self.bins

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        return self._between_knots(theta, x, 0, 1)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return self._between_knots(theta, y, 1, 0)

    def _between_knots(self, theta: Array, v: Array, a: int, b: int) -> tuple[Array, Array]:
        """From axis a to axis b, where 0 is x and 1 is y."""
        xp = namespace(v)
        inside = (v > -self.bound) & (v < self.bound)
        v_in = xp.where(inside, v, 0.0)
        sizes = bin_sizes(xp.stack([xp.zeros_like(theta), theta], axis=-2), self.bound, self.min_bin)
        left, right = bin_of(v_in, knots(sizes, self.bound), a)
        size = right - left
        slope = size[..., b] / size[..., a]
        out = left[..., b] + (v_in - left[..., a]) * slope
        return xp.where(inside, out, v), xp.where(inside, xp.log(slope), 0.0)
