from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from ppl_flows.core.checks import POSITIVE, check_real
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array


@dataclass(frozen=True)
class SinhArcsinh(Transformer):
    """Skew and tail weight: ``y = sinh(exp(t) * (asinh(x) + s))``.

    ``s > 0`` skews to the right; ``t > 0`` makes the tails heavier, ``t < 0`` lighter, since far out y grows as
    ``|x| ** exp(t)``. Exact inverse. Both parameters are bounded softly, ``c * tanh(theta / c)``, so that a
    conditioner that runs wild far from the data does not overflow.

    Args:
        max_skew: bound on \\|s\\|.
        max_log_tail: bound on \\|t\\|; 1 keeps y finite in float32 for \\|x\\| up to 1e12.

    Raises:
        ValueError: a bound is not positive.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.SinhArcsinh()
        >>> y, log_slope = h.forward(np.array([0.0, 0.5]), np.array([-3.0, 0.0, 3.0]))  # heavier tails
        >>> y.round(2)
        array([-8.94,  0.  ,  8.94])

    Reference: Jones & Pewsey (2009), Sinh-arcsinh distributions, Biometrika 96(4), there with ``epsilon = s``,
    ``delta = exp(-t)``.
    """

    max_skew: float = 3.0
    _: KW_ONLY
    max_log_tail: float = 1.0

    def __post_init__(self) -> None:
        check_real(self, max_skew=POSITIVE, max_log_tail=POSITIVE)

    @property
    def size(self) -> int:
        return 2

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        s, t = self._skew_and_tail(theta)
        a = xp.asinh(x)
        b = xp.exp(t) * (a + s)
        return xp.sinh(b), t + _log_cosh(b) - _log_cosh(a)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        s, t = self._skew_and_tail(theta)
        b = xp.asinh(y)
        a = xp.exp(-t) * b - s
        return xp.sinh(a), _log_cosh(a) - _log_cosh(b) - t

    def _skew_and_tail(self, theta: Array) -> tuple[Array, Array]:
        xp = namespace(theta)
        s = self.max_skew * xp.tanh(theta[..., 0] / self.max_skew)
        return s, self.max_log_tail * xp.tanh(theta[..., 1] / self.max_log_tail)


def _log_cosh(a: Array) -> Array:
    # cosh(asinh(x)) = sqrt(1 + x^2), but neither the cosh nor the square may overflow
    return a + namespace(a).softplus(-2 * a) - math.log(2)
