from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np

from ppl_flows.core.base_distribution import Base, Random
from ppl_flows.core.checks import check_generator, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class NormalMixture(Base):
    """Mixture of diagonal normals, ``p(x) = sum_k pi_k N(x; loc_k, scale_k)``, with pi, loc and scale learnable.

    For targets of several modes, which a flow of one piece can only join by thin bridges.

    Samples are reparameterised, in the weights too: a draw moves with the parameters so that each conditional CDF
    ``F(x_d | x_<d)`` stays where it is. The value is an ordinary draw, the gradient is exact in expectation; between
    modes far apart, where the density is low, its variance is large. Cost O(dim components); sampling is sequential
    in dim, log_prob is not.

    Args:
        dim: event size, at least 1.
        components: number of normals, at least 1. They start at random places, at unit variance as a whole.

    Raises:
        ValueError: dim or components below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> base = pf.NormalMixture(2, components=3)
        >>> params = base.init(np.random.default_rng(0))
        >>> base.log_prob(params, np.zeros((5, 2))).shape
        (5,)

    Reference: Graves (2016), Stochastic Backpropagation through Mixture Density Distributions, arXiv:1607.05690;
    Figurnov et al. (2018), Implicit Reparameterization Gradients, arXiv:1805.08498.
    """

    dim: int
    _: KW_ONLY
    components: int = 8

    def __post_init__(self) -> None:
        check_whole(self, dim=1, components=1)

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        loc = 0.5**0.5 * rng.standard_normal((self.components, self.dim))
        return {"logits": np.zeros(self.components), "loc": loc, "log_scale": np.full_like(loc, 0.5 * math.log(0.5))}

    def _log_prob(self, params: Params, x: Array) -> Array:
        xp, log_scale = namespace(x), params["log_scale"]
        z = (x[..., None, :] - params["loc"]) * xp.exp(-log_scale)
        each = xp.sum(-0.5 * z * z - log_scale - 0.5 * math.log(2 * math.pi), axis=-1)
        return xp.logsumexp(params["logits"] + each) - xp.logsumexp(params["logits"])

    def _sample(self, params: Params, random: Random, shape: tuple[int, ...]) -> Array:
        u, e = random.uniform((*shape, 1)), random.normal((*shape, self.dim))
        xp = namespace(e)
        up_to = xp.cumulative_sum(xp.softmax(params["logits"]), axis=-1)[:-1]
        k = xp.sum(xp.where(u < up_to, 0, 1), axis=-1)
        loc, scale = params["loc"], xp.exp(params["log_scale"])
        x = xp.reshape(xp.take(loc, xp.reshape(k, (-1,)), axis=0), e.shape)
        x = x + xp.reshape(xp.take(scale, xp.reshape(k, (-1,)), axis=0), e.shape) * e
        return _reparameterized(params, xp.stop_gradient(x))


def _reparameterized(params: Params, x: Array) -> Array:
    """x, with the gradient of the sequential transform: ``dx_d = -dF(x_d | x_<d) / p(x_d | x_<d)``."""
    xp = namespace(x)

    def step(log_w: Array, at: Params) -> tuple[Array, Array]:
        """From the weights of the components given ``x_<d`` to those given ``x_<=d``."""
        x, loc, log_scale = at["x"], at["loc"], at["log_scale"]
        z, w = (x[..., None] - loc) * xp.exp(-log_scale), xp.softmax(log_w)
        density = xp.sum(w * xp.exp(-0.5 * z * z - log_scale), axis=-1) * (2 * math.pi) ** -0.5
        # F or F - 1, whichever has its digits
        side = xp.where(xp.sum(w * xp.erfc(-(0.5**0.5) * z), axis=-1, keepdims=True) < 1, 1.0, -1.0)
        cdf = xp.sum(0.5 * side * w * xp.erfc(-(0.5**0.5) * side * z), axis=-1)
        x = x - (cdf - xp.stop_gradient(cdf)) / xp.stop_gradient(density)
        z = (x[..., None] - loc) * xp.exp(-log_scale)
        return log_w - 0.5 * z * z - log_scale, {"x": x}

    at = {"x": xp.moveaxis(x, -1, 0), "loc": params["loc"].T, "log_scale": params["log_scale"].T}
    log_w = xp.broadcast_to(params["logits"], (*x.shape[:-1], *params["logits"].shape))
    return xp.moveaxis(xp.scan(step, log_w, at, x.shape[-1], reverse=False)[1]["x"], 0, -1)
