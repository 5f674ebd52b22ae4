"""Loops over stacked parameters, for libraries that run eagerly (NumPy, torch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ppl_flows.core.params import stack, unstack
from ppl_flows.core.types import Array, Context, Params

Carry = TypeVar("Carry")


def scan(
    step: Callable[[Carry, Params], tuple[Carry, Any]], carry: Carry, params: Params, n: int, *, reverse: bool
) -> tuple[Carry, Any]:
    """As in ``Backend``."""
    rows = unstack(params, n)
    outs: list[Params] = [{}] * n
    for i in reversed(range(n)) if reverse else range(n):
        carry, outs[i] = step(carry, rows[i])
    return carry, stack(outs)


def repeat_passes(
    run: Callable[[Params, Array, Context], tuple[Array, Array]],
    params: Params,
    v: Array,
    context: Context,
    zero: Array,
    n: int,
    *,
    reverse: bool,
) -> tuple[Array, Array]:
    """As in ``Backend``."""
    rows, log_det = unstack(params, n), zero
    for row in reversed(rows) if reverse else rows:
        v, change = run(row, v, context)
        log_det = log_det + change
    return v, log_det
