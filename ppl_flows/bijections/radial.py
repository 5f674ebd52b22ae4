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


@dataclass(frozen=True)
class Radial(Bijection):
    """Pushes away from a centre or draws to it: ``y = x + beta (x - x0) / (alpha + r), r = |x - x0|``.

    ``alpha = exp(log_alpha) > 0``, and ``beta = alpha elu(s) > -alpha`` keeps the map invertible; s = 0 is the
    identity, next to which the layer starts. Exact inverse (a quadratic equation for r); cost O(dim) both ways.

    Args:
        dim: event size, at least 1.
        conditioner: the network, without its sizes, that adds its output, a function of the context, to
            x0, log_alpha and s; not used without a context.
        context_dim: size of the context, 0 for none.

    Raises:
        ValueError: dim below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Radial(3, context_dim=2)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)), np.zeros(2))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770, eq. 14 and
    appendix A.2.
    """

    dim: int
    _: KW_ONLY
    conditioner: Conditioner = MLP((32,))
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, context_dim=0)
        check_conditioner("Radial", self.conditioner, 1)

    @cached_property
    def _network(self) -> Network:
        return self.conditioner.bind(self.context_dim, self.dim + 2)

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        params = {
            "x0": rng.standard_normal(self.dim),
            "log_alpha": np.zeros(1),
            "s": OUTPUT_SCALE * rng.standard_normal(1),
        }
        return params | {"net": self._network.init(rng)} if self.context_dim else params

    def _terms(self, params: Params, context: Array | None) -> tuple[Array, ...]:
        """``(x0, alpha, beta / alpha)``."""
        x0, log_alpha, s = params["x0"], params["log_alpha"], params["s"]
        if context is not None:
            shift = theta_of(self._network, self.dim + 2, params["net"], context, None)
            x0, log_alpha, s = x0 + shift[..., :-2], log_alpha + shift[..., -2:-1], s + shift[..., -1:]
        xp = namespace(x0)
        return x0, xp.exp(log_alpha[..., 0]), xp.elu(s[..., 0])

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        x0, alpha, push = self._terms(params, context)
        q = alpha / (alpha + _norm(x - x0))
        return x + (push * q)[..., None] * (x - x0), self._log_det(push, q)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        x0, alpha, push = self._terms(params, context)
        r_y = _norm(y - x0)
        # r_y = r + push alpha r / (alpha + r), that is r^2 + b r - alpha r_y = 0
        b = alpha * (1 + push) - r_y
        size = xp.where(b > 0, b, -b) + xp.sqrt(b * b + 4 * alpha * r_y)
        r = xp.where(b > 0, 2 * alpha * r_y / size, 0.5 * size)  # the form of the root that does not cancel
        q = alpha / (alpha + r)
        return x0 + (y - x0) / (1 + push * q)[..., None], -self._log_det(push, q)

    def _log_det(self, push: Array, q: Array) -> Array:
        """Eq. 14, with ``q = alpha h`` and ``push = beta / alpha``: dim - 1 directions across, one along the radius."""
        log1p = namespace(q).log1p
        return (self.dim - 1) * log1p(push * q) + log1p(push * q * q)


def _norm(d: Array) -> Array:
    xp = namespace(d)
    squared = xp.sum(d * d, axis=-1)
    nonzero = squared > 0
    return xp.where(nonzero, xp.sqrt(xp.where(nonzero, squared, 1.0)), 0.0)  # the root has no slope at the centre
