from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import Any

import numpy as np

from ppl_flows.core.checks import check_real, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.numerics.root_finding import numerical_inverse


@dataclass(frozen=True)
class DeepSigmoidal(Transformer):
    """Logit of a mixture of sigmoids: ``y = e x + (1 - e) logit(sum_k w_k sigmoid(a_k x + b_k))``, e = ``min_slope``.

    ``a > 0``, w sums to 1. A universal approximator of increasing maps; with many units, multimodal densities. The
    paper's map is that of e = 0: between sharp units its slope falls like ``exp(-|a x + b|)``, which no arithmetic can
    invert, so here a share e of the identity stays. Numerical inverse; cost O(units) a coordinate, some tens of times
    that for the inverse.

    Args:
        units: number of sigmoids, at least 1; theta has three numbers for each.
        min_slope: e, and the smallest a; between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.DeepSigmoidal(units=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Huang et al. (2018), Neural Autoregressive Flows, arXiv:1804.00779, eq. 8 (DSF).
    """

    units: int = 8
    _: KW_ONLY
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_whole(self, units=1)
        check_min_slope(self)

    @property
    def size(self) -> int:
        return 3 * self.units

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp, k, e = namespace(x), self.units, self.min_slope
        a, b = slope_and_shift(theta[..., :k], theta[..., k : 2 * k], k, e)
        h, slope = logit_of_mixture(theta[..., 2 * k :], a * x[..., None] + b, a)
        return e * x + (1 - e) * h, xp.log(e + (1 - e) * slope)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return numerical_inverse(lambda x, theta: self.forward(theta, x), y, theta)


def slope_and_shift(a: Array, b: Array, units: int, min_slope: float) -> tuple[Array, Array]:
    """Each unit's ``(a, b)`` from what the conditioner gave; (1, 0) at 0."""
    xp = namespace(a)
    one = math.log(math.expm1(1 - min_slope))  # softplus(one) = 1 - min_slope
    # equal units get equal gradients, and a theta that starts at 0 would never tell them apart: let them move apart
    return min_slope + xp.softplus(a + one), b * xp.constant(_speeds(units), b)


def logit_of_mixture(w: Array, z: Array, dz: Array) -> tuple[Array, Array]:
    """``h = logit(sum_k softmax(w)_k sigmoid(z_k))`` over the last axis, and its derivative when z moves along dz.

    With F the sum, ``h = log F - log(1 - F)``, from which softmax's own denominator drops out. Both terms of the
    derivative are positive, and one of them is exact in either tail, where F (1 - F) would underflow.
    """
    xp = namespace(z)
    low = xp.softplus(-z)  # -log sigmoid(z)
    log_f, p = _logsumexp(w - low)
    log_1_f, q = _logsumexp(w - low - z)
    return log_f - log_1_f, xp.sum((p * xp.sigmoid(-z) + q * xp.sigmoid(z)) * dz, axis=-1)


def check_min_slope(owner: Any) -> None:
    """Raises unless the field min_slope lies between 0 and 1."""
    check_real(owner, min_slope=(0.0, 1.0))


def _logsumexp(v: Array) -> tuple[Array, Array]:
    """logsumexp over the last axis, and its gradient, the softmax."""
    xp = namespace(v)
    top = xp.stop_gradient(xp.max(v, axis=-1, keepdims=True))
    e = xp.exp(v - top)
    total = xp.sum(e, axis=-1, keepdims=True)
    return (top + xp.log(total))[..., 0], e / total


@cache
def _speeds(units: int) -> np.ndarray:
    return 0.5 + (np.arange(units) + 0.5) / units
