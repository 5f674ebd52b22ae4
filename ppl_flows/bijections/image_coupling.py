from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ppl_flows.bijections.reshape import checked_shape
from ppl_flows.conditioners.conv_net import ConvNet
from ppl_flows.conditioners.mlp import checked_hidden
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support, where_moved
from ppl_flows.core.transformer import Transformer, check_transformer
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Affine

MASKS = ("channels", "checkerboard")


@dataclass(frozen=True)
class ImageCoupling(Bijection):
    """A coupling of images: one part of the pixels or channels conditions the other through a convolutional network.

    Starts at the identity, as the network's last layer starts at zero. Exact inverse, if the transformer's is; cost one
    network pass both ways.

    Args:
        shape: ``(height, width, channels)``.
        transformer: the scalar map h: ``Additive``, ``Affine``, ``RationalQuadratic``, …
        mask: what conditions: ``"channels"``, the first half of them, or ``"checkerboard"``, every second pixel.
        flip: exchange the two parts; every second layer of a flow wants it.
        hidden: channels of the network's hidden layers.
        blocks: residual blocks of the network.
        activation: of the network, a name such as ``"silu"``.
        context_dim: size of the context, such as a class as one-hot vector; 0 for none.

    Raises:
        ValueError: a shape that is not three numbers, one channel with the channel mask, an unknown mask or
            activation.

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, sec. 3.4; Kingma & Dhariwal
    (2018), Glow, arXiv:1807.03039.
    """

    shape: tuple[int, ...]
    transformer: Transformer = Affine()
    mask: str = "channels"
    flip: bool = False
    hidden: int = 64
    blocks: int = 1
    activation: str = "silu"
    context_dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("ImageCoupling", self.shape))
        check_transformer("ImageCoupling", self.transformer)
        checked_hidden("ImageCoupling", (self.hidden,), self.activation)
        if self.mask not in MASKS:
            raise ValueError(f"ImageCoupling: unknown mask {self.mask!r}; choose one of {', '.join(MASKS)}.")
        if self.mask == "channels" and self.shape[-1] < 2:
            raise ValueError(
                f"ImageCoupling(shape={self.shape}): one channel cannot be split; squeeze first, or use a checkerboard."
            )
        if self.blocks < 0:
            raise ValueError(f"ImageCoupling: blocks must not be negative, got {self.blocks}.")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def codomain(self) -> Support:
        height, width, channels = self.shape
        if self.mask == "checkerboard":
            moved = np.broadcast_to(~_checkerboard(height, width, self.flip), self.shape)
        else:
            moved = np.broadcast_to((np.arange(channels) >= channels // 2) != self.flip, self.shape)
        return where_moved(self.transformer.codomain, moved.reshape(-1).tolist())

    @property
    def _split(self) -> tuple[int, int]:
        """Channels that enter the network, and channels that are moved."""
        c = self.shape[-1]
        if self.mask == "checkerboard":
            return c, c
        return (c - c // 2, c // 2) if self.flip else (c // 2, c - c // 2)

    @property
    def _network(self) -> ConvNet:
        passing, moved = self._split
        outputs = moved * self.transformer.size
        return ConvNet(passing, outputs, self.hidden, self.blocks, self.activation, self.context_dim)

    def init(self, rng: np.random.Generator) -> Params:
        return self._network.init(rng)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._apply(self.transformer.forward, params, x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._apply(self.transformer.inverse, params, y, context)

    def _apply(self, h, params: Params, v: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(v)

        def moved(a: Array, b: Array) -> tuple[Array, Array]:
            theta = self._network(params, a, context)
            return h(xp.reshape(theta, (*theta.shape[:-1], b.shape[-1], self.transformer.size)), b)

        if self.mask == "checkerboard":
            passes = xp.constant(_checkerboard(*self.shape[:2], self.flip), v) > 0
            out, slopes = moved(xp.where(passes, v, 0.0), v)
            return xp.where(passes, v, out), xp.sum(xp.where(passes, 0.0, slopes), axis=(-3, -2, -1))
        half = self.shape[-1] // 2
        first, second = v[..., :half], v[..., half:]
        if self.flip:
            first, slopes = moved(second, first)
        else:
            second, slopes = moved(first, second)
        return xp.concat([first, second], axis=-1), xp.sum(slopes, axis=(-3, -2, -1))


@cache
def _checkerboard(height: int, width: int, flip: bool) -> np.ndarray:
    """Where pixels pass, ``(height, width, 1)``."""
    i, j = np.indices((height, width))
    return ((i + j) % 2 == int(flip))[..., None]
