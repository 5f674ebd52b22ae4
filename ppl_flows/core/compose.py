"""Combinators: ``Chain``, ``Repeat``, ``Inverse`` and ``Frozen``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ppl_flows.core.bijection import Array, Bijection, Observed, Params, Wrapper
from ppl_flows.core.ops import namespace
from ppl_flows.core.params import promoted, stack
from ppl_flows.core.support import Support, chained


@dataclass(frozen=True)
class Chain(Bijection):
    """Bijections one after another: ``forward`` applies the first part first.

    Parts with a context all get the same one. ``params`` holds one entry per part, named ``"0"``, ``"1"``, …

    Args:
        parts: at least one bijection; each takes what the one before it gives.

    Raises:
        ValueError: no parts, shapes or supports that do not fit, or contexts of different sizes.
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
        object.__setattr__(self, "_supports", chained(self.parts))

    @property
    def domain(self) -> Support:
        return self._supports[0]  # type: ignore[attr-defined]  # set above, as it is derived and no field

    @property
    def codomain(self) -> Support:
        return self._supports[1]  # type: ignore[attr-defined]

    @property
    def context_dim(self) -> int:  # type: ignore[override]
        return max(part.context_dim for part in self.parts)

    @property
    def batch_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return np.broadcast_shapes(*(part.batch_shape for part in self.parts))

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

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        parts, new, total = list(enumerate(self.parts)), dict(params), 0.0
        for i, part in parts if forward else reversed(parts):
            given = context if part.context_dim else None
            new[str(i)], value, log_det = part.observe(params[str(i)], value, given, forward=forward, stage=stage)
            total = total + log_det
        return new, value, total


@dataclass(frozen=True)
class Repeat(Wrapper):
    """The same bijection several times, each time with parameters of its own.

    Like a ``Chain`` of ``times`` parts, but every array of ``params`` has one more axis in front, over the
    repetitions. In JAX they are scanned: the program, and the time to compile it, do not grow with their number.

    Args:
        part: what is repeated; it gives the shape that it takes. A ``Chain`` makes a block of different layers.
        times: how often, at least 1.

    Raises:
        ValueError: times below 1, or a part that changes the shape or the support.
        TypeError: the part is not a Bijection.
    """

    part: Bijection
    times: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.times < 1:
            raise ValueError(f"Repeat: times must be at least 1, got {self.times}.")
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

    def init(self, rng: np.random.Generator) -> Params:
        return stack([self.part.init(rng) for _ in range(self.times)])

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._scan(lambda row, v: ({}, *self.part.forward(row, v, context)), params, x, context, True)[1:]

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._scan(lambda row, v: ({}, *self.part.inverse(row, v, context)), params, y, context, False)[1:]

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        def run(row: Params, v: Array) -> Observed:
            return self.part.observe(row, v, context, forward=forward, stage=stage)

        return self._scan(run, params, value, context, forward)

    def _scan(
        self, run: Callable[[Params, Array], Observed], params: Params, v: Array, context: Array | None, forward: bool
    ) -> Observed:
        def step(carry: tuple[Array, Array], row: Params) -> tuple[tuple[Array, Array], Params]:
            new, v, log_det = run(row, carry[0])
            return (v, carry[1] + log_det), new

        xp = namespace(v)
        v = promoted(v, params, context)
        zero = xp.zeros_like(v[(..., *(0 for _ in self.event_shape))])
        (v, log_det), new = xp.scan(step, (v, zero), params, self.times, reverse=not forward)
        return new, v, log_det


@dataclass(frozen=True)
class Inverse(Wrapper):
    """A bijection with its directions exchanged: the way from an IAF to a MAF and back.

    Args:
        part: the bijection to turn round; it keeps its parameters, which are those of this one.

    Raises:
        TypeError: the part is not a Bijection.
    """

    part: Bijection

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
        return self.part.inverse(params, x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part.forward(params, y, context)

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        return self.part.observe(params, value, context, forward=not forward, stage=stage)


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
        return self.part.forward(params["state"], x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part.inverse(params["state"], y, context)
