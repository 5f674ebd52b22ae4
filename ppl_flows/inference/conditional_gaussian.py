"""A block of the latent vector given everything else: the Gaussian that the log density itself says it is.

With gradient g and negative Hessian P of the log density at a reference point of the block, both functions of all
other numbers, coordinates w become

    u = reference + P^-1 g + U^-T w,   P = U U^T,   log |du/dw| = -log |U|,

the exact conditional where the log density is quadratic in the block, whatever the reference. U is upper triangular, so
that u is lower triangular in w. This is the inner Gaussian of Rue, Martino & Chopin (2009), Approximate Bayesian
inference for latent Gaussian models, JRSS B 71(2), as a map.

Arrays are ``(*rows, n)``; all functions are pure, in any library, and differentiable.
"""

from __future__ import annotations

from typing import NamedTuple

from ppl_flows.core.namespace import namespace, unit_matrix
from ppl_flows.core.types import Array

ROUNDING = 10  # units of rounding by which the diagonal is raised: a matrix that is singular to it still has a factor


class Conditional(NamedTuple):
    """Of a block given everything else.

    Attributes:
        reference: point of the block, ``(n,)``.
        gradient: of the log density there, ``(*rows, n)``.
        precision: minus its second derivatives there, ``(*rows, n, n)``, positive definite.
    """

    reference: Array
    gradient: Array
    precision: Array

    def place(self, w: Array) -> tuple[Array, Array]:
        """``(u, log |det du/dw|)``, ``(*rows, n)`` and ``(*rows,)``."""
        _, inverse, pull, log_det = self._factors()
        return self.reference + _product(_transposed(inverse), pull + w), -log_det

    def unplace(self, u: Array) -> tuple[Array, Array]:
        """``(w, log |det dw/du|)``."""
        factor, _, pull, log_det = self._factors()
        return _product(_transposed(factor), u - self.reference) - pull, log_det

    def _factors(self) -> tuple[Array, Array, Array, Array]:
        """``U``, ``U^-1``, ``U^-1 g`` and ``log |U|``."""
        xp, precision = namespace(self.precision), self.precision
        raised = 1 + ROUNDING * xp.finfo(precision.dtype).eps * unit_matrix(precision.shape[-1], precision)
        # a Cholesky factor from the last coordinate to the first: its inverse transposed is lower triangular
        both = xp.cholesky(xp.flip(precision * raised, axis=(-2, -1)))
        factor, inverse = (xp.flip(a, axis=(-2, -1)) for a in both)
        log_det = xp.sum(xp.log(xp.linalg.diagonal(factor)), axis=-1)
        return factor, inverse, _product(inverse, self.gradient), log_det


def _product(matrix: Array, v: Array) -> Array:
    return (matrix @ v[..., None])[..., 0]


def _transposed(matrix: Array) -> Array:
    return namespace(matrix).matrix_transpose(matrix)
