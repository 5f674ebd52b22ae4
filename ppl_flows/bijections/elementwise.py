from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.conditioners.mlp import MLP, checked_hidden
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support, where_moved
from ppl_flows.core.transformer import Transformer, check_transformer
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Affine


@dataclass(frozen=True)
class Elementwise(Bijection):
    """Every coordinate through its own scalar map: ``y_i = h(x_i; theta_i)``.

    theta is a parameter, or with a context the output of an MLP of it. Starts at the identity (with a context: next
    to it). Cost O(dim) both ways, besides the network.

    Args:
        dim: event size, at least 1.
        transformer: the scalar map h.
        hidden: widths of the MLP's hidden layers; only used with a context.
        activation: of the MLP, a name such as ``"silu"``.
        residual: of the MLP, as in ``Coupling``.
        context_dim: size of the context, 0 for none.

    Raises:
        ValueError: dim below 1, an unknown activation, or residual blocks of unequal widths.
    """

    dim: int
    transformer: Transformer = Affine()
    hidden: tuple[int, ...] = (32,)
    activation: str = "silu"
    residual: bool = False
    context_dim: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"Elementwise: dim must be at least 1, got {self.dim}.")
        check_transformer("Elementwise", self.transformer)
        hidden = checked_hidden("Elementwise", self.hidden, self.activation, self.residual)
        object.__setattr__(self, "hidden", hidden)

    @property
    def codomain(self) -> Support:
        return where_moved(self.transformer.codomain, [True] * self.dim)

    @property
    def _network(self) -> MLP:
        outputs = self.dim * self.transformer.size
        return MLP(0, outputs, self.hidden, self.activation, self.context_dim, self.residual)

    def init(self, rng: np.random.Generator) -> Params:
        if self.context_dim:
            return {"net": self._network.init(rng)}
        return {"theta": np.zeros((self.dim, self.transformer.size))}

    def _theta(self, params: Params, context: Array | None) -> Array:
        if context is None:
            return params["theta"]
        theta = self._network(params["net"], None, context)
        return theta.reshape(*theta.shape[:-1], self.dim, self.transformer.size)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        y, slopes = self.transformer.forward(self._theta(params, context), x)
        return y, namespace(x).sum(slopes, axis=-1)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        x, slopes = self.transformer.inverse(self._theta(params, context), y)
        return x, namespace(y).sum(slopes, axis=-1)
