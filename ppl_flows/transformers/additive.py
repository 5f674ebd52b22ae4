from __future__ import annotations

from dataclasses import dataclass

from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array


@dataclass(frozen=True)
class Additive(Transformer):
    """Shift: ``y = x + t``, with log_det 0.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> y, log_slope = pf.Additive().forward(np.array([0.5]), np.array([-1.0, 2.0]))
        >>> y, log_slope
        (array([-0.5,  2.5]), array([0., 0.]))

    Reference: Dinh et al. (2014), NICE: Non-linear Independent Components Estimation, arXiv:1410.8516, eq. 6.
    """

    @property
    def size(self) -> int:
        return 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        y = x + theta[..., 0]
        return y, namespace(x).zeros_like(y)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        x = y - theta[..., 0]
        return x, namespace(y).zeros_like(x)
