"""Recipes of images: multi-scale couplings, and patches in sequence."""

from __future__ import annotations

from ppl_flows.bijections import (
    ActNorm,
    BatchNorm,
    ImageCoupling,
    Invertible1x1Conv,
    PatchAutoregressive,
    Squeeze,
)
from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.inverse import Inverse
from ppl_flows.combinators.multi_scale import MultiScale
from ppl_flows.combinators.per_pixel import PerPixel
from ppl_flows.combinators.repeat import Repeat
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.transformer import Transformer
from ppl_flows.recipes.stacks import check_layers
from ppl_flows.transformers import Affine

Shape = tuple[int, ...]


def glow(
    shape: Shape,
    *,
    levels: int = 2,
    steps: int = 8,
    transformer: Transformer = Affine(),
    hidden: int = 64,
    blocks: int = 1,
    dense: bool = False,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Glow: at every level a squeeze, then steps of actnorm, 1x1 convolution and coupling; half of the channels leave.

    From a flat vector to an image of real numbers: put a ``LogitTransform`` after it for pixels between 0 and 1. Half
    of each level's channels are latents, with a learned normal prior given what goes on to the next level. One network
    pass per step both ways. The steps of a level are a ``Repeat``. Start it with data: ``flow(..., start=batch)``, or
    ``fit_density``.

    Args:
        shape: ``(height, width, channels)``; height and width divisible by ``2^levels``.
        levels: number of scales.
        steps: of each level.
        transformer: of the couplings; ``Additive``, ``RationalQuadratic``, …
        hidden, blocks, activation: of the convolutional networks, as in ``ImageCoupling``.
        dense: the 1x1 convolutions in their dense form, started at random rotations; otherwise they start by reversing
            the channels, so that the couplings take turns.

    Reference: Kingma & Dhariwal (2018), Glow: Generative Flow with Invertible 1x1 Convolutions, arXiv:1807.03039.
    """
    check_layers(min(levels, steps))
    scales = []
    for level in range(levels):
        squeeze = Squeeze(shape)
        inside = squeeze.output_shape
        step = Chain(
            [
                ImageCoupling(
                    inside,
                    transformer,
                    hidden=hidden,
                    blocks=blocks,
                    activation=activation,
                    context_dim=context_dim,
                ),
                Invertible1x1Conv(inside, dense, order=tuple(range(inside[-1]))[::-1]),
                PerPixel(ActNorm(inside[-1]), *inside[:2]),
            ]
        )
        parts: list[Bijection] = [Repeat(step, steps), Inverse(squeeze)]
        if level < levels - 1:
            parts.insert(0, _prior(inside, hidden, activation, context_dim))
        scales.append(Chain(parts))
        shape = (*inside[:2], inside[-1] // 2)
    return MultiScale(scales)


def real_nvp_image(
    shape: Shape,
    *,
    levels: int = 2,
    hidden: int = 64,
    blocks: int = 1,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """RealNVP of images: three checkerboard couplings, a squeeze, three channel couplings; half of the channels leave.

    From a flat vector to an image of real numbers, as in ``glow``. The last level has four checkerboard couplings.
    After every coupling comes a batch norm: train with ``flow(..., training=True)``, or ``fit_density``.

    Args:
        shape: ``(height, width, channels)``; height and width divisible by ``2^(levels - 1)``.
        levels: number of scales.
        hidden, blocks, activation: of the convolutional networks, as in ``ImageCoupling``.

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, secs. 3.4 to 3.7.
    """
    check_layers(levels)

    def couplings(at: Shape, mask: str, number: int) -> list[Bijection]:
        """From the base to the data, so that the data meet the unflipped one first."""
        return [
            part
            for i in reversed(range(number))
            for part in (
                ImageCoupling(
                    at,
                    mask=mask,
                    flip=i % 2 == 1,
                    hidden=hidden,
                    blocks=blocks,
                    activation=activation,
                    context_dim=context_dim,
                ),
                PerPixel(BatchNorm(at[-1]), *at[:2]),
            )
        ]

    scales = []
    for _ in range(levels - 1):
        squeeze = Squeeze(shape)
        inside = squeeze.output_shape
        parts = [*couplings(inside, "channels", 3), Inverse(squeeze), *couplings(shape, "checkerboard", 3)]
        scales.append(Chain(parts))
        shape = (*inside[:2], inside[-1] // 2)
    scales.append(Chain(couplings(shape, "checkerboard", 4)))
    return MultiScale(scales)


def tarflow(
    shape: Shape,
    *,
    patch: int = 2,
    flow_layers: int = 4,
    transformer: Transformer = Affine(),
    width: int = 64,
    blocks: int = 2,
    heads: int = 4,
    activation: str = "gelu",
    context_dim: int = 0,
) -> Bijection:
    """TarFlow: autoregressive over patches with causal attention, every second layer in reverse order.

    One network pass per layer to score; sampling goes from patch to patch, each through the network once.

    Args:
        shape: ``(height, width, channels)``, of both the base and the image.
        patch, transformer, width, blocks, heads, activation: as in ``PatchAutoregressive``; the paper's scalar map is
            affine.

    Reference: Zhai et al. (2024), Normalizing Flows are Capable Generative Models, arXiv:2412.06329.
    """
    check_layers(flow_layers)
    return Inverse(
        Chain(
            PatchAutoregressive(
                shape,
                patch,
                transformer,
                flip=i % 2 == 1,
                width=width,
                blocks=blocks,
                heads=heads,
                activation=activation,
                context_dim=context_dim,
            )
            for i in range(flow_layers)
        )
    )


def _prior(shape: Shape, hidden: int, activation: str, context_dim: int) -> Bijection:
    """The latents that leave, normal with a learned mean and scale given the channels that go on."""
    return ImageCoupling(shape, Affine(), hidden=hidden, blocks=0, activation=activation, context_dim=context_dim)
