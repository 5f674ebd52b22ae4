from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ppl_flows.core.checks import POSITIVE, check_real
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array


@dataclass(frozen=True)
class Affine(Transformer):
    """Shift and positive scale: ``y = x exp(s) + t``.

    Args:
        max_log_scale: bound c on \\|s\\|, through ``s = c tanh(s' / c)``: a conditioner that runs wild far from the
            data then stays invertible in floating point. None: no bound.

    Raises:
        ValueError: max_log_scale is not positive and finite.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.Affine(max_log_scale=None)
        >>> y, log_slope = h.forward(np.array([1.0, np.log(2.0)]), np.array([-1.0, 2.0]))  # t and s
        >>> y, log_slope.round(3)
        (array([-1.,  5.]), array([0.693, 0.693]))

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, eq. 7.
    """

    max_log_scale: float | None = 3.0

    def __post_init__(self) -> None:
        check_max_log_scale(self)

    @property
    def size(self) -> int:
        return 2

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        t, s = xp.unstack(theta, axis=-1)
        s = bounded_log_scale(s, self.max_log_scale)
        y = x * xp.exp(s) + t
        return y, xp.broadcast_to(s, y.shape)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        t, s = xp.unstack(theta, axis=-1)
        log_slope = -bounded_log_scale(s, self.max_log_scale)
        x = (y - t) * xp.exp(log_slope)
        return x, xp.broadcast_to(log_slope, x.shape)


def bounded_log_scale(s: Array, bound: float | None) -> Array:
    """s, or ``bound tanh(s / bound)``: with slope 1 at 0, and never beyond the bound."""
    return s if bound is None else bound * namespace(s).tanh(s / bound)


def check_max_log_scale(owner: Any) -> None:
    """Raises unless the field max_log_scale is positive and finite, or None for no bound."""
    if owner.max_log_scale is not None:
        check_real(owner, max_log_scale=POSITIVE)
