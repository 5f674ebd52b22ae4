from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_axes, check_whole, checked_shape, whole_number
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Squeeze(Bijection):
    """Space to depth: every ``factor x factor`` block of pixels becomes one pixel, with log_det 0.

    ``(height, width, channels)`` becomes ``(height / factor, width / factor, channels factor^2)``; a flow from the base
    to images uses its ``Inverse``.

    Args:
        shape: ``(height, width, channels)`` of x.
        factor: side of a block.

    Raises:
        ValueError: a height or width that factor does not divide.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Squeeze((4, 4, 3))
        >>> layer.output_shape
        (2, 2, 12)
        >>> layer.forward({}, np.zeros((5, 4, 4, 3)))[0].shape
        (5, 2, 2, 12)

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, sec. 3.6.
    """

    shape: tuple[int, ...]
    _: KW_ONLY
    factor: int = 2
    rearranges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("Squeeze", self.shape))
        h, w, _ = self.shape
        check_whole(self, factor=1)
        if h % self.factor or w % self.factor:
            raise ValueError(
                f"Squeeze: factor must divide height and width, got factor={self.factor} for {self.shape}."
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        h, w, c = self.shape
        return h // self.factor, w // self.factor, c * self.factor**2

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        f, (h, w, c), batch = self.factor, self.output_shape, x.shape[:-3]
        xp, n = namespace(x), len(batch)
        blocks = xp.reshape(x, (*batch, h, f, w, f, c // f**2))
        blocks = xp.permute_dims(blocks, (*range(n), n, n + 2, n + 1, n + 3, n + 4))
        return xp.reshape(blocks, (*batch, h, w, c)), xp.zeros_like(x[..., 0, 0, 0])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        f, (h, w, c), batch = self.factor, self.output_shape, y.shape[:-3]
        xp, n = namespace(y), len(batch)
        blocks = xp.reshape(y, (*batch, h, w, f, f, c // f**2))
        blocks = xp.permute_dims(blocks, (*range(n), n, n + 2, n + 1, n + 3, n + 4))
        return xp.reshape(blocks, (*batch, *self.shape)), xp.zeros_like(y[..., 0, 0, 0])


@dataclass(frozen=True)
class Reshape(Bijection):
    """A flat vector to an array, row by row, with log_det 0: what a flow of vectors needs to be one of images.

    Args:
        shape: of y, such as ``(height, width, channels)``.

    Raises:
        TypeError: no shape.
        ValueError: a shape without axes, or with an empty one.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> pf.Reshape((2, 2, 1)).forward({}, np.zeros((5, 4)))[0].shape
        (5, 2, 2, 1)
    """

    shape: tuple[int, ...]
    rearranges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.shape, Sequence):
            raise TypeError(f"Reshape: shape must be one such as (height, width, channels), got {self.shape!r}.")
        check_axes("Reshape", self.shape)
        shape = tuple(whole_number("Reshape", "every entry of shape", n) for n in self.shape)
        object.__setattr__(self, "shape", shape)
        if not shape:
            raise ValueError("Reshape: shape must have at least one axis, got ().")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (math.prod(self.shape),)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(x)
        return xp.reshape(x, (*x.shape[:-1], *self.shape)), xp.zeros_like(x[..., 0])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp, batch = namespace(y), y.shape[: y.ndim - len(self.shape)]
        x = xp.reshape(y, (*batch, *self.event_shape))
        return x, xp.zeros_like(x[..., 0])
