from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Frozen(Wrapper):
    """A bijection whose parameters never train: they are state, as BatchNorm's running averages are.

    ``params`` is ``{"state": params of the part}``; give those of a trained flow to keep it as it is inside a larger
    one.

    Args:
        part: the bijection; it has no state of its own.

    Raises:
        TypeError: the part is not a Bijection.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Frozen(pf.TriangularAffine(2))
        >>> weights, state = pf.split(layer.init(np.random.default_rng(0)))
        >>> weights  # nothing to train
        {}
    """

    part: Bijection

    def init(self, rng: np.random.Generator) -> Params:
        return {"state": self.part.init(rng)}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._forward(params["state"], x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._inverse(params["state"], y, context)

    def _widen(self, params: Params) -> Params:
        return params  # state is never narrow
