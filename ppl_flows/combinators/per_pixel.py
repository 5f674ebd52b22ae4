"""``PerPixel``: a bijection of vectors at every pixel of an image."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support
from ppl_flows.core.types import Array, Observed, Params


@dataclass(frozen=True)
class PerPixel(Wrapper):
    """The same bijection of the channels at every pixel: log_det is the sum over the pixels.

    ``PerPixel(ActNorm(c), height=h, width=w)`` is the actnorm of an image, with ``BatchNorm(c)`` its batch norm and
    with ``LULinear(c)`` a 1x1 convolution. Statistics that a part takes from a batch are over rows and
    pixels.

    Args:
        part: a bijection of vectors; its parameters are those of this one.
        height, width: of the image, at least 1.

    Raises:
        ValueError: height or width below 1, or a part whose events are no vectors or that is batched.
        TypeError: the part is not a Bijection.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.PerPixel(pf.ActNorm(3), height=4, width=4)
        >>> params = layer.init(np.random.default_rng(0))
        >>> layer.forward(params, np.zeros((5, 4, 4, 3)))[0].shape
        (5, 4, 4, 3)
    """

    part: Bijection
    _: KW_ONLY
    height: int
    width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, height=1, width=1)
        if len(self.part.event_shape) != 1 or self.part.output_shape != self.part.event_shape:
            raise ValueError(
                f"PerPixel: the part must map the vector of channels to one of its size, got {self.part.event_shape} "
                f"to {self.part.output_shape}."
            )
        if self.part.batch_shape:
            raise ValueError("PerPixel: the part is Batched, whose batch the pixels would be; make the whole Batched.")

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.height, self.width, *self.part.event_shape)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.event_shape

    @property
    def domain(self) -> Support:
        return self._everywhere(self.part.domain)

    @property
    def codomain(self) -> Support:
        return self._everywhere(self.part.codomain)

    def _everywhere(self, support: Support) -> Support:
        return None if support is None else support * (self.height * self.width)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        y, log_det = self.part._forward(params, x, _per_pixel(context))
        return y, namespace(x).sum(log_det, axis=(-2, -1))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        x, log_det = self.part._inverse(params, y, _per_pixel(context))
        return x, namespace(y).sum(log_det, axis=(-2, -1))

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        new, out, log_det = self.part._observe(params, value, _per_pixel(context), forward, stage)
        return new, out, namespace(value).sum(log_det, axis=(-2, -1))


def _per_pixel(context: Array | None) -> Array | None:
    return None if context is None else context[..., None, None, :]
