from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ppl_flows.bijections.reshape import Squeeze
from ppl_flows.conditioners.causal_attention import CausalAttention
from ppl_flows.conditioners.mlp import checked_hidden
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.precision import promoted
from ppl_flows.core.support import Support, where_moved
from ppl_flows.core.transformer import Transformer, check_transformer
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Affine


@dataclass(frozen=True)
class PatchAutoregressive(Bijection):
    """An autoregressive map of images, patch by patch: each patch's map is conditioned on the patches before it.

    The conditioner is a causal transformer network; inside a patch every number is mapped on its own. Starts next to
    the identity. ``forward`` is one pass of the network, ``inverse`` is sequential in the patches, and each goes
    through the network once: keys and values are kept. TarFlow trains the ``Inverse``, which scores in one pass.

    Args:
        shape: ``(height, width, channels)``.
        patch: side of a patch; divides height and width.
        transformer: the scalar map h.
        flip: the patches in reverse order; every second layer of a flow wants it.
        width: size of the network's hidden vectors, a multiple of heads.
        blocks, heads: of the network's attention.
        activation: of the network, a name such as ``"gelu"``.
        context_dim: size of the context, such as a class as one-hot vector; 0 for none.

    Raises:
        ValueError: a patch that does not divide the image, a width that heads does not divide, or an unknown
            activation.

    Reference: Zhai et al. (2024), Normalizing Flows are Capable Generative Models, arXiv:2412.06329.
    """

    shape: tuple[int, ...]
    patch: int = 2
    transformer: Transformer = Affine()
    flip: bool = False
    width: int = 64
    blocks: int = 2
    heads: int = 4
    activation: str = "gelu"
    context_dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", Squeeze(self.shape, self.patch).shape)  # checks both
        check_transformer("PatchAutoregressive", self.transformer)
        checked_hidden("PatchAutoregressive", (self.width,) * self.blocks, self.activation)
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(
                f"PatchAutoregressive: width must be a multiple of heads, got width={self.width}, heads={self.heads}."
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def codomain(self) -> Support:
        return where_moved(self.transformer.codomain, (True,) * math.prod(self.shape))

    @property
    def _network(self) -> CausalAttention:
        height, width, size = Squeeze(self.shape, self.patch).output_shape
        outputs = size * self.transformer.size
        return CausalAttention(
            height * width, size, outputs, self.width, self.blocks, self.heads, self.activation, self.context_dim
        )

    def init(self, rng: np.random.Generator) -> Params:
        return self._network.init(rng)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        patches = self._patches(x)
        theta = self._network(params, patches, context)
        y, slopes = self.transformer.forward(self._theta(theta), patches)
        return self._image(y), namespace(x).sum(slopes, axis=(-2, -1))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        def solve(theta: Array, patch: Array) -> tuple[Array, Array]:
            return self.transformer.inverse(self._theta(theta), patch)

        patches = self._patches(promoted(y, params, context))
        x, slopes = self._network.sequentially(params, patches, context, solve)
        return self._image(x), namespace(y).sum(slopes, axis=(-2, -1))

    def _theta(self, theta: Array) -> Array:
        return theta.reshape(*theta.shape[:-1], -1, self.transformer.size)

    def _patches(self, image: Array) -> Array:
        """``(*batch, patches, numbers in a patch)``, in the order in which they are taken."""
        blocks = Squeeze(self.shape, self.patch).forward({}, image)[0]
        patches = blocks.reshape(*blocks.shape[:-3], -1, blocks.shape[-1])
        return namespace(image).flip(patches, axis=-2) if self.flip else patches

    def _image(self, patches: Array) -> Array:
        if self.flip:
            patches = namespace(patches).flip(patches, axis=-2)
        squeeze = Squeeze(self.shape, self.patch)
        return squeeze.inverse({}, patches.reshape(*patches.shape[:-2], *squeeze.output_shape))[0]
