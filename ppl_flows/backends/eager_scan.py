"""Loops over stacked parameters, for libraries that run eagerly (NumPy, torch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_flows.core.params import stack, unstack
from ppl_flows.core.types import Params


def scan(step: Callable[[Any, Params], tuple], carry: Any, params: Params, n: int, *, reverse: bool) -> tuple:
    """``carry, out = step(carry, row)`` for each of the n rows of params, last first if reverse; ``(carry, outs)``.

    The outs, of one structure, are stacked in the order of the rows.
    """
    rows = unstack(params, n)
    outs: list[Params] = [{}] * n
    for i in reversed(range(n)) if reverse else range(n):
        carry, outs[i] = step(carry, rows[i])
    return carry, stack(outs)
