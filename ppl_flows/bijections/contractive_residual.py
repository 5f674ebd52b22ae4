from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import ceil, log

import numpy as np

from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_flags, check_real, check_whole, checked_widths
from ppl_flows.core.namespace import ACTIVATIONS, namespace
from ppl_flows.core.types import Array, Observed, Params
from ppl_flows.numerics.hutchinson_probes import check_dim, first_step, next_step, random_probes
from ppl_flows.numerics.jacobian_products import EXACT_UP_TO, Linearized, add_unit_matrix, linearize, lip_swish

BETA = 0.5  # LipSwish's beta is softplus of a parameter that starts here, as in the paper's code


@dataclass(frozen=True)
class ContractiveResidual(Bijection):
    """A residual block that is invertible because it contracts: ``y = x + g(x)`` with ``Lip(g) <= lipschitz < 1``.

    g is an MLP with LipSwish activations, ``a sigmoid(beta a) / 1.1``, whose matrices are divided by
    ``max(1, sigma / c)``, sigma the largest singular value and c the root of lipschitz that the layers share. The
    slope of every direction lies between ``1 - lipschitz`` and ``1 + lipschitz``. Starts next to the identity. The
    inverse is found by iteration, to the dtype's precision for every y; its gradient is that of the implicit function
    theorem. Cost: ``forward`` O(1) passes of g and the log_det's; ``inverse`` O(dim) passes and O(dim^3) a step, mostly
    fewer than ten.

    log_det is exact, at O(dim) passes and O(dim^3), or the paper's unbiased estimate, at some 20 passes:
    ``sum_k (-1)^(k+1) / k v^T J^k v`` with J = dg/dx and one random vector of signs v a row, of which the first
    ``terms`` are kept, and each further one only with probability ``lipschitz`` (Russian roulette), which bounds the
    variance. The gradient is that of the Neumann series, unbiased too. The random numbers are a function of x and of
    ``params["state"]["step"]``, which every training step advances: evaluation is deterministic given params, and over
    steps the estimate is unbiased.

    Args:
        dim: event size, at least 1.
        hidden: widths of g's hidden layers.
        lipschitz: bound on g's Lipschitz constant, between 0 and 1. Towards 1 one layer does more, but the inverse
            amplifies rounding by ``1 / (1 - lipschitz)``, and the estimate takes that many more terms; more layers
            are the better way to more freedom.
        exact: whether log_det is exact; None: for dim up to 32.
        terms: of the estimate's series, how many are always kept, at least 1.
        context_dim: size of the context, 0 for none; it enters g's first layer, which it may shift without bound.

    Raises:
        ValueError: dim below 1, or above 4,095 where log_det is estimated; lipschitz outside (0, 1); terms below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.ContractiveResidual(3, hidden=(16,), lipschitz=0.5)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Chen et al. (2019), Residual Flows for Invertible Generative Modeling, arXiv:1906.02735, eqs. 6 and 8;
    Behrmann et al. (2019), Invertible Residual Networks, arXiv:1811.00995.
    """

    dim: int
    _: KW_ONLY
    hidden: tuple[int, ...] = (64, 64)
    lipschitz: float = 0.9
    exact: bool | None = None
    terms: int = 10
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, terms=1, context_dim=0)
        check_real(self, lipschitz=(0.0, 1.0))
        if self.exact is not None:
            check_flags(self, "exact")
        object.__setattr__(self, "hidden", checked_widths("ContractiveResidual", self.hidden, "silu", ACTIVATIONS))
        if not self._exact:
            check_dim("ContractiveResidual", self.dim)

    @property
    def _exact(self) -> bool:
        return self.dim <= EXACT_UP_TO if self.exact is None else self.exact

    def init(self, rng: np.random.Generator) -> Params:
        params = MLP(self.hidden).bind(self.dim, self.dim, self.context_dim).init(rng)
        params = {**params, "beta": np.full(len(self.hidden), BETA)}
        return params if self._exact else {**params, "state": {"step": first_step(rng)}}

    def _network(self, params: Params, context: Array | None) -> tuple[list[Array], list[Array], Array]:
        """Weights of bounded norm, biases, and the betas."""
        xp, layers = namespace(params["w0"]), len(self.hidden) + 1
        weights = [params[f"w{i}"] for i in range(layers)]
        biases = [params[f"b{i}"] for i in range(layers)]
        if context is not None:
            biases[0] = biases[0] + context @ weights[0][self.dim :]
        weights[0] = weights[0][: self.dim]
        c = self.lipschitz ** (1 / layers)
        norms = [xp.linalg.svdvals(w)[..., 0] for w in weights]
        weights = [w / xp.where(s > c, s / c, xp.ones_like(s)) for w, s in zip(weights, norms, strict=True)]
        return weights, biases, xp.softplus(params["beta"])

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        g = _linearize(x, *self._network(params, context))
        return x + g.value, self._log_det(params, x, g)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        weights, biases, betas = self._network(params, context)
        stopped = [xp.stop_gradient(w) for w in weights], [xp.stop_gradient(b) for b in biases], xp.stop_gradient(betas)
        x = xp.stop_gradient(self._solve(xp.stop_gradient(y), *stopped))
        g = _linearize(x, weights, biases, betas)
        # one Newton step whose Jacobian is held fixed, as in numerical_inverse: its derivative is that of x
        x = x + _divide(xp.stop_gradient(add_unit_matrix(g.jacobian())), y - x - g.value)
        return x, -self._log_det(params, x, _linearize(x, weights, biases, betas))

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        if not self._exact and stage == "train":
            params = {**params, "state": {"step": next_step(params["state"]["step"])}}
        return super()._observe(params, value, context, forward, stage)

    def _solve(self, y: Array, weights: list[Array], biases: list[Array], betas: Array) -> Array:
        """x with ``x + g(x) = y``: the fixed-point step ``x <- y - g(x)``, or Newton's where that comes closer.

        The former shrinks the residual by lipschitz at least, so that a residual which does not shrink so is rounding.
        """
        xp = namespace(y)

        def residual_at(x: Array) -> tuple[Array, Array, Linearized]:
            g = _linearize(x, weights, biases, betas)
            residual = y - x - g.value
            return residual, xp.linalg.vector_norm(residual, axis=-1), g

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            x, size, going = state
            residual, _, g = residual_at(x)
            newton, fixed = x + _divide(add_unit_matrix(g.jacobian()), residual), x + residual
            newton_size, fixed_size = residual_at(newton)[1], residual_at(fixed)[1]
            closer = newton_size <= fixed_size
            best = xp.where(closer[..., None], newton, fixed)
            best_size = xp.where(closer, newton_size, fixed_size)
            going = going & (best_size < self.lipschitz * size)
            return xp.where(going[..., None], best, x), xp.where(going, best_size, size), going

        size = residual_at(y)[1]
        limit = ceil(log(float(xp.finfo(y.dtype).eps) / 100) / log(self.lipschitz))
        return xp.while_loop(lambda state: xp.any(state[-1]), body, (y, size, size > 0), limit)[0]

    def _log_det(self, params: Params, x: Array, g: Linearized) -> Array:
        xp = namespace(x)
        if self._exact:
            return xp.linalg.slogdet(add_unit_matrix(g.jacobian()))[1]
        v, u = random_probes(x, params["state"]["step"])
        stopped = Linearized(
            xp.stop_gradient(g.value), *(tuple(map(xp.stop_gradient, a)) for a in (g.weights, g.slopes))
        )
        value, w = self._series(stopped, v, u)
        surrogate = xp.sum(xp.stop_gradient(w) * g.jvp(v), axis=-1)  # its gradient is eq. 8
        return xp.stop_gradient(value) + (surrogate - xp.stop_gradient(surrogate))

    def _series(self, g: Linearized, v: Array, u: Array) -> tuple[Array, Array]:
        """``(sum_{k>=1} r_k (-1)^(k+1) / k v^T J^k v, sum_{k>=0} r_{k+1} (-J^T)^k v)``, r_k 1 or Russian roulette's."""
        xp = namespace(v)

        def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
            k, power, value, w = state  # power is (-J^T)^(k-1) v
            chance = self.lipschitz ** xp.maximum(k - self.terms, xp.zeros_like(k))
            r = xp.where(u < chance, 1 / chance, xp.zeros_like(u))
            w = w + r[..., None] * power
            power = -g.vjp(power)
            return k + 1, power, value - r / k * xp.sum(power * v, axis=-1), w

        def go_on(state: tuple[Array, ...]) -> Array:
            return xp.any((state[0] <= self.terms) | (u < self.lipschitz ** (state[0] - self.terms)))

        zero = xp.zeros_like(u)
        longest = self.terms + ceil(log(1e-8) / log(self.lipschitz))  # u is never smaller
        return xp.while_loop(go_on, body, (xp.ones_like(u), v, zero, xp.zeros_like(v)), longest)[2:]


def _linearize(x: Array, weights: list[Array], biases: list[Array], betas: Array) -> Linearized:
    return linearize(x, weights, biases, [lip_swish(betas[i]) for i in range(len(weights) - 1)])


def _divide(matrix: Array, v: Array) -> Array:
    """``matrix^-1 v`` for every row."""
    return namespace(v).linalg.solve(matrix, v[..., None])[..., 0]
