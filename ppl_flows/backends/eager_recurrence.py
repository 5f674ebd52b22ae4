"""Recurrences along the last axis where every operation is a call: ``log2(length)`` rounds over whole arrays."""

from __future__ import annotations

from typing import Any

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array


def recurrence(gain: Array, term: Array) -> Array:
    gain, by = gain + 0 * term, 1
    while by < term.shape[-1]:
        term = term + gain * _before(term, 0.0, by)
        gain = gain * _before(gain, 1.0, by)
        by *= 2
    return term


def fractions(a: Array, b: Array, c: Array, d: Array) -> Array:
    by = 1
    while by < a.shape[-1]:
        a0, b0, c0, d0 = _before(a, 1.0, by), _before(b, 0.0, by), _before(c, 0.0, by), _before(d, 1.0, by)
        a, b, c, d = a * a0 + b * c0, a * b0 + b * d0, c * a0 + d * c0, c * b0 + d * d0
        size = a + b + c + d
        a, b, c, d = a / size, b / size, c / size, d / size
        by *= 2
    return b / d


def _before(v: Array, fill: float, by: int) -> Any:
    return namespace(v).concat((v[..., :by] * 0 + fill, v[..., :-by]), axis=-1)
