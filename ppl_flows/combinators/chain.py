"""Combinators: ``Chain``, ``Repeat``, ``Inverse`` and ``Frozen``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from ppl_flows.combinators.stack import Stack, check_remat
from ppl_flows.core.bijection import Array, Bijection, Observed, Params, Wrapper
from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import stack
from ppl_flows.core.precision import is_narrow, promoted
from ppl_flows.core.support import Support, chained


@dataclass(frozen=True)
class Chain(Stack):
    """Bijections one after another: ``forward`` applies the first part first.

    Parts with a context all get the same one. ``params`` holds one entry per part, named ``"0"``, ``"1"``, …

    ``remat`` says what is kept for the backward pass; values, gradients and ``params`` are the same. Under it, torch
    and JAX recompute in the backward pass what was not kept (NumPy has no gradients). ``dataclasses.replace`` gives a
    flow that was made by a recipe another one.

    Args:
        parts: at least one bijection; each takes what the one before it gives.
        remat: ``"none"``: everything is kept. ``"checkpoint"``: the input of each part; costs one more pass.
            ``"reversible"``: only the input and the output of the whole, however many parts there are; the backward
            pass walks back through the inverses, which costs one more pass in each direction, and raises where
            rounding makes that differ from the way there (relative to the values: by the root of the dtype's eps). In
            JAX it has no forward-mode derivatives, and the error is raised by a callback, as a ``JaxRuntimeError``;
            the gradients are nan then.

    Raises:
        ValueError: no parts, shapes or supports that do not fit, contexts of different sizes, an unknown remat, or a
            reversible one of layers such as ``BatchNorm``, whose training pass cannot be undone row by row; in the
            backward pass: a stack that is too ill-conditioned to be reversible.
        TypeError: a part is not a Bijection.

    Example:
        >>> import dataclasses
        >>> import ppl_flows as pf
        >>> flow = dataclasses.replace(pf.real_nvp(64, flow_layers=128), remat="checkpoint")

    Reference: Chen et al. (2016), Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174; Gomez et al. (2017),
    The Reversible Residual Network, arXiv:1707.04585.
    """

    parts: tuple[Bijection, ...]
    remat: str = "none"

    def __init__(self, parts: Iterable[Bijection], *, remat: str = "none") -> None:
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "remat", remat)
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
        check_remat(self)
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

    def loop(self, step: Callable[..., tuple], carry: Any, params: Params, *, reverse: bool) -> tuple[Any, Params]:
        outs: dict[str, Params] = {name: {} for name in params}  # in their order
        for i, part in reversed(list(enumerate(self.parts))) if reverse else enumerate(self.parts):
            carry, outs[str(i)] = step(part, carry, params[str(i)])
        return carry, outs


@dataclass(frozen=True)
class Repeat(Stack, Wrapper):
    """The same bijection several times, each time with parameters of its own.

    Like a ``Chain`` of ``times`` parts, but every array of ``params`` has one more axis in front, over the
    repetitions. In JAX they are scanned: the program, and the time to compile it, do not grow with their number.

    Args:
        part: what is repeated; it gives the shape that it takes. A ``Chain`` makes a block of different layers.
        times: how often, at least 1.
        remat: as in ``Chain``, with the repetitions as the parts.

    Raises:
        ValueError: times below 1, a part that changes the shape or the support, or a remat that the part cannot have.
        TypeError: the part is not a Bijection.
    """

    part: Bijection
    times: int
    _: KW_ONLY
    remat: str = "none"

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
        check_remat(self)

    def init(self, rng: np.random.Generator) -> Params:
        return stack([self.part.init(rng) for _ in range(self.times)])

    def _run(self, params: Params, v: Array, context: Array | None, forward: bool, stage: str | None) -> Observed:
        return super()._run(params, promoted(v, params, context), context, forward, stage)

    def loop(self, step: Callable[..., tuple], carry: Any, params: Params, *, reverse: bool) -> tuple[Any, Params]:
        xp = namespace(carry[0])
        return xp.scan(lambda carry, row: step(self.part, carry, row), carry, params, self.times, reverse=reverse)


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
        return _in_dtype_of(x, *self.part.forward(params["state"], x, context))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return _in_dtype_of(y, *self.part.inverse(params["state"], y, context))


def _in_dtype_of(v: Array, out: Array, log_det: Array) -> tuple[Array, Array]:
    """Frozen parameters in float32 leave a narrower v what it is, as other state does."""
    return (namespace(v).astype(out, v.dtype) if is_narrow(v) else out), log_det
