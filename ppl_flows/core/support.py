"""Where values lie: one open interval per coordinate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

Interval = tuple[float, float]  # lower and upper end
REAL: Interval = (-math.inf, math.inf)
# One interval per coordinate; in its place None where a bijection lets a coordinate pass as it is, whatever it is.
# None for the whole: every coordinate is real.
Support = tuple[Interval | None, ...] | None


def is_real(support: Support) -> bool:
    """Whether every coordinate is real."""
    return all(interval == REAL for interval, _ in runs(support))


def everywhere(interval: Interval, size: int) -> Support:
    """The interval at so many coordinates."""
    return None if interval == REAL else (interval,) * size


def chain_supports(parts: Sequence[Any]) -> tuple[Support, Support]:
    """Domain and codomain of bijections one after another.

    Raises:
        ValueError: a part does not take a coordinate where the parts before it leave it.
    """
    if all(part.domain is part.codomain is None for part in parts):
        return None, None
    size = math.prod(parts[0].event_shape)
    first: list[Interval | None] = [None] * size
    now, moved = first.copy(), False
    for k, part in enumerate(parts):
        if part.rearranges and len(set(now)) == 1:
            moved = moved or now[0] is None
            continue
        domain = part.domain or (REAL,) * math.prod(part.event_shape)
        codomain = part.codomain or (REAL,) * math.prod(part.output_shape)
        if moved and len(set(domain)) > 1:  # which coordinate of the first part takes which interval is not known
            first = [REAL if i is None else i for i in first]
            now = [REAL if i is None else i for i in now]
        for i, (given, wanted) in enumerate(zip(now, domain, strict=True)):
            if wanted is not None and given is None:
                first[i] = wanted
            elif wanted is not None and given != wanted:
                raise ValueError(
                    f"Chain: part {k}, a {type(part).__name__}, takes coordinate {i} in {wanted}, but those before it "
                    f"give {given}; put a change of support last, or its Inverse after it."
                )
        now = [a if b is None else b for a, b in zip(now, codomain, strict=True)] if None in codomain else [*codomain]
    return tuple(first), tuple(now)


def runs(support: Support) -> Iterator[tuple[Interval, int]]:
    """The interval and the length of every run of coordinates of one interval."""
    for interval, run in groupby(REAL if i is None else i for i in support or (None,)):
        yield interval, len(list(run))
