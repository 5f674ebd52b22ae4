"""``MultiScale``: a flow of images that gives up half of its channels at every scale."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ppl_flows.combinators.stack import common_batch_shape
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support, is_real
from ppl_flows.core.types import Array, Observed, Params


@dataclass(frozen=True)
class MultiScale(Bijection):
    """A flat vector to an image, scale by scale: half of the channels of each scale come straight from the base.

    On the way to the base, the first scale takes the image; the second half of the channels that it gives are
    latents, and the first half goes on to the next scale; the last scale gives all that is left. The vector holds the
    latents of the first scale first. So the base stays one distribution of vectors; the learned prior of a scale's
    latents, given what goes on, is a channel coupling at its base side.

    Args:
        scales: bijections of images, the one next to the data first; each takes, on its data side, half of the
            channels that the one before it gives.

    Raises:
        ValueError: no scales, an odd number of channels, or shapes, batch shapes or contexts that do not fit.
        TypeError: a scale is not a Bijection.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> first = pf.Inverse(pf.Squeeze((4, 4, 1)))  # (2, 2, 4) to the image
        >>> layer = pf.MultiScale([first, pf.Coupling((2, 2, 2))])
        >>> params = layer.init(np.random.default_rng(0))
        >>> layer.forward(params, np.zeros((5, 16)))[0].shape
        (5, 4, 4, 1)

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, sec. 3.6; the learned prior is
    that of Kingma & Dhariwal (2018), Glow, arXiv:1807.03039.
    """

    scales: tuple[Bijection, ...]

    def __init__(self, scales: Iterable[Bijection]) -> None:
        if isinstance(scales, Bijection) or not isinstance(scales, Iterable):
            raise TypeError(f"MultiScale takes a sequence of bijections of images, got {scales!r}; put it into a list.")
        object.__setattr__(self, "scales", tuple(scales))
        if not self.scales:
            raise ValueError("MultiScale got no scales; give at least one bijection of images.")
        for scale in self.scales:
            check_bijection("MultiScale", scale)
        for i, scale in enumerate(self.scales):
            if len(scale.event_shape) != 3 or len(scale.output_shape) != 3:
                raise ValueError(
                    f"MultiScale takes bijections of images, got one from {scale.event_shape} to {scale.output_shape}."
                )
            if not is_real(scale.domain) or (i and not is_real(scale.codomain)):
                raise ValueError(f"MultiScale: scale {i} meets the base or another scale, but not on the reals.")
        for a, b in zip(self.scales, self.scales[1:], strict=False):
            h, w, c = a.event_shape
            if c % 2 or b.output_shape != (h, w, c // 2):
                raise ValueError(
                    f"MultiScale: a scale gives {a.event_shape}, so the next must take {(h, w, c // 2)} (half of an "
                    f"even number of channels), but it takes {b.output_shape}."
                )
        if len({scale.context_dim for scale in self.scales} - {0}) > 1:
            raise ValueError(
                f"MultiScale: scales disagree on context_dim, got {[s.context_dim for s in self.scales]}; every scale "
                "takes the same context or none (0)."
            )
        _ = self.batch_shape  # which may not fit

    @cached_property
    def context_dim(self) -> int:  # type: ignore[override]
        return max(scale.context_dim for scale in self.scales)

    @cached_property
    def batch_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return common_batch_shape("MultiScale", "scale", self.scales)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (math.prod(self.output_shape),)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.scales[0].output_shape

    @property
    def codomain(self) -> Support:
        return self.scales[0].codomain

    def init(self, rng: np.random.Generator) -> Params:
        return {str(i): scale.init(rng) for i, scale in enumerate(self.scales)}

    def _layer_counts(self) -> Counter[str]:
        return sum((scale._layer_counts() for scale in self.scales), Counter[str]())

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._to_image(params, x, context, None)[1:]

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._to_vector(params, y, context, None)[1:]

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        return (self._to_image if forward else self._to_vector)(params, value, context, stage)

    def _to_vector(self, params: Params, image: Array, context: Array | None, stage: str | None) -> Observed:
        xp, batch = namespace(image), image.shape[:-3]
        new, latents, total = {}, [], 0.0
        for i, scale in enumerate(self.scales):
            name, given = str(i), context if scale.context_dim else None
            if stage is None:
                image, log_det = scale._inverse(params[name], image, given)
            else:
                new[name], image, log_det = scale._observe(params[name], image, given, False, stage)
            total = total + log_det
            if i + 1 < len(self.scales):
                half = image.shape[-1] // 2
                latents.append(image[..., half:])
                image = image[..., :half]
        return new, xp.concat([xp.reshape(v, (*batch, -1)) for v in (*latents, image)], axis=-1), total

    def _to_image(self, params: Params, vector: Array, context: Array | None, stage: str | None) -> Observed:
        xp, batch = namespace(vector), vector.shape[:-1]
        new, image, total, end = {}, None, 0.0, vector.shape[-1]
        for i, scale in reversed(list(enumerate(self.scales))):
            name, given = str(i), context if scale.context_dim else None
            h, w, c = scale.event_shape
            c = c if image is None else c // 2
            latent = xp.reshape(vector[..., end - h * w * c : end], (*batch, h, w, c))
            end -= h * w * c
            image = latent if image is None else xp.concat([image, latent], axis=-1)
            if stage is None:
                image, log_det = scale._forward(params[name], image, given)
            else:
                new[name], image, log_det = scale._observe(params[name], image, given, True, stage)
            total = total + log_det
        return new, image, total

    def _widen(self, params: Params) -> Params:
        return {str(i): scale._widen(params[str(i)]) for i, scale in enumerate(self.scales)}
