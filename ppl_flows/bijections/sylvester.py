from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np

from ppl_flows.bijections.householder import Householder
from ppl_flows.bijections.orthogonal import Orthogonal
from ppl_flows.bijections.permute import Permute
from ppl_flows.conditioners import MLP
from ppl_flows.conditioners.hidden_layers import OUTPUT_SCALE
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_choice, check_flags, check_generator, check_whole
from ppl_flows.core.conditioner import Conditioner, Network, check_conditioner, theta_of
from ppl_flows.core.namespace import namespace, unit_matrix
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Array, Params
from ppl_flows.numerics.root_finding import numerical_inverse

VARIANTS = ("orthogonal", "householder", "triangular")


@dataclass(frozen=True)
class Sylvester(Bijection):
    """A planar layer of higher rank: ``y = x + Q R tanh(S Q^T x + b)``, S being the paper's R tilde.

    Q ``(dim, rank)`` has orthonormal columns; R and S ``(rank, rank)`` are upper triangular, with ``tanh(.)`` on their
    diagonals, so that ``R_ii S_ii > -1`` and the layer is invertible. Starts next to the identity: R is small. The
    inverse is exact: each coordinate of ``Q^T x``, given those after it, solves an increasing scalar equation, inverted
    numerically. ``forward`` costs O(dim rank) a row; ``inverse`` up to rank steps of O(rank^2), and O(rank^3) once.

    Args:
        dim: event size, at least 1.
        rank: the paper's M, from 1 to dim; None takes dim.
        variant: where Q comes from: ``"orthogonal"`` from the first columns of ``Orthogonal``'s matrix,
            ``"householder"`` from those of ``Householder``'s, ``"triangular"`` from the unit matrix.
        reflections: of the householder variant, as in ``Householder``.
        flip: in the triangular variant, the coordinates in reverse order, as every second layer wants it.
        conditioner: the network, without its sizes, that adds its output, a function of the context, to
            R, S and b (not to Q); not used without a context.
        context_dim: size of the context, 0 for none.

    Raises:
        ValueError: dim below 1, a rank not in 1, ..., dim, an unknown variant, or reflections that
            ``Householder`` refuses.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Sylvester(3, rank=2)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: van den Berg et al. (2018), Sylvester Normalizing Flows for Variational Inference, arXiv:1803.05649,
    sec. 3.
    """

    dim: int
    _: KW_ONLY
    rank: int = None  # type: ignore[assignment]  # None is replaced by a number
    variant: str = "orthogonal"
    reflections: int | None = None
    flip: bool = False
    conditioner: Conditioner = MLP((32,))
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, context_dim=0)
        if self.rank is None:
            object.__setattr__(self, "rank", self.dim)
        check_whole(self, rank=1)
        if self.rank > self.dim:
            raise ValueError(f"Sylvester(dim={self.dim}): rank must be one of 1, ..., {self.dim}, got {self.rank}.")
        check_choice("Sylvester", "variant", self.variant, VARIANTS)
        check_flags(self, "flip")
        if self.reflections is not None:
            check_whole(self, reflections=2)
        check_conditioner("Sylvester", self.conditioner, 1)
        _ = self._rotation  # checks the reflections

    @cached_property
    def _rotation(self) -> Bijection:
        if self.variant == "orthogonal":
            return Orthogonal(self.dim)
        if self.variant == "householder":
            return Householder(self.dim, reflections=self.reflections)  # type: ignore[arg-type]
        return Permute(self.dim, order=tuple(range(self.dim))[:: -1 if self.flip else 1])

    @cached_property
    def _network(self) -> Network:
        return self.conditioner.bind(self.context_dim, self.rank * (self.rank + 3))

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        k = self.rank
        # the two triangles in one matrix: R above the diagonal, the transpose of S below; S is not small, so that R
        # has something to combine
        rs = rng.standard_normal((k, k)) / k**0.5
        rotation = map_params(  # Q is no part of the identity at the start: better random, another one in every layer
            lambda _, a: a + rng.standard_normal(a.shape) / self.dim**0.5, self._rotation.init(rng)
        )
        params = {
            "rs": np.where(np.triu(np.ones((k, k))), OUTPUT_SCALE * rs, rs),
            "r": OUTPUT_SCALE * rng.standard_normal(k),
            "s": rng.standard_normal(k),
            "b": np.zeros(k),
            "rotation": rotation,
        }
        return params | {"net": self._network.init(rng)} if self.context_dim else params

    def _terms(self, params: Params, context: Array | None) -> tuple[Array, Array, Array, Array]:
        """``(Q^T, R, S, b)``."""
        rs, r, s, b = params["rs"], params["r"], params["s"], params["b"]
        xp, k = namespace(rs), self.rank
        if context is not None:
            shift = theta_of(self._network, self.rank * (self.rank + 3), params["net"], context, None)
            rs = rs + xp.reshape(shift[..., : k * k], (*shift.shape[:-1], k, k))
            r, s, b = (p + shift[..., k * (k + i) : k * (k + i + 1)] for i, p in enumerate((r, s, b)))
        eye = unit_matrix(self.dim, rs)
        columns = self._rotation._forward(params["rotation"], eye[:k], None)[0]
        eye = eye[:k, :k]
        R = xp.triu(rs, k=1) + eye * xp.tanh(r)[..., None]
        return columns, R, xp.matrix_transpose(xp.tril(rs, k=-1)) + eye * xp.tanh(s)[..., None], b

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        columns, R, S, b = self._terms(params, context)
        h = namespace(x).tanh(_times(S, x @ columns.T) + b)
        return x + _times(R, h) @ columns, _log_det(R, S, h)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        columns, R, S, b = self._terms(params, context)
        z_y = y @ columns.T
        z = xp.stop_gradient(_solve(*(xp.stop_gradient(a) for a in (R, S, b, z_y))))
        h = xp.tanh(_times(S, z) + b)
        # one Newton step whose slopes are held fixed, as in numerical_inverse: its derivative is that of z
        slopes = unit_matrix(self.rank, z) + (R * (1 - h * h)[..., None, :]) @ S
        z = z + xp.linalg.solve(xp.stop_gradient(slopes), (z_y - z - _times(R, h))[..., None])[..., 0]
        h = xp.tanh(_times(S, z) + b)
        return y - _times(R, h) @ columns, -_log_det(R, S, h)


def _solve(R: Array, S: Array, b: Array, z_y: Array) -> Array:
    """z with ``z + R tanh(S z + b) = z_y``.

    Every step inverts all coordinates, each given the step before of those after it. As R and S are triangular, one
    more coordinate from the end is then exact, and after rank steps all are; weak couplings need fewer.
    """
    xp = namespace(z_y)
    precision = 4 * float(xp.finfo(z_y.dtype).eps)
    r, s = xp.linalg.diagonal(R), xp.linalg.diagonal(S)
    R_after, S_after = xp.triu(R, k=1), xp.triu(S, k=1)

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        z, _ = state
        c = _times(S_after, z) + b
        after = numerical_inverse(_coordinate, z_y - _times(R_after, xp.tanh(s * z + c)), r, s, c)[0]
        return after, xp.abs(after - z) > precision * (1 + xp.abs(z))

    start = (z_y, z_y == z_y)  # noqa: PLR0124  an array of True
    return xp.while_loop(lambda state: xp.any(state[1]), body, start, z_y.shape[-1])[0]


def _coordinate(z: Array, r: Array, s: Array, c: Array) -> tuple[Array, Array]:
    """One coordinate of ``Q^T y`` as a function of that of ``Q^T x``, and its log slope."""
    xp = namespace(z)
    h = xp.tanh(s * z + c)
    return z + r * h, xp.log1p(r * s * (1 - h * h))


def _log_det(R: Array, S: Array, h: Array) -> Array:
    xp = namespace(h)
    return xp.sum(xp.log1p(xp.linalg.diagonal(R) * xp.linalg.diagonal(S) * (1 - h * h)), axis=-1)


def _times(matrix: Array, v: Array) -> Array:
    """matrix @ v over the batches of both."""
    return (v[..., None, :] @ namespace(v).matrix_transpose(matrix))[..., 0, :]
