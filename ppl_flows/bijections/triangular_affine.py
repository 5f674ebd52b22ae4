from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.metered_generator import zeros
from ppl_flows.core.namespace import below_diagonal, namespace, unit_matrix
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

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.TriangularAffine(2)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 2)))
        >>> log_det
        array([0., 0., 0., 0., 0.])

    Reference: Dinh et al. (2014), NICE: Non-linear Independent Components Estimation, arXiv:1410.8516, sec. 3.1.
    """

    dim: int

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def init(self, rng: np.random.Generator) -> Params:
        # on l's diagonal stands the logarithm of L's; what is above it is not used
        return {"l": zeros(rng, self.dim, self.dim), "b": np.zeros(self.dim)}

    def _factor(self, params: Params) -> tuple[Array, Array]:
        l = params["l"]
        xp, eye = namespace(l), unit_matrix(self.dim, l)
        log_diagonal = xp.sum(l * eye, axis=-1)  # products with constants: in JAX a tenth of the operations of tril's
        return l * xp.constant(below_diagonal(self.dim), l) + eye * xp.exp(log_diagonal), xp.sum(log_diagonal)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        lower, log_det = self._factor(params)
        return x @ lower.T + params["b"], namespace(x).broadcast_to(log_det, x.shape[:-1])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        lower, log_det = self._factor(params)
        return xp.solve_triangular(lower, y - params["b"], lower=True), xp.broadcast_to(-log_det, y.shape[:-1])
