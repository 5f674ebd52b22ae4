import math
from dataclasses import dataclass

import numpy as np

import ppl_flows as pf
from ppl_flows.core.namespace import namespace


@pf.register
@dataclass(frozen=True)
class Laplace(pf.Base):
    """Independent Laplace variables with learnable location and scale."""

    dim: int

    def init(self, rng):
        return {"loc": np.zeros(self.dim), "log_scale": np.zeros(self.dim)}

    def _log_prob(self, params, x):
        xp, log_scale = namespace(x), params["log_scale"]
        z = (x - params["loc"]) * xp.exp(-log_scale)
        return -xp.sum(xp.abs(z) + log_scale + math.log(2), axis=-1)

    def _sample(self, params, random, shape):
        u = random.uniform((*shape, self.dim)) - 0.5  # the inverse of the CDF: gradients pass
        xp = namespace(u)
        z = -xp.sign(u) * xp.log1p(-2 * xp.abs(u))
        return params["loc"] + xp.exp(params["log_scale"]) * z
