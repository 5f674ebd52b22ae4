from dataclasses import dataclass

import numpy as np

import ppl_flows as pf
from ppl_flows.core.namespace import namespace


@pf.register
@dataclass(frozen=True)
class FourierFeatures(pf.Conditioner):
    """A linear map of sines and cosines of random projections, which train too."""

    frequencies: int = 16

    def bind(self, inputs, outputs, context_dim=0):
        return _FourierNetwork(self.frequencies, inputs, outputs, context_dim)


@dataclass(frozen=True)
class _FourierNetwork:
    frequencies: int
    inputs: int
    outputs: int
    context_dim: int

    def init(self, rng):
        n = self.frequencies
        params = {
            "project": rng.standard_normal((self.inputs, n)),
            "phase": np.zeros(n),
            "out": 0.01 * rng.standard_normal((2 * n, self.outputs)),  # small: a flow starts next to the identity
        }
        return params | {"context": rng.standard_normal((self.context_dim, n))} if self.context_dim else params

    def __call__(self, params, x, context):
        xp = namespace(x)
        a = x @ params["project"] + params["phase"]
        a = a if context is None else a + context @ params["context"]
        return xp.concat([xp.sin(a), xp.cos(a)], axis=-1) @ params["out"]
