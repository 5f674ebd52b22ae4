from dataclasses import dataclass

import numpy as np

import ppl_flows as pf
from ppl_flows.core.namespace import namespace


@pf.register
@dataclass(frozen=True)
class Markov(pf.AutoregressiveConditioner):
    """Every position's parameters are a function of the position before it alone, the same all along."""

    width: int = 8

    def bind_autoregressive(self, length, inputs, outputs, context_dim=0, flip=False):
        return _MarkovNetwork(self.width, length, inputs, outputs, context_dim, flip)


@dataclass(frozen=True)
class _MarkovNetwork(pf.AutoregressiveNetwork):  # which inverts it in as many passes as there are positions
    width: int
    length: int
    inputs: int
    outputs: int
    context_dim: int
    flip: bool

    def init(self, rng):
        n = self.width
        params = {
            "w0": rng.standard_normal((self.inputs, n)),
            "b0": np.zeros(n),
            "w1": 0.01 * rng.standard_normal((n, self.outputs)),
        }
        return params | {"context": rng.standard_normal((self.context_dim, n))} if self.context_dim else params

    def __call__(self, params, x, context):
        xp = namespace(x)
        nothing = xp.zeros_like(x[..., :1, :])
        pieces = [x[..., 1:, :], nothing] if self.flip else [nothing, x[..., :-1, :]]
        a = xp.concat(pieces, axis=-2) @ params["w0"] + params["b0"]
        a = a if context is None else a + (context @ params["context"])[..., None, :]
        return xp.tanh(a) @ params["w1"]
