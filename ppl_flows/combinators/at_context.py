from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.types import Array, Observed, Params


@dataclass(frozen=True)
class AtContext(Wrapper):
    """A conditional bijection at one context, which it holds as state: a bijection that takes no context.

    ``params`` is ``{"part": params of the part, "state": {"context": c}}`` with c of shape ``(context_dim,)``, zeros
    after ``init``. The part's own params train.

    Args:
        part: the bijection; its ``context_dim`` is at least 1.

    Raises:
        TypeError: the part is not a Bijection.
        ValueError: the part takes no context.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.AtContext(pf.Coupling(2, context_dim=3))
        >>> params = layer.init(np.random.default_rng(0))
        >>> params["state"]["context"]
        array([0., 0., 0.])
        >>> layer.forward(params, np.ones(2))[0].shape  # without a context
        (2,)
    """

    part: Bijection
    context_dim = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.part.context_dim:
            raise ValueError(f"AtContext: the part takes no context, got {self.part}; use it as it is.")

    def init(self, rng: np.random.Generator) -> Params:
        return {"part": self.part.init(rng), "state": {"context": np.zeros(self.part.context_dim)}}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._forward(params["part"], x, params["state"]["context"])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._inverse(params["part"], y, params["state"]["context"])

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        new, out, log_det = self.part._observe(params["part"], value, params["state"]["context"], forward, stage)
        return {**params, "part": new}, out, log_det

    def _widen(self, params: Params) -> Params:
        return {**params, "part": self.part._widen(params["part"])}  # state is never narrow
