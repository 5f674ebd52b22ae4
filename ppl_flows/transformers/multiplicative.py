from __future__ import annotations

from dataclasses import dataclass

from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.transformers.affine import bounded_log_scale, check_max_log_scale


@dataclass(frozen=True)
class Multiplicative(Transformer):
    """Positive scale: ``y = x exp(s)``; keeps 0 and the sign.

    Args:
        max_log_scale: bound on \\|s\\|, as in ``Affine``.

    Raises:
        ValueError: max_log_scale is not positive and finite.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.Multiplicative(max_log_scale=None)
        >>> h.forward(np.array([np.log(2.0)]), np.array([-1.0, 2.0]))[0]
        array([-2.,  4.])

    Reference: Dinh et al. (2014), NICE: Non-linear Independent Components Estimation, arXiv:1410.8516, sec. 3.2.
    """

    max_log_scale: float | None = 3.0

    def __post_init__(self) -> None:
        check_max_log_scale(self)

    @property
    def size(self) -> int:
        return 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp, s = namespace(x), bounded_log_scale(theta[..., 0], self.max_log_scale)
        y = x * xp.exp(s)
        return y, xp.broadcast_to(s, y.shape)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp, s = namespace(y), bounded_log_scale(theta[..., 0], self.max_log_scale)
        x = y * xp.exp(-s)
        return x, xp.broadcast_to(-s, x.shape)
