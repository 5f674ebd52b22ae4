from dataclasses import dataclass

import numpy as np

import ppl_flows as pf
from ppl_flows.core.namespace import namespace


@pf.register
@dataclass(frozen=True)
class Givens(pf.Bijection):
    """Turns every pair of neighbouring coordinates by an angle of its own; log_det is 0."""

    dim: int

    def __post_init__(self):
        if self.dim % 2:
            raise ValueError(f"Givens: dim must be even, got {self.dim}.")

    def init(self, rng):
        return {"angle": np.zeros(self.dim // 2)}

    def _forward(self, params, x, context):
        return self._turned(x, params["angle"])

    def _inverse(self, params, y, context):
        return self._turned(y, -params["angle"])

    def _turned(self, v, angle):
        xp = namespace(v)  # NumPy, torch or JAX, whatever v is
        a, b = v[..., ::2], v[..., 1::2]
        cos, sin = xp.cos(angle), xp.sin(angle)
        pairs = xp.stack([cos * a - sin * b, sin * a + cos * b], axis=-1)
        return xp.reshape(pairs, v.shape), xp.zeros_like(v[..., 0])
