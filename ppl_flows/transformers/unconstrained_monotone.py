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
class UnconstrainedMonotone(Transformer):
    """Integral of a positive network: ``y = t + int_0^x exp(v_0 + sum_k v_k tanh(w_k s + b_k)) ds``, linear far out.

    theta holds t and the network's weights. The integral is a Gauss-Legendre sum with fixed ``nodes``, and the slope
    is the derivative of that very sum, so log_det is exact. The sum increases in x because \\|w\\| is kept below the
    value at which, for every v and b, its derivative provably stays within half of the integrand. Beyond ``bound``
    the slope is that at the bound. Numerical inverse; cost O(nodes hidden) a coordinate, some tens of times that for
    the inverse.

    Args:
        hidden: number of tanh units, at least 1; theta has three numbers for each, and two more.
        nodes: points of the quadrature, at least 2; twice as many allow about twice as large w, the sharpness in x.
        bound: half-width of the interval on which the slope varies.
        max_log_slope: bound on the log of the integrand.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.UnconstrainedMonotone(hidden=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Wehenkel & Louppe (2019), Unconstrained Monotonic Neural Networks, arXiv:1908.05164, eq. 1 (there with
    Clenshaw-Curtis quadrature, which needs twice the nodes, and the integrand itself for the slope).
    """

    hidden: int = 8
    _: KW_ONLY
    nodes: int = 48
    bound: float = 5.0
    max_log_slope: float = 3.0

    def __post_init__(self) -> None:
        check_whole(self, hidden=1, nodes=2)
        check_real(self, bound=POSITIVE, max_log_slope=POSITIVE)

    @property
    def size(self) -> int:
        return 3 * self.hidden + 2

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        w, b, v, v_0 = self._weights(theta[..., :-1])
        node, weight = (xp.constant(a, x) for a in _quadrature(self.nodes))
        inside = xp.clip(x, -self.bound, self.bound)
        s = inside[..., None] * node
        unit = xp.tanh(s[..., None] * w[..., None, :] + b[..., None, :])  # (*batch, dim, nodes, hidden)
        f = weight * xp.exp(v_0 + xp.sum(v[..., None, :] * unit, axis=-1))
        bend = xp.sum((v * w)[..., None, :] * (1 - unit**2), axis=-1)  # d log f / ds
        slope = xp.sum(f * (1 + s * bend), axis=-1)
        y = theta[..., -1] + inside * xp.sum(f, axis=-1) + (x - inside) * slope
        return y, xp.log(slope)

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return numerical_inverse(lambda x, theta: self.forward(theta, x), y, theta)

    def _weights(self, theta: Array) -> tuple[Array, ...]:
        """w, b, v and v_0: units at rest lie side by side on the interval, and all \\|v\\| sum to less than c."""
        xp, k, c = namespace(theta), self.hidden, self.max_log_slope
        steepest = _steepest(self.nodes, self.bound, c)
        w = steepest * xp.tanh(theta[..., :k] + math.atanh(0.5))
        b = theta[..., k : 2 * k] - 0.5 * steepest * self.bound * xp.constant(_centers(k), theta)
        v = theta[..., 2 * k :]
        v = c * v / (c + xp.sum(xp.abs(v), axis=-1, keepdims=True))
        return w, b, v[..., :k], v[..., k:]


@cache
def _centers(units: int) -> np.ndarray:
    return (2 * np.arange(units) + 1) / units - 1


@cache
def _quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]."""
    t, weight = np.polynomial.legendre.leggauss(nodes)
    return (t + 1) / 2, weight / 2


@cache
def _steepest(nodes: int, bound: float, c: float) -> float:
    """The largest \\|w\\| for which the derivative of the sum stays within half of the integrand f, whatever v and b.

    That derivative is the same quadrature of ``g = (s f)'``, whose exact integral is f. Where ``|Im s| <= pi/(3 |w|)``,
    every tanh is at most sqrt(3) and its slope 4, so ``|f| <= exp(sqrt(3) c)`` and ``|g| <= |f| (1 + 4 c |w s|)``. This
    strip holds a Bernstein ellipse of ``[0, bound]``, by whose size the error of Gauss quadrature falls geometrically.

    Reference: Trefethen (2013), Approximation Theory and Approximation Practice, theorem 19.3.
    """

    def holds(w: float) -> bool:
        log_rho = math.asinh(2 * math.pi / (3 * w * bound))
        log_g = math.sqrt(3) * c + math.log1p(2 * c * w * bound * (1 + math.cosh(log_rho)))
        error = math.log(32 / 15) + log_g - 2 * (nodes - 1) * log_rho - math.log(-math.expm1(-2 * log_rho))
        return error <= math.log(0.5) - c  # f >= exp(-c)

    low, high = -20.0, 20.0  # log w
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(math.exp(middle)) else (low, middle)
    return math.exp(low)
