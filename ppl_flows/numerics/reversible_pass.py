"""A pass through bijections one after another, and its gradient from the output alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import split
from ppl_flows.core.types import Array, Observed, Params


class Walkable(Protocol):
    """Bijections one after another."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Of the first part's x."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the last part's y."""

    def loop(
        self, step: Callable[..., tuple[Any, ...]], carry: Any, params: Params, *, reverse: bool
    ) -> tuple[Any, Params]:
        """``carry, out = step(part, carry, the part's params)`` for each, from the last if ``reverse``."""


def walk(
    stack: Walkable,
    forward: bool,
    stage: str | None,
    params: Params,
    v: Array,
    context: Array | None,
    wrap: Callable[[Callable[..., Observed]], Callable[..., Observed]] | None = None,
) -> Observed:
    """``(what changed of params, out, log_det)`` of all parts in turn; wrap is put round the pass of each.

    Args:
        stage: of ``observe``; None: an ordinary pass.
    """

    def step(part: Bijection, carry: tuple[Array, Array], row: Params) -> tuple[tuple[Array, Array], Params]:
        one = partial(_pass, part, forward, stage)
        new, v, log_det = (one if wrap is None else wrap(one))(row, carry[0], context if part.context_dim else None)
        return (v, carry[1] + log_det), new

    zero = zero_log_det(v, stack.event_shape if forward else stack.output_shape)
    (v, log_det), new = stack.loop(step, (v, zero), params, reverse=not forward)
    return new, v, log_det


def walk_back(
    vjp: Callable[..., tuple[Any, ...]],
    stack: Walkable,
    forward: bool,
    stage: str | None,
    params: Params,
    context: Array | None,
    out: Array,
    cotangents: tuple[Array, Array],
) -> tuple[tuple[Params, Array, Array | None], Array]:
    """Gradients of ``walk`` with respect to params, v and context, from its output alone; and the v that it found.

    Args:
        vjp: as ``jax.vjp``, for functions of ``(params, v, context)``.
        cotangents: of the output and of log_det.
    """
    g_out, g_log_det = cotangents

    def step(part: Bijection, carry: tuple[Any, ...], row: Params) -> tuple[tuple[Any, ...], Params]:
        out, g_out, g_context = carry
        given = context if part.context_dim else None
        v = _pass(part, not forward, None, row, out, given)[1]
        _, pull = vjp(lambda *args: _pass(part, forward, stage, *args)[1:], row, v, given)
        g_row, g_v, g_given = pull((g_out, g_log_det))
        return (v, g_v, g_context if g_given is None else g_context + g_given), g_row

    g_context = None if context is None else namespace(context).zeros_like(context)
    (v, g_v, g_context), g_params = stack.loop(step, (out, g_out, g_context), params, reverse=forward)
    return (g_params, g_v, g_context), v


def _pass(
    part: Bijection, forward: bool, stage: str | None, params: Params, v: Array, context: Array | None
) -> Observed:
    """``(what changed of params, out, log_det)`` of one part."""
    if stage is None:
        return {}, *(part._forward if forward else part._inverse)(params, v, context)
    new, out, log_det = part._observe(params, v, context, forward, stage)
    return split(new)[1] if stage == "train" else new, out, log_det


def zero_log_det(v: Array, event_shape: tuple[int, ...]) -> Array:
    """Zeros of the shape of v's batch."""
    return namespace(v).zeros_like(v[(..., *(0 for _ in event_shape))])


def round_trip_error(v: Array, again: Array) -> Array:
    """How far a walk there and back ends from where it began, relative to the size of the values."""
    xp = namespace(v)
    size = xp.mean(xp.abs(v))
    return xp.max(xp.abs(again - v) / (xp.abs(v) + xp.where(size > 0, size, xp.ones_like(size))))


def allowed_error(v: Array) -> float:
    """Half the digits of the dtype: the gradient has about as many left as the values have."""
    return math.sqrt(namespace(v).finfo(v.dtype).eps)


def ill_conditioned(stack: Walkable, error: float, allowed: float) -> ValueError:
    return ValueError(
        f'{type(stack).__name__}: remat="reversible" needs a stack whose inverse undoes it to a relative '
        f"{allowed:.1e} in this dtype, but after the way back values differ by {error:.1e}, and the gradient would be "
        'wrong; use remat="checkpoint", float64, or layers that scale less (max_log_scale).'
    )
