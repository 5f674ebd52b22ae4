from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np

from ppl_flows.conditioners import MLP
from ppl_flows.conditioners.hidden_layers import OUTPUT_SCALE
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_generator, check_whole
from ppl_flows.core.conditioner import Conditioner, Network, check_conditioner, theta_of
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params
from ppl_flows.numerics.root_finding import numerical_inverse


@dataclass(frozen=True)
class Planar(Bijection):
    """Stretches space across a hyperplane: ``y = x + v tanh(w.x + b)``, with ``w.v > -1``.

    The parameter behind v is u: ``v = u + (elu(w.u) - w.u) w / |w|^2``, so that ``w.v = elu(w.u)``. The paper has
    ``log(1 + exp(.)) - 1`` in place of elu; elu too stays above -1, and u = 0 is the identity, next to which the
    layer starts. The inverse is exact: ``w.y`` is an increasing function of ``w.x`` alone, inverted numerically. Cost
    O(dim) both ways.

    Args:
        dim: event size, at least 1.
        conditioner: the network, without its sizes, that adds its output, a function of the context, to
            u, w and b; not used without a context.
        context_dim: size of the context, 0 for none.

    Raises:
        ValueError: dim below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Planar(3)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770, eqs. 10-12
    and appendix A.1.
    """

    dim: int
    _: KW_ONLY
    conditioner: Conditioner = MLP((32,))
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, context_dim=0)
        check_conditioner("Planar", self.conditioner, 1)

    @cached_property
    def _network(self) -> Network:
        return self.conditioner.bind(self.context_dim, 2 * self.dim + 1)

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        w = rng.standard_normal(self.dim) / self.dim**0.5
        u = OUTPUT_SCALE * rng.standard_normal(self.dim) / self.dim**0.5
        params = {"u": u, "w": w, "b": np.zeros(1)}
        return params | {"net": self._network.init(rng)} if self.context_dim else params

    def _terms(self, params: Params, context: Array | None) -> tuple[Array, ...]:
        """``(v, w, w.v, b)``."""
        u, w, b = params["u"], params["w"], params["b"]
        if context is not None:
            shift = theta_of(self._network, 2 * self.dim + 1, params["net"], context, None)
            u, w, b = u + shift[..., : self.dim], w + shift[..., self.dim : -1], b + shift[..., -1:]
        xp = namespace(w)
        a = xp.sum(w * u, axis=-1)
        stretch = xp.elu(a)
        v = u + ((stretch - a) / xp.sum(w * w, axis=-1))[..., None] * w
        return v, w, stretch, b[..., 0]

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(x)
        v, w, stretch, b = self._terms(params, context)
        t = xp.tanh(xp.sum(w * x, axis=-1) + b)
        return x + v * t[..., None], xp.log1p(stretch * (1 - t * t))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        v, w, stretch, b = self._terms(params, context)
        a, log_det = numerical_inverse(_along_w, xp.sum(w * y, axis=-1), stretch, b)
        return y - v * xp.tanh(a + b)[..., None], log_det


def _along_w(a: Array, stretch: Array, b: Array) -> tuple[Array, Array]:
    """``w.y`` as a function of ``a = w.x``, and its log slope."""
    xp = namespace(a)
    t = xp.tanh(a + b)
    return a + stretch * t, xp.log1p(stretch * (1 - t * t))
