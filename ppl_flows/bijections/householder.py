from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_generator, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Householder(Bijection):
    """Rotation by Householder reflections: ``y = H_k ... H_1 x, H_i = I - 2 v_i v_i^T / |v_i|^2``, with log_det 0.

    Starts at the identity: the vectors are random, but equal in pairs, and ``H H = I``. An odd number of reflections
    turns space inside out, so that it never is the identity. Exact inverse, the transpose; cost
    O(reflections (dim + reflections)) both ways, all reflections at once.

    Args:
        dim: event size, at least 1.
        reflections: how many, an even number; None takes dim or dim + 1, which reaches every rotation.

    Raises:
        ValueError: dim below 1, or reflections not even and positive.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Householder(4, reflections=2)
        >>> params = layer.init(np.random.default_rng(0))
        >>> layer.forward(params, np.array([1.0, 2.0, 3.0, 4.0]))[0].round(6)  # starts at the identity
        array([1., 2., 3., 4.])

    Reference: Tomczak & Welling (2016), Improving Variational Auto-Encoders using Householder Flow,
    arXiv:1611.09630. The product in one step: Joffrain et al. (2006), Accumulating Householder transformations,
    revisited, ACM TOMS 32(2).
    """

    dim: int
    _: KW_ONLY
    reflections: int = None  # type: ignore[assignment]  # None is replaced by a number

    def __post_init__(self) -> None:
        check_whole(self, dim=1)
        if self.reflections is None:
            object.__setattr__(self, "reflections", self.dim + self.dim % 2)
        check_whole(self, reflections=1)
        if self.reflections % 2:
            raise ValueError(
                f"Householder: reflections must be even and at least 2, got {self.reflections}; "
                "an odd number cannot start at the identity."
            )

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        v = rng.standard_normal((self.reflections // 2, self.dim))
        return {"v": np.repeat(v / np.linalg.norm(v, axis=-1, keepdims=True), 2, axis=0)}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return _reflect(params["v"], x, backwards=False)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return _reflect(params["v"], y, backwards=True)


def _reflect(v: Array, x: Array, backwards: bool) -> tuple[Array, Array]:
    """``H_k ... H_1 x``, or backwards ``H_1 ... H_k x``, for v ``(k, dim)``; and log_det.

    ``H_1 ... H_k = I - V S^-1 V^T`` with V's columns the vectors and S the upper triangle of ``V^T V``, half its
    diagonal: one triangular solve instead of k reflections one after another, and no vector has to be normalised.
    """
    xp = namespace(x)
    s = v @ v.T * xp.constant(_triangle(v.shape[0], backwards), v)
    return x - xp.solve_triangular(s, x @ v.T, lower=not backwards) @ v, xp.zeros_like(x[..., 0])


@cache
def _triangle(k: int, upper: bool) -> np.ndarray:
    lower = np.tril(np.ones((k, k)), -1) + 0.5 * np.eye(k)
    return lower.T if upper else lower
