from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from ppl_flows.combinators.stack import Stack, check_remat
from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.initialisation import stacked_init
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params
from ppl_flows.numerics.reversible_pass import zero_log_det


@dataclass(frozen=True)
class Repeat(Stack, Wrapper):
    """The same bijection several times, each time with parameters of its own.

    Like a ``Chain`` of ``times`` parts, but every array of ``params`` has one more axis in front, over the
    repetitions. In JAX more than four are scanned: the program, and the time to compile it, do not grow with their
    number.

    Args:
        part: what is repeated; it gives the shape that it takes. A ``Chain`` makes a block of different layers.
        times: how often, at least 1.
        remat: as in ``Chain``, with the repetitions as the parts.

    Raises:
        ValueError: times below 1, a part that changes the shape or the support, or a remat that the part cannot have.
        TypeError: the part is not a Bijection.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Repeat(pf.Chain([pf.Reverse(3), pf.MaskedAutoregressive(3)]), times=4)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> params["1"]["w0"].shape  # the repetitions come first
        (4, 3, 64)
    """

    part: Bijection
    _: KW_ONLY
    times: int
    remat: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, times=1)
        if self.part.event_shape != self.part.output_shape:
            raise ValueError(
                f"Repeat: the part must give the shape that it takes, got {self.part.event_shape} to "
                f"{self.part.output_shape}; write the layers as a Chain instead."
            )
        if self.part.domain != self.part.codomain:
            raise ValueError(
                f"Repeat: the part must map a support onto itself, got {self.part.domain} to {self.part.codomain}; "
                "put a change of support after it, in a Chain."
            )
        check_remat(self)

    def init(self, rng: np.random.Generator) -> Params:
        return stacked_init(self.part, self.times, rng)

    def _layer_counts(self) -> Counter[str]:
        return Counter({name: self.times * n for name, n in self.part._layer_counts().items()})

    def loop(
        self, step: Callable[..., tuple[Any, ...]], carry: Any, params: Params, *, reverse: bool
    ) -> tuple[Any, Params]:
        xp = namespace(carry[0])
        return xp.scan(lambda carry, row: step(self.part, carry, row), carry, params, self.times, reverse=reverse)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        if self.remat != "none":
            return self._walk(params, x, context, True, None)[1:]
        xp, zero = namespace(x), zero_log_det(x, self.event_shape)
        return xp.repeat_passes(self.part._forward, params, x, context, zero, self.times, reverse=False)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        if self.remat != "none":
            return self._walk(params, y, context, False, None)[1:]
        xp, zero = namespace(y), zero_log_det(y, self.event_shape)
        return xp.repeat_passes(self.part._inverse, params, y, context, zero, self.times, reverse=True)
