from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np

from ppl_flows.bijections.lu_linear import LULinear
from ppl_flows.combinators.per_pixel import PerPixel
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_flags, check_generator, check_whole, checked_shape
from ppl_flows.core.metered_generator import MeteredGenerator
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Invertible1x1Conv(Bijection):
    """A learned mixing of the channels, the same at every pixel: ``y = W x``.

    ``W = P L U`` as in ``LULinear``, with log_det ``height width sum(log U_ii)``; starts at the permutation P. Or
    dense: W is the parameter, starts at a random rotation, and its determinant costs O(channels^3) a call. Exact
    inverse.

    Args:
        shape: ``(height, width, channels)``.
        dense: the dense form.
        order, seed: P, as in ``LULinear``; of the LU form.

    Raises:
        ValueError: a shape that is not three numbers, or an order that is no permutation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Invertible1x1Conv((1, 2, 3), order=(2, 1, 0))
        >>> params = layer.init(np.random.default_rng(0))
        >>> layer.forward(params, np.arange(6.0).reshape(1, 2, 3))[0]
        array([[[2., 1., 0.],
                [5., 4., 3.]]])

    Reference: Kingma & Dhariwal (2018), Glow, arXiv:1807.03039, sec. 3.2.
    """

    shape: tuple[int, ...]
    _: KW_ONLY
    dense: bool = False
    order: str | tuple[int, ...] = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("Invertible1x1Conv", self.shape))
        check_whole(self, seed=0)
        check_flags(self, "dense")
        object.__setattr__(self, "order", LULinear(self.shape[-1], order=self.order, seed=self.seed).order)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.shape

    @cached_property
    def _lu(self) -> Bijection:
        height, width, channels = self.shape
        return PerPixel(LULinear(channels, order=self.order, bias=False), height=height, width=width)

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        if not self.dense:
            return self._lu.init(rng)
        w = rng.standard_normal((self.shape[-1],) * 2)
        return {"w": w if isinstance(rng, MeteredGenerator) else np.linalg.qr(w)[0]}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        if not self.dense:
            return self._lu._forward(params, x, None)
        return x @ params["w"].T, self._log_det(params, x)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        if not self.dense:
            return self._lu._inverse(params, y, None)
        return y @ namespace(y).linalg.inv(params["w"]).T, -self._log_det(params, y)

    def _log_det(self, params: Params, like: Array) -> Array:
        xp, (height, width, _) = namespace(like), self.shape
        return xp.zeros_like(like[..., 0, 0, 0]) + height * width * xp.linalg.slogdet(params["w"])[1]
