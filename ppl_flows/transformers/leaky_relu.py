from __future__ import annotations

from dataclasses import dataclass

from ppl_flows.core.checks import POSITIVE, check_real
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array


@dataclass(frozen=True)
class LeakyReLU(Transformer):
    """A learned slope on the negative side: ``y = x`` for ``x >= 0``, ``y = exp(a) x`` for ``x < 0``.

    log_det jumps by a at 0. Exact inverse.

    Args:
        max_log_slope: bound c on \\|a\\|, through ``a = c tanh(theta / c)``.

    Raises:
        ValueError: max_log_slope is not positive.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.LeakyReLU()
        >>> y, log_slope = h.forward(np.array([-1.0]), np.array([-1.0, 2.0]))
        >>> y.round(3), log_slope.round(3)
        (array([-0.381,  2.   ]), array([-0.965,  0.   ]))

    Reference: He et al. (2015), Delving Deep into Rectifiers, arXiv:1502.01852, eq. 1 (the parametric ReLU).
    """

    max_log_slope: float = 3.0

    def __post_init__(self) -> None:
        check_real(self, max_log_slope=POSITIVE)

    @property
    def size(self) -> int:
        return 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        return _bend(x, self._log_slope(theta))

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return _bend(y, -self._log_slope(theta))  # the sign of y is that of x

    def _log_slope(self, theta: Array) -> Array:
        return self.max_log_slope * namespace(theta).tanh(theta[..., 0] / self.max_log_slope)


def _bend(v: Array, a: Array) -> tuple[Array, Array]:
    xp = namespace(v)
    log_slope = xp.where(v < 0, a, 0.0)
    return v * xp.exp(log_slope), log_slope
