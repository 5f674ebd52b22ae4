"""Stacks of bijections, and what of a pass they keep for the backward one: ``remat``."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_choice
from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import merge, split
from ppl_flows.core.types import Array, Observed, Params
from ppl_flows.numerics.reversible_pass import walk

REMAT = ("none", "checkpoint", "reversible")


class Stack(Bijection):
    """Bijections one after another; ``Chain`` describes ``remat``."""

    remat: str

    @abc.abstractmethod
    def loop(
        self, step: Callable[..., tuple[Any, ...]], carry: Any, params: Params, *, reverse: bool
    ) -> tuple[Any, Params]:
        """``carry, out = step(part, carry, the part's params)`` for each, from the last if ``reverse``."""

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        return self._walk(params, value, context, forward, stage)

    def _walk(self, params: Params, v: Array, context: Array | None, forward: bool, stage: str | None) -> Observed:
        """``(params, out, log_det)``: of a stage of ``observe``, or of an ordinary pass under ``remat``."""
        xp, trained = namespace(v), stage in (None, "train")
        if self.remat == "reversible" and trained:
            new, out, log_det = xp.reversible(self, forward, stage, params, v, context)
        else:
            wrap = xp.checkpoint if self.remat == "checkpoint" and trained else None
            new, out, log_det = walk(self, forward, stage, params, v, context, wrap)
        return merge(split(params)[0], new) if stage == "train" else new, out, log_det


def common_batch_shape(owner: str, kind: str, parts: Sequence[Bijection]) -> tuple[int, ...]:
    """The shape that the batch shapes of the parts broadcast to; ValueError where they do not."""
    shapes = [part.batch_shape for part in parts]
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        named = ", ".join(f"{shape} of {kind} {i}" for i, shape in enumerate(shapes) if shape)
        raise ValueError(
            f"{owner}: the batch shapes {named} do not broadcast; give one batch, such as that of the whole by Batched."
        ) from None


def check_remat(stack: Stack) -> None:
    """Raises ValueError for an unknown ``remat``, or one that the parts cannot have."""
    name, remat = type(stack).__name__, stack.remat
    check_choice(name, "remat", remat, REMAT)
    mixing = {type(b).__name__ for b in _within(stack) if not b.row_wise}
    if remat == "reversible" and mixing:
        raise ValueError(
            f'{name}: remat="reversible" walks back through the inverse, but the training pass of '
            f"{', '.join(sorted(mixing))} depends on the whole batch and has none; "
            'use remat="checkpoint", or ActNorm in its place.'
        )


def _within(bijection: Bijection) -> Iterator[Bijection]:
    """The bijection and all that it is made of."""
    yield bijection
    for field in dataclasses.fields(bijection):  # type: ignore[arg-type]  # every concrete one is a dataclass
        value = getattr(bijection, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Bijection):
                yield from _within(part)
