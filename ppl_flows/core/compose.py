"""Combinators: ``Chain`` and ``Inverse``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ppl_flows.core.bijection import Array, Bijection, Params


@dataclass(frozen=True)
class Chain(Bijection):
    """Bijections one after another: ``forward`` applies the first part first.

    Parts with a context all get the same one. ``params`` holds one entry per part, named ``"0"``, ``"1"``, …

    Args:
        parts: at least one bijection; each takes what the one before it gives.

    Raises:
        ValueError: no parts, shapes that do not fit, or contexts of different sizes.
        TypeError: a part is not a Bijection.
    """

    parts: tuple[Bijection, ...]

    def __init__(self, parts: Iterable[Bijection]) -> None:
        object.__setattr__(self, "parts", tuple(parts))
        if not self.parts:
            raise ValueError("Chain got no parts; give at least one bijection (flow_layers >= 1 in the recipes).")
        for part in self.parts:
            if not isinstance(part, Bijection):
                raise TypeError(
                    f"Chain takes bijections, got {type(part).__name__}; pass pf.Coupling(dim) and the like."
                )
        for a, b in zip(self.parts, self.parts[1:], strict=False):
            if a.output_shape != b.event_shape:
                raise ValueError(f"Chain: {a!r} gives shape {a.output_shape}, but {b!r} takes {b.event_shape}.")
        if len({part.context_dim for part in self.parts} - {0}) > 1:
            raise ValueError(
                f"Chain: parts disagree on context_dim, got {[part.context_dim for part in self.parts]}; "
                "every part takes the same context or none (0)."
            )

    @property
    def context_dim(self) -> int:  # type: ignore[override]
        return max(part.context_dim for part in self.parts)

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.parts[0].event_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.parts[-1].output_shape

    def init(self, rng: np.random.Generator) -> Params:
        return {str(i): part.init(rng) for i, part in enumerate(self.parts)}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        total: Array = 0.0
        for i, part in enumerate(self.parts):
            x, log_det = part.forward(params[str(i)], x, context if part.context_dim else None)
            total = total + log_det
        return x, total

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        total: Array = 0.0
        for i, part in reversed(list(enumerate(self.parts))):
            y, log_det = part.inverse(params[str(i)], y, context if part.context_dim else None)
            total = total + log_det
        return y, total


@dataclass(frozen=True)
class Inverse(Bijection):
    """A bijection with its directions exchanged: the way from an IAF to a MAF and back.

    Args:
        part: the bijection to turn round; it keeps its parameters, which are those of this one.
    """

    part: Bijection

    @property
    def context_dim(self) -> int:  # type: ignore[override]
        return self.part.context_dim

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.part.output_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.part.event_shape

    def init(self, rng: np.random.Generator) -> Params:
        return self.part.init(rng)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part.inverse(params, x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part.forward(params, y, context)
