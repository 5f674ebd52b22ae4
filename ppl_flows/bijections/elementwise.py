from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np

from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.conditioner import Conditioner, Network, check_conditioner, theta_of
from ppl_flows.core.metered_generator import zeros
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support, everywhere
from ppl_flows.core.transformer import Transformer, check_transformer
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Affine


@dataclass(frozen=True)
class Elementwise(Bijection):
    """Every coordinate through its own scalar map: ``y_i = h(x_i; theta_i)``.

    theta is a parameter, or with a context the output of a network of it. Starts at the identity (with a context: next
    to it). Cost O(dim) both ways, besides the network.

    Args:
        dim: event size, at least 1.
        transformer: the scalar map h.
        conditioner: the network that reads the context, without its sizes; not used without a context.
        context_dim: size of the context, 0 for none.

    Raises:
        TypeError: a size that is no whole number, no transformer, or no conditioner.
        ValueError: dim below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Elementwise(3, pf.SinhArcsinh())
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))
    """

    dim: int
    transformer: Transformer = Affine()
    _: KW_ONLY
    conditioner: Conditioner = MLP((32,))
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, context_dim=0)
        check_transformer("Elementwise", self.transformer)
        check_conditioner("Elementwise", self.conditioner, 1)

    @property
    def domain(self) -> Support:
        return everywhere(self.transformer.domain, self.dim)

    @property
    def codomain(self) -> Support:
        return everywhere(self.transformer.codomain, self.dim)

    @cached_property
    def _network(self) -> Network:
        return self.conditioner.bind(self.context_dim, self.dim * self.transformer.size)

    def init(self, rng: np.random.Generator) -> Params:
        if self.context_dim:
            return {"net": self._network.init(rng)}
        return {"theta": zeros(rng, self.dim, self.transformer.size)}

    def _theta(self, params: Params, context: Array | None) -> Array:
        if context is None:
            return params["theta"]
        theta = theta_of(self._network, self.dim * self.transformer.size, params["net"], context, None)
        return theta.reshape(*theta.shape[:-1], self.dim, self.transformer.size)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        y, slopes = self.transformer.forward(self._theta(params, context), x)
        return y, namespace(x).sum(slopes, axis=-1)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        x, slopes = self.transformer.inverse(self._theta(params, context), y)
        return x, namespace(y).sum(slopes, axis=-1)
