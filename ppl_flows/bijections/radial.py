from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.conditioners.mlp import MLP, OUTPUT_SCALE, checked_hidden
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Radial(Bijection):
    """Pushes away from a centre or draws to it: ``y = x + beta (x - x0) / (alpha + r), r = |x - x0|``.

    ``alpha = exp(log_alpha) > 0``, and ``beta = alpha elu(s) > -alpha`` keeps the map invertible; s = 0 is the
    identity, next to which the layer starts. Exact inverse (a quadratic equation for r); cost O(dim) both ways.

    Args:
        dim: event size, at least 1.
        hidden: widths of the MLP that adds its output, a function of the context, to x0, log_alpha and s; only used
            with a context.
        activation: of the MLP, a name such as ``"silu"``.
        context_dim: size of the context, 0 for none.

    Raises:
        ValueError: dim below 1, or an unknown activation.

    Reference: Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770, eq. 14 and
    appendix A.2.
    """

    dim: int
    hidden: tuple[int, ...] = (32,)
    activation: str = "silu"
    context_dim: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"Radial: dim must be at least 1, got {self.dim}.")
        object.__setattr__(self, "hidden", checked_hidden("Radial", self.hidden, self.activation))

    @property
    def _network(self) -> MLP:
        return MLP(0, self.dim + 2, self.hidden, self.activation, self.context_dim)

    def init(self, rng: np.random.Generator) -> Params:
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
            shift = self._network(params["net"], None, context)
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
