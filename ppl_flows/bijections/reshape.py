from __future__ import annotations

import math
from dataclasses import dataclass

from ppl_flows.core.bijection import Bijection
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

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, sec. 3.6.
    """

    shape: tuple[int, ...]
    factor: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("Squeeze", self.shape))
        h, w, _ = self.shape
        if self.factor < 1 or h % self.factor or w % self.factor:
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
    """A flat vector to an image, row by row, with log_det 0: what a flow of vectors needs to be one of images.

    Args:
        shape: ``(height, width, channels)`` of y.

    Raises:
        ValueError: a shape that is not three numbers.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("Reshape", self.shape))

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
        xp = namespace(y)
        return xp.reshape(y, (*y.shape[:-3], *self.event_shape)), xp.zeros_like(y[..., 0, 0, 0])


def checked_shape(owner: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """shape as a tuple; raises ValueError unless it is ``(height, width, channels)``."""
    shape = tuple(shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{owner}: shape must be (height, width, channels), each at least 1, got {shape}.")
    return shape
