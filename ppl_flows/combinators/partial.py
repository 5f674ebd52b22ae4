"""``Partial``: a bijection of some of the coordinates."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np

from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole, checked_sequence, whole_number
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import REAL, Support
from ppl_flows.core.types import Array, Observed, Params


@dataclass(frozen=True)
class Partial(Wrapper):
    """A bijection of some of the coordinates; the others pass as they are.

    Args:
        part: a bijection of vectors of size ``len(index)``; its parameters are those of this one.
        dim: event size.
        index: the coordinates it acts on, in the order in which it takes them.

    Raises:
        ValueError: an index that is not in ``0, ..., dim - 1`` or is there twice, or a part of another size.
        TypeError: the part is not a Bijection.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Partial(pf.Reverse(2), dim=4, index=(0, 3))
        >>> layer.forward({}, np.array([1.0, 2.0, 3.0, 4.0]))[0]
        array([4., 2., 3., 1.])
    """

    part: Bijection
    _: KW_ONLY
    dim: int
    index: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, dim=1)
        index = checked_sequence("Partial", "index", self.index, "(0, 2)")
        object.__setattr__(self, "index", tuple(whole_number("Partial", "every entry of index", i, 0) for i in index))
        if len(set(self.index)) < len(self.index) or not set(self.index) <= set(range(self.dim)):
            raise ValueError(
                f"Partial(dim={self.dim}): index must hold different numbers of 0, ..., {self.dim - 1}, "
                f"got {self.index}."
            )
        size = (len(self.index),)
        if self.part.event_shape != size or self.part.output_shape != size:
            raise ValueError(
                f"Partial: index {self.index} needs a bijection of shape {size}, got one from {self.part.event_shape} "
                f"to {self.part.output_shape}."
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.dim,)

    @property
    def domain(self) -> Support:
        return self._around(self.part.domain)

    @property
    def codomain(self) -> Support:
        return self._around(self.part.codomain)

    def _around(self, support: Support) -> Support:
        intervals = dict(zip(self.index, support or (REAL,) * len(self.index), strict=True))
        return tuple(intervals.get(i) for i in range(self.dim))

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        chosen, rest = self._split(x)
        y, log_det = self.part._forward(params, chosen, context)
        return self._join(y, rest), log_det

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        chosen, rest = self._split(y)
        x, log_det = self.part._inverse(params, chosen, context)
        return self._join(x, rest), log_det

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        chosen, rest = self._split(value)
        params, out, log_det = self.part._observe(params, chosen, context, forward, stage)
        return params, self._join(out, rest), log_det

    def _split(self, v: Array) -> tuple[Array, Array]:
        xp = namespace(v)
        index, rest, _ = _places(self.dim, self.index)
        return xp.take(v, xp.constant(index, v), axis=-1), xp.take(v, xp.constant(rest, v), axis=-1)

    def _join(self, moved: Array, rest: Array) -> Array:
        xp = namespace(moved)
        back = xp.constant(_places(self.dim, self.index)[2], moved)
        return xp.take(xp.concat([moved, rest], axis=-1), back, axis=-1)


@cache
def _places(dim: int, index: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The index, the other coordinates, and where each coordinate stands in the two together."""
    rest = np.setdiff1d(np.arange(dim), index)
    return np.array(index), rest, np.argsort(np.concatenate([index, rest]))
