from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.precision import is_narrow
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
    """

    part: Bijection

    def init(self, rng: np.random.Generator) -> Params:
        return {"state": self.part.init(rng)}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return _in_dtype_of(x, *self.part.forward(params["state"], x, context))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return _in_dtype_of(y, *self.part.inverse(params["state"], y, context))


def _in_dtype_of(v: Array, out: Array, log_det: Array) -> tuple[Array, Array]:
    """Frozen parameters in float32 leave a narrower v what it is, as other state does."""
    return (namespace(v).astype(out, v.dtype) if is_narrow(v) else out), log_det
