from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace, unit_matrix
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class TriangularAffine(Bijection):
    """Affine map by a Cholesky factor: ``y = L x + b``, L lower triangular with ``exp(.)`` on the diagonal.

    On a standard normal base this is every full-rank normal, of covariance ``L L^T``. Starts at the identity. Exact
    inverse by a triangular solve; cost O(dim^2) both ways.

    Args:
        dim: event size, at least 1.

    Raises:
        ValueError: dim below 1.

    Reference: Dinh et al. (2014), NICE: Non-linear Independent Components Estimation, arXiv:1410.8516, sec. 3.1.
    """

    dim: int

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def init(self, rng: np.random.Generator) -> Params:
        # on l's diagonal stands the logarithm of L's; what is above it is not used
        return {"l": np.zeros((self.dim, self.dim)), "b": np.zeros(self.dim)}

    def _factor(self, params: Params) -> tuple[Array, Array]:
        l = params["l"]
        xp = namespace(l)
        log_diagonal = xp.linalg.diagonal(l)
        return xp.tril(l, k=-1) + unit_matrix(self.dim, l) * xp.exp(log_diagonal), xp.sum(log_diagonal)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        lower, log_det = self._factor(params)
        return x @ lower.T + params["b"], namespace(x).zeros_like(x[..., 0]) + log_det

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        lower, log_det = self._factor(params)
        return xp.solve_triangular(lower, y - params["b"], lower=True), xp.zeros_like(y[..., 0]) - log_det
