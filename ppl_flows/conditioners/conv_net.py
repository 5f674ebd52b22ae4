"""The residual convolutional network of images."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np

from ppl_flows.core.checks import check_generator, check_whole, checked_widths
from ppl_flows.core.conditioner import Conditioner
from ppl_flows.core.metered_generator import zeros
from ppl_flows.core.namespace import ACTIVATIONS, namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class ConvNet(Conditioner):
    """Residual network of 3x3 convolutions with zero padding.

    One convolution, then blocks ``a + conv1x1(act(conv3x3(act(a))))``, then an activation and a convolution that starts
    at zero. The context is added to every pixel after the first convolution.

    Args:
        width: channels of the hidden layers.
        blocks: number of residual blocks, may be 0.
        activation: a name such as ``"silu"``.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a width below 1, fewer than 0 blocks, or an unknown activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> network = pf.ConvNet(8).bind(inputs=2, outputs=6)
        >>> params = network.init(np.random.default_rng(0))
        >>> network(params, np.zeros((5, 4, 4, 2)), None).shape
        (5, 4, 4, 6)

    Reference: He et al. (2016), Identity Mappings in Deep Residual Networks, arXiv:1603.05027.
    """

    width: int = 64
    _: KW_ONLY
    blocks: int = 1
    activation: str = "silu"
    event_ndim: ClassVar[int | None] = 3

    def __post_init__(self) -> None:
        check_whole(self, width=1, blocks=0)
        checked_widths("ConvNet", (self.width,), self.activation, ACTIVATIONS)

    def bind(self, inputs: int, outputs: int, context_dim: int = 0) -> ConvolutionalNetwork:
        return ConvolutionalNetwork(self, inputs, outputs, context_dim)


@dataclass(frozen=True)
class ConvolutionalNetwork:
    """``(*batch, height, width, inputs) -> (*batch, height, width, outputs)``: a ``ConvNet`` of these sizes."""

    net: ConvNet
    inputs: int
    outputs: int
    context_dim: int = 0

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        n, blocks = self.net.width, self.net.blocks

        def kernel(side: int, inputs: int, outputs: int) -> np.ndarray:
            fan_in = side * side * max(inputs, 1)
            return np.asarray(rng.standard_normal((side, side, inputs, outputs)) / fan_in**0.5)

        params: dict[str, Any] = {"w": kernel(3, self.inputs, n), "b": np.zeros(n)}
        if self.context_dim:
            params["c"] = rng.standard_normal((self.context_dim, n)) / self.context_dim**0.5
        for i in range(blocks):
            params[f"block{i}"] = {
                "w0": kernel(3, n, n),
                "b0": np.zeros(n),
                "w1": 0.1 * kernel(1, n, n)[0, 0],
                "b1": np.zeros(n),
            }
        return params | {"w_out": zeros(rng, 3, 3, n, self.outputs), "b_out": np.zeros(self.outputs)}

    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        xp = namespace(x)
        act = getattr(xp, self.net.activation)
        a = xp.conv2d(x, params["w"]) + params["b"]
        if context is not None:
            a = a + context @ params["c"]
        for i in range(self.net.blocks):
            p = params[f"block{i}"]
            a = a + act(xp.conv2d(act(a), p["w0"]) + p["b0"]) @ p["w1"] + p["b1"]
        return xp.conv2d(act(a), params["w_out"]) + params["b_out"]
