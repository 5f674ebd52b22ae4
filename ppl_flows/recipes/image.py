"""Recipes of images: multi-scale couplings, and patches in sequence."""

from __future__ import annotations

from ppl_flows.bijections import (
    ActNorm,
    BatchNorm,
    Coupling,
    Invertible1x1Conv,
    MaskedAutoregressive,
    Reshape,
    Squeeze,
)
from ppl_flows.combinators import Chain, Inverse, MultiScale, PerPixel, Repeat
from ppl_flows.conditioners import CausalAttention, ConvNet
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_shape, whole_number
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.core.transformer import Transformer
from ppl_flows.recipes.stacks import check_alone
from ppl_flows.transformers import Affine

Shape = tuple[int, ...]


def glow(
    shape: Shape,
    *,
    scales: int = 2,
    flow_layers: int = 8,
    transformer: Transformer = Affine(),
    conditioner: Conditioner | None = None,
    hidden: int = 64,
    blocks: int = 1,
    dense: bool = False,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Glow: at every scale a squeeze, then layers of actnorm, 1x1 convolution and coupling; half of the channels leave.

    From a flat vector to an image of real numbers: put a ``LogitTransform`` after it for pixels between 0 and 1. Half
    of each scale's channels are latents, with a learned normal prior given what goes on to the next scale. One network
    pass per layer both ways. The layers of a scale are a ``Repeat``. Start it with data: ``flow(..., start=batch)``, or
    ``fit_density``.

    Args:
        shape: ``(height, width, channels)``; height and width divisible by ``2^scales``.
        scales: how many, at least 1.
        flow_layers: layers of each scale, at least 1.
        transformer: of the couplings; ``Additive``, ``RationalQuadratic``, …
        conditioner: the network of the couplings, and of the learned priors. None: a ``ConvNet`` of ``hidden``,
            ``blocks`` and ``activation``, and for the priors one without blocks.
        hidden: hidden channels of that ``ConvNet``, at least 1.
        blocks: residual blocks of that ``ConvNet``, at least 0.
        dense: the 1x1 convolutions in their dense form, started at random rotations; otherwise they start by reversing
            the channels, so that the couplings take turns.
        activation: of that ``ConvNet``, a name such as ``"silu"``.
        context_dim: size of the context, such as a class as one-hot vector; 0 for none.

    Returns:
        The flow, from vectors of event shape ``(height * width * channels,)`` to images ``(height, width, channels)``.

    Raises:
        TypeError: a size that is no whole number; a conditioner together with hidden, blocks or activation, which it
            has itself.
        ValueError: a shape that is not three positive numbers, or that ``2^scales`` does not divide; a size below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.glow((4, 4, 1), flow_layers=2, hidden=8)
        >>> flow.event_shape, flow.output_shape
        ((16,), (4, 4, 1))
        >>> params = flow.init(np.random.default_rng(0))
        >>> flow.forward(params, np.zeros((5, 16)))[0].shape
        (5, 4, 4, 1)

    Reference: Kingma & Dhariwal (2018), Glow: Generative Flow with Invertible 1x1 Convolutions, arXiv:1807.03039.
    """
    shape = checked_shape("glow", shape)
    whole_number("glow", "scales", scales)
    whole_number("glow", "flow_layers", flow_layers)
    check_alone("glow", conditioner, hidden=(hidden, 64), blocks=(blocks, 1), activation=(activation, "silu"))
    network = ConvNet(hidden, blocks=blocks, activation=activation) if conditioner is None else conditioner
    prior = ConvNet(hidden, blocks=0, activation=activation) if conditioner is None else conditioner
    parts_of_scales = []
    for scale in range(scales):
        squeeze = Squeeze(shape)
        inside = squeeze.output_shape
        step = Chain(
            [
                Coupling(inside, transformer, conditioner=network, context_dim=context_dim),
                Invertible1x1Conv(inside, dense=dense, order=tuple(range(inside[-1]))[::-1]),
                PerPixel(ActNorm(inside[-1]), height=inside[0], width=inside[1]),
            ]
        )
        parts: list[Bijection] = [Repeat(step, times=flow_layers), Inverse(squeeze)]
        if scale < scales - 1:  # the latents that leave are normal, with mean and scale given the channels that go on
            parts.insert(0, Coupling(inside, Affine(), conditioner=prior, context_dim=context_dim))
        parts_of_scales.append(Chain(parts))
        shape = (*inside[:2], inside[-1] // 2)
    return MultiScale(parts_of_scales)


def real_nvp_image(
    shape: Shape,
    *,
    scales: int = 2,
    conditioner: Conditioner | None = None,
    hidden: int = 64,
    blocks: int = 1,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """RealNVP of images: three checkerboard couplings, a squeeze, three channel couplings; half of the channels leave.

    From a flat vector to an image of real numbers, as in ``glow``. The last scale has four checkerboard couplings.
    After every coupling comes a batch norm: train with ``flow(..., training=True)``, or ``fit_density``.

    Args:
        shape: ``(height, width, channels)``; height and width divisible by ``2^(scales - 1)``.
        scales: how many, at least 1.
        conditioner: the network of the couplings. None: a ``ConvNet`` of ``hidden``, ``blocks`` and ``activation``.
        hidden: hidden channels of that ``ConvNet``, at least 1.
        blocks: residual blocks of that ``ConvNet``, at least 0.
        activation: of that ``ConvNet``, a name such as ``"silu"``.
        context_dim: size of the context, such as a class as one-hot vector; 0 for none.

    Returns:
        The flow, from vectors of event shape ``(height * width * channels,)`` to images ``(height, width, channels)``.

    Raises:
        TypeError: a size that is no whole number; a conditioner together with hidden, blocks or activation, which it
            has itself.
        ValueError: a shape that is not three positive numbers, or that ``2^(scales - 1)`` does not divide; a size below
            1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.real_nvp_image((4, 4, 1), hidden=8)
        >>> params = flow.init(np.random.default_rng(0))
        >>> flow.forward(params, np.zeros((5, 16)))[0].shape
        (5, 4, 4, 1)

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, secs. 3.4 to 3.7.
    """
    shape = checked_shape("real_nvp_image", shape)
    whole_number("real_nvp_image", "scales", scales)
    check_alone("real_nvp_image", conditioner, hidden=(hidden, 64), blocks=(blocks, 1), activation=(activation, "silu"))
    network = ConvNet(hidden, blocks=blocks, activation=activation) if conditioner is None else conditioner

    def couplings(at: Shape, mask: str, number: int) -> list[Bijection]:
        """From the base to the data, so that the data meet the unflipped one first."""
        return [
            part
            for i in reversed(range(number))
            for part in (
                Coupling(at, mask=mask, flip=i % 2 == 1, conditioner=network, context_dim=context_dim),
                PerPixel(BatchNorm(at[-1]), height=at[0], width=at[1]),
            )
        ]

    parts_of_scales = []
    for _ in range(scales - 1):
        squeeze = Squeeze(shape)
        inside = squeeze.output_shape
        parts = [*couplings(inside, "halves", 3), Inverse(squeeze), *couplings(shape, "checkerboard", 3)]
        parts_of_scales.append(Chain(parts))
        shape = (*inside[:2], inside[-1] // 2)
    parts_of_scales.append(Chain(couplings(shape, "checkerboard", 4)))
    return MultiScale(parts_of_scales)


def tarflow(
    shape: Shape,
    *,
    patch: int = 2,
    flow_layers: int = 4,
    transformer: Transformer = Affine(),
    conditioner: AutoregressiveConditioner | None = None,
    width: int = 64,
    blocks: int = 2,
    heads: int = 4,
    activation: str = "gelu",
    context_dim: int = 0,
) -> Bijection:
    """TarFlow: autoregressive over patches with causal attention, every second layer in reverse order.

    Inside a patch every number is mapped on its own. One network pass per layer to score; sampling goes from patch to
    patch, each through the network once.

    Args:
        shape: ``(height, width, channels)``, of both the base and the image.
        patch: side of a patch; divides height and width.
        flow_layers: number of autoregressive layers, at least 1.
        transformer: the scalar map; the paper's is affine.
        conditioner: the network of each layer. None: ``CausalAttention`` of ``width``, ``blocks``, ``heads`` and
            ``activation``.
        width: of the hidden vectors of that ``CausalAttention``, a multiple of heads.
        blocks: of attention and a two-layer network each, at least 1.
        heads: of the attention, at least 1.
        activation: of the two-layer networks, a name such as ``"gelu"``.
        context_dim: size of the context, such as a class as one-hot vector; 0 for none.

    Returns:
        The flow, from arrays ``(height, width, channels)`` to images of that shape.

    Raises:
        TypeError: a size that is no whole number; a conditioner together with width, blocks, heads or activation, which
            it has itself.
        ValueError: a shape that is not three positive numbers, or that patch does not divide; a size below 1; a width
            that heads does not divide.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.tarflow((4, 4, 1), flow_layers=2, width=8)
        >>> params = flow.init(np.random.default_rng(0))
        >>> flow.inverse(params, np.zeros((5, 4, 4, 1)))[0].shape
        (5, 4, 4, 1)

    Reference: Zhai et al. (2024), Normalizing Flows are Capable Generative Models, arXiv:2412.06329.
    """
    whole_number("tarflow", "flow_layers", flow_layers)
    squeeze = Squeeze(checked_shape("tarflow", shape), factor=patch)
    height, wide, size = squeeze.output_shape
    patches = Chain((squeeze, Inverse(Reshape((height, wide, size))), Reshape((height * wide, size))))
    check_alone(
        "tarflow",
        conditioner,
        width=(width, 64),
        blocks=(blocks, 2),
        heads=(heads, 4),
        activation=(activation, "gelu"),
    )
    if conditioner is None:
        conditioner = CausalAttention(width, blocks=blocks, heads=heads, activation=activation)
    layers = {
        f"layer{i}": MaskedAutoregressive(
            (height * wide, size), transformer, flip=i % 2 == 1, conditioner=conditioner, context_dim=context_dim
        )
        for i in range(flow_layers)
    }
    return Inverse(Chain({"patches": patches, **layers, "image": Inverse(patches)}))
