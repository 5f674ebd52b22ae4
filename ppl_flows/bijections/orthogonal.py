from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.metered_generator import zeros
from ppl_flows.core.namespace import namespace, unit_matrix
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Orthogonal(Bijection):
    """Rotation by the Cayley map: ``y = Q x, Q = (I - A)^-1 (I + A), A = a - a^T``, with log_det 0.

    Q is every rotation without the eigenvalue -1, of which there are almost none. Starts at the identity. Exact
    inverse, the transpose; cost O(dim^3) once a call and O(dim^2) a row, both ways. ``Householder`` with few
    reflections is cheaper in high dimensions.

    Args:
        dim: event size, at least 1.

    Raises:
        ValueError: dim below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Orthogonal(3)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> log_det
        array([0., 0., 0., 0., 0.])

    Reference: Helfrich et al. (2018), Orthogonal Recurrent Neural Networks with Scaled Cayley Transform,
    arXiv:1707.09520.
    """

    dim: int

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def init(self, rng: np.random.Generator) -> Params:
        return {"a": zeros(rng, self.dim, self.dim)}

    def _matrix(self, params: Params) -> Array:
        a = params["a"]
        eye, skew = unit_matrix(self.dim, a), a - a.T
        return namespace(a).linalg.solve(eye - skew, eye + skew)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return x @ self._matrix(params).T, namespace(x).zeros_like(x[..., 0])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return y @ self._matrix(params), namespace(y).zeros_like(y[..., 0])
