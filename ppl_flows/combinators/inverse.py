from __future__ import annotations

from dataclasses import dataclass

from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.support import Support
from ppl_flows.core.types import Array, Observed, Params


@dataclass(frozen=True)
class Inverse(Wrapper):
    """A bijection with its directions exchanged: the way from an IAF to a MAF and back.

    Args:
        part: the bijection to turn round; it keeps its parameters, which are those of this one.

    Raises:
        TypeError: the part is not a Bijection.

    Example:
        >>> import ppl_flows as pf
        >>> pf.Inverse(pf.iaf(2, flow_layers=5)) == pf.maf(2)
        True
    """

    part: Bijection

    @property
    def rearranges(self) -> bool:  # type: ignore[override]
        return self.part.rearranges

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.part.output_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.part.event_shape

    @property
    def domain(self) -> Support:
        return self.part.codomain

    @property
    def codomain(self) -> Support:
        return self.part.domain

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._inverse(params, x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._forward(params, y, context)

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        return self.part._observe(params, value, context, not forward, stage)
