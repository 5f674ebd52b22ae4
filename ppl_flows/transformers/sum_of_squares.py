from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np

from ppl_flows.core.checks import POSITIVE, check_real, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.numerics.root_finding import numerical_inverse


@dataclass(frozen=True)
class SumOfSquares(Transformer):
    """Integral of a sum of squared polynomials: ``y = c + integral from 0 to x of e + (1 - e) sum_k p_k(t)^2 dt``.

    theta holds, per coordinate, c and the coefficients of ``p_k(t) = sum_l a_kl (t / scale)^l``. Far out y grows as
    ``x^(2 degree + 1)``: deep stacks can overflow in float32. The inverse is numerical; cost
    O(polynomials * degree^2) a coordinate and evaluation.

    Args:
        polynomials: number of squares, at least 1; 2 suffice for every positive polynomial.
        degree: of the p_k, at least 0.
        scale: the x at which all powers weigh the same.
        min_slope: e, the smallest slope, between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.SumOfSquares(polynomials=2, degree=2)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Jaini et al. (2019), Sum-of-Squares Polynomial Flow, arXiv:1905.02325.
    """

    polynomials: int = 3
    _: KW_ONLY
    degree: int = 3
    scale: float = 5.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_whole(self, polynomials=1, degree=0)
        check_real(self, scale=POSITIVE, min_slope=(0.0, 1.0))

    @property
    def size(self) -> int:
        return 1 + self.polynomials * (self.degree + 1)

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        y, log_slope = self._integral(x, self._coefficients(theta))
        return y + theta[..., 0], log_slope

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return numerical_inverse(self._integral, y - theta[..., 0], self._coefficients(theta))

    def _coefficients(self, theta: Array) -> Array:
        """a, ``(*batch, dim, polynomials, degree + 1)``."""
        xp = namespace(theta)
        a = xp.reshape(theta[..., 1:], (*theta.shape[:-1], self.polynomials, self.degree + 1))
        return a + xp.constant(_identity(self.polynomials, self.degree), theta)

    def _integral(self, x: Array, a: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        nodes, weights = (xp.constant(c, x) for c in _quadrature(self.degree))
        t = (x[..., None] * (nodes / self.scale))[..., None, :]  # (*batch, dim, 1, nodes)
        p = a[..., -1:]
        for l in reversed(range(self.degree)):
            p = p * t + a[..., l : l + 1]
        slopes = self.min_slope + (1 - self.min_slope) * xp.sum(p * p, axis=-2)
        # a sum of positive terms, exact for this degree; integrating the coefficients would cancel digits
        return x * xp.sum(weights * slopes[..., :-1], axis=-1), xp.log(slopes[..., -1])


@cache
def _identity(polynomials: int, degree: int) -> np.ndarray:
    """Constants whose squares sum to 1, and differ: equal polynomials would get equal gradients and stay equal."""
    a = np.zeros((polynomials, degree + 1))
    a[:, 0] = np.arange(1, polynomials + 1)
    return a / np.linalg.norm(a)


@cache
def _quadrature(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes on [0, 1], exact for a squared polynomial of this degree, with 1 appended; the weights."""
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    return np.append(0.5 * (nodes + 1), 1.0), 0.5 * weights
