"""``Chain``: bijections one after another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ppl_flows.combinators.stack import Stack, check_remat, common_batch_shape
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.support import Support, chain_supports
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Chain(Stack):
    """Bijections one after another: ``forward`` applies the first part first.

    Parts with a context all get the same one. ``params`` holds one entry per part, named ``"0"``, ``"1"``, …, or as the
    mapping names them: ``Chain({"flow": pf.iaf(2), "affine": pf.TriangularAffine(2)})``.

    ``remat`` says what is kept for the backward pass; values, gradients and ``params`` are the same. Under it, torch
    and JAX recompute in the backward pass what was not kept (NumPy has no gradients). ``dataclasses.replace`` gives a
    flow that was made by a recipe another one.

    Args:
        parts: at least one bijection; each takes what the one before it gives. A mapping gives them names.
        names: of the parts; instead of a mapping. None: their numbers.
        remat: ``"none"``: everything is kept. ``"checkpoint"``: the input of each part; costs one more pass.
            ``"reversible"``: only the input and the output of the whole, however many parts there are; the backward
            pass walks back through the inverses, which costs one more pass in each direction, and raises where
            rounding makes that differ from the way there (relative to the values: by the root of the dtype's eps). In
            JAX it has no forward-mode derivatives, and the error is raised by a callback, as a ``JaxRuntimeError``;
            the gradients are nan then.

    Raises:
        ValueError: no parts, shapes, batch shapes or supports that do not fit, contexts of different sizes, an unknown
            remat, or a reversible one of layers such as ``BatchNorm``, whose training pass cannot be undone row by row;
            in the backward pass: a stack that is too ill-conditioned to be reversible.
        TypeError: a part is not a Bijection.

    Example:
        >>> import dataclasses
        >>> import ppl_flows as pf
        >>> flow = dataclasses.replace(pf.real_nvp(64, flow_layers=128), remat="checkpoint")

    Reference: Chen et al. (2016), Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174; Gomez et al. (2017),
    The Reversible Residual Network, arXiv:1707.04585.
    """

    parts: tuple[Bijection, ...]
    names: tuple[str, ...] | None = None
    remat: str = "none"

    def __init__(
        self,
        parts: Iterable[Bijection] | Mapping[str, Bijection],
        *,
        names: Iterable[str] | None = None,
        remat: str = "none",
    ) -> None:
        if isinstance(parts, Mapping):
            if names is not None:
                raise ValueError("Chain: give the parts as a mapping or with names, not both.")
            names, parts = tuple(parts), parts.values()
        if isinstance(parts, Bijection) or not isinstance(parts, Iterable):
            raise TypeError(f"Chain takes a sequence or a mapping of bijections, got {parts!r}; put it into a list.")
        object.__setattr__(self, "parts", tuple(parts))
        if isinstance(names, str) or not isinstance(names, Iterable | None):
            raise TypeError(f"Chain: names must be one for every part, such as ['first', 'second'], got {names!r}.")
        object.__setattr__(self, "names", None if names is None else tuple(names))
        object.__setattr__(self, "remat", remat)
        if not self.parts:
            raise ValueError("Chain got no parts; give at least one bijection (flow_layers >= 1 in the recipes).")
        if self.names is not None:
            self._check_names(self.names)
        for part in self.parts:
            check_bijection("Chain", part)
        for a, b in zip(self.parts, self.parts[1:], strict=False):
            if a.output_shape != b.event_shape:
                raise ValueError(f"Chain: {a!r} gives shape {a.output_shape}, but {b!r} takes {b.event_shape}.")
        if len({part.context_dim for part in self.parts} - {0}) > 1:
            raise ValueError(
                f"Chain: parts disagree on context_dim, got {[part.context_dim for part in self.parts]}; "
                "every part takes the same context or none (0)."
            )
        check_remat(self)
        _ = self._supports, self.batch_shape  # which may not fit

    @cached_property
    def _supports(self) -> tuple[Support, Support]:
        return chain_supports(self.parts)

    @property
    def domain(self) -> Support:
        return self._supports[0]

    @property
    def codomain(self) -> Support:
        return self._supports[1]

    @cached_property
    def context_dim(self) -> int:  # type: ignore[override]
        return max(part.context_dim for part in self.parts)

    @cached_property
    def rearranges(self) -> bool:  # type: ignore[override]
        return all(part.rearranges for part in self.parts)

    @cached_property
    def batch_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return common_batch_shape("Chain", "part", self.parts)

    @cached_property
    def _named(self) -> tuple[tuple[str, Bijection], ...]:
        return tuple(zip(self.names or map(str, range(len(self.parts))), self.parts, strict=True))

    def _check_names(self, names: tuple[str, ...]) -> None:
        good = all(isinstance(name, str) and name and not set(name) & set(".$") and name != "state" for name in names)
        if not good or len(set(names)) != len(self.parts):
            raise ValueError(
                f"Chain: {len(self.parts)} parts need as many different names, strings without dots and dollars, "
                f"and not 'state', got {names}."
            )

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.parts[0].event_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.parts[-1].output_shape

    def init(self, rng: np.random.Generator) -> Params:
        return {name: part.init(rng) for name, part in self._named}

    def _layer_counts(self) -> Counter[str]:
        return sum((part._layer_counts() for part in self.parts), Counter[str]())

    def loop(
        self, step: Callable[..., tuple[Any, ...]], carry: Any, params: Params, *, reverse: bool
    ) -> tuple[Any, Params]:
        outs: dict[str, Params] = {name: {} for name in params}  # in their order
        for name, part in reversed(self._named) if reverse else self._named:
            carry, outs[name] = step(part, carry, params[name])
        return carry, outs

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        if self.remat != "none":
            return self._walk(params, x, context, True, None)[1:]
        total: Array = 0.0
        for name, part in self._named:
            x, log_det = part._forward(params[name], x, context if part.context_dim else None)
            total = total + log_det
        return x, total

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        if self.remat != "none":
            return self._walk(params, y, context, False, None)[1:]
        total: Array = 0.0
        for name, part in reversed(self._named):
            y, log_det = part._inverse(params[name], y, context if part.context_dim else None)
            total = total + log_det
        return y, total

    def _widen(self, params: Params) -> Params:
        return {name: part._widen(params[name]) for name, part in self._named}
