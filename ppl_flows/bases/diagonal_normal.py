from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ppl_flows.core.base_distribution import Base, Random
from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class DiagonalNormal(Base):
    """Independent normals with learnable location and scale; starts as the standard normal.

    For spline flows and others that cannot move or stretch the whole line themselves. The fixed standard normal is
    what flows have without a base.

    Args:
        dim: event size, at least 1.

    Raises:
        ValueError: dim below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> base = pf.DiagonalNormal(2)
        >>> params = base.init(np.random.default_rng(0))
        >>> base.log_prob(params, np.zeros(2)).round(4)  # nats
        np.float64(-1.8379)
    """

    dim: int

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def init(self, rng: np.random.Generator) -> Params:
        return {"loc": np.zeros(self.dim), "log_scale": np.zeros(self.dim)}

    def _log_prob(self, params: Params, x: Array) -> Array:
        xp, log_scale = namespace(x), params["log_scale"]
        z = (x - params["loc"]) * xp.exp(-log_scale)
        return -xp.sum(0.5 * z * z + log_scale + 0.5 * math.log(2 * math.pi), axis=-1)

    def _sample(self, params: Params, random: Random, shape: tuple[int, ...]) -> Array:
        z = random.normal((*shape, self.dim))
        return params["loc"] + namespace(z).exp(params["log_scale"]) * z
