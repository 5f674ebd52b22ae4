from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ppl_flows.bijections.permute import Permute
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_choice, check_flags, check_whole
from ppl_flows.core.metered_generator import zeros
from ppl_flows.core.namespace import below_diagonal, namespace, unit_matrix
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class LULinear(Bijection):
    """Linear map by its LU factors: ``y = P L U x + b``, on the last axis.

    P permutes, L is lower triangular with ones and U upper triangular with ``exp(.)`` on the diagonal, so that
    log_det is the sum of the logarithms of U's diagonal. P stays fixed. On the channels of an image this is Glow's
    1x1 convolution. Starts at P. Exact inverse by two triangular solves; cost O(dim^2) both ways.

    Args:
        dim: event size, at least 1.
        order: P as in ``Permute``, ``(P z)_i = z_{order[i]}``: ``"identity"``, ``"random"`` draws one from ``seed``,
            or a permutation of ``0, ..., dim - 1``.
        bias: whether there is a b.
        seed: used only to draw a random order, which is kept as a tuple.

    Raises:
        ValueError: dim below 1, or an order that is no permutation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.LULinear(3, order=(1, 2, 0))
        >>> params = layer.init(np.random.default_rng(0))
        >>> layer.forward(params, np.array([1.0, 2.0, 3.0]))[0]
        array([2., 3., 1.])

    Reference: Oliva et al. (2018), Transformation Autoregressive Networks, arXiv:1801.09819; Kingma &
    Dhariwal (2018), Glow, arXiv:1807.03039, eq. 10.
    """

    dim: int
    _: KW_ONLY
    order: str | tuple[int, ...] = "identity"
    bias: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, seed=0)
        check_flags(self, "bias")
        order: Any = self.order
        if isinstance(order, str):
            check_choice("LULinear", "order", order, ("identity", "random"), more=", or give a permutation")
            order = range(self.dim) if order == "identity" else None
        object.__setattr__(self, "order", Permute(self.dim, order=order, seed=self.seed).order)

    @cached_property
    def _permutation(self) -> Permute:
        return Permute(self.dim, order=self.order)  # type: ignore[arg-type]

    def init(self, rng: np.random.Generator) -> Params:
        # below the diagonal L, above it U, on it the logarithm of U's diagonal
        params = {"lu": zeros(rng, self.dim, self.dim)}
        return params | {"b": np.zeros(self.dim)} if self.bias else params

    def _factors(self, params: Params) -> tuple[Array, Array, Array]:
        lu = params["lu"]
        xp, eye = namespace(lu), unit_matrix(self.dim, lu)
        below, log_diagonal = xp.constant(below_diagonal(self.dim), lu), xp.sum(lu * eye, axis=-1)
        return lu * below + eye, lu * below.T + eye * xp.exp(log_diagonal), xp.sum(log_diagonal)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        lower, upper, log_det = self._factors(params)
        y, zero = self._permutation._forward({}, x @ upper.T @ lower.T, None)
        return y + params["b"] if self.bias else y, zero + log_det

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        lower, upper, log_det = self._factors(params)
        z, zero = self._permutation._inverse({}, y - params["b"] if self.bias else y, None)
        z = xp.solve_triangular(lower, z, lower=True)
        return xp.solve_triangular(upper, z, lower=False), zero - log_det
