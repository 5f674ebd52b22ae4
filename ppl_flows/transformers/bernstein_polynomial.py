from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np

from ppl_flows.core.checks import POSITIVE, check_real, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.numerics.root_finding import numerical_inverse


@dataclass(frozen=True)
class BernsteinPolynomial(Transformer):
    """Increasing polynomial on ``[-bound, bound]``: ``y = sum_i beta_i C(n, i) u^i (1 - u)^(n - i)`` with
    ``u = (x + bound) / (2 bound)``; outside, straight on with the value and slope of the end.

    theta holds, per coordinate, beta_0 and the increments of the increasing coefficients beta. The inverse is
    numerical; cost O(degree) a coordinate and evaluation.

    Args:
        degree: n, at least 1.
        bound: half-width of the interval.
        min_slope: smallest slope, between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.BernsteinPolynomial(degree=6)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Sick et al. (2021), Deep transformation models, arXiv:2004.00464; Ramasinghe et al. (2021),
    Robust normalizing flows using Bernstein-type polynomials, arXiv:2102.03509.
    """

    degree: int = 10
    _: KW_ONLY
    bound: float = 5.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_whole(self, degree=1)
        check_real(self, bound=POSITIVE, min_slope=(0.0, 1.0))

    @property
    def size(self) -> int:
        return self.degree + 1

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        return self._polynomial(x, *self._coefficients(theta))

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return numerical_inverse(self._polynomial, y, *self._coefficients(theta))

    def _coefficients(self, theta: Array) -> tuple[Array, Array]:
        """beta_0 .. beta_n-1, less those of the identity, and the mean slope from each to the next."""
        xp = namespace(theta)
        identity = math.log(math.expm1(1 - self.min_slope))  # softplus(identity) = 1 - min_slope
        slopes = self.min_slope + xp.softplus(theta[..., 1:] + identity)
        rise = xp.cumulative_sum((slopes[..., :-1] - 1) * (2 * self.bound / self.degree), axis=-1)
        first = theta[..., :1]
        return xp.concat([first, first + rise], axis=-1), slopes

    def _polynomial(self, x: Array, beta: Array, slopes: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        inside = (x > -self.bound) & (x < self.bound)
        x_in = xp.where(inside, x, 0.0)
        u = ((x_in + self.bound) / (2 * self.bound))[..., None]
        i, choose = (xp.constant(a, x) for a in _basis(self.degree - 1))
        basis = choose * u**i * (1 - u) ** (self.degree - 1 - i)
        slope = xp.sum(basis * slopes, axis=-1)  # the derivative has degree n - 1
        # one step of de Casteljau; x added to the polynomial of the difference, which rounds less than all of y
        y = x + xp.sum(basis * beta, axis=-1) + (x_in + self.bound) / self.degree * (slope - 1)
        left, right = slopes[..., 0], slopes[..., -1]
        end = self.bound + beta[..., -1] + (right - 1) * (2 * self.bound / self.degree)
        below = beta[..., 0] - self.bound + left * (x + self.bound)
        above = end + right * (x - self.bound)
        y = xp.where(inside, y, xp.where(x < 0, below, above))
        return y, xp.log(xp.where(inside, slope, xp.where(x < 0, left, right)))


@cache
def _basis(n: int) -> tuple[np.ndarray, np.ndarray]:
    """``i`` and ``C(n, i)``."""
    return np.arange(n + 1.0), np.array([float(math.comb(n, i)) for i in range(n + 1)])
