"""Rows without numbers: whatever gives batch after batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ppl_flows.inference.row_source import (
    Reading,
    Rows,
    RowSource,
    each,
    leaves,
    like_first,
    pair,
    sample_size,
    to_rows,
)


class IteratedRows(RowSource):
    """The rows of batches of any sizes, one after the other, and again from the start where they end.

    Args:
        open: gives a new iterator.
        once: it gives the same one at every call, which cannot be read again.

    Raises:
        ValueError: rows that no training takes; a share to validate by; there are none; contexts of some batches only,
            or of other keys.
    """

    rows = None

    def __init__(self, open: Callable[[], Iterator[Any]], reading: Reading, *, once: bool) -> None:
        super().__init__(reading)
        if reading.validation:
            raise ValueError(
                f"validation={reading.validation}: of what is iterated nobody knows how many rows there are, so that "
                "no share can be held out; use validation=0, and score rows of your own in callback=, or give data "
                "whose rows have numbers: an array on disk, or a Dataset."
            )
        self._open, self._once = open, once
        self._first: tuple[Any, str] | None = None  # a context, and the batch that it is of
        self._from_the_start()
        self._start(self._first_rows())

    def _from_the_start(self) -> None:
        self._random_numbers = self._reading.random_numbers()
        self._pending = deque[Rows]()  # read, and not yet taken
        self._step = self._batches = self._passes = 0
        self._new_pass()

    def _new_pass(self) -> None:
        with self._random_numbers:
            self._iterator = self._open()
        self._passes, self._in_pass = self._passes + 1, 0

    def _first_rows(self) -> Rows:
        """Which stay pending."""
        found = [self._next_batch()]
        size, n = sample_size(found[0]), len(found[0][0])
        while n < size and (batch := self._next_batch(end=True)) is not None:
            found.append(batch)
            n += len(batch[0])
        self._pending.extend(found)
        return each(lambda a: a[:size].copy(), _joined(found))

    def _read(self, first: int, last: int) -> Rows:
        if first < self._step:
            if self._once:
                raise ValueError(
                    "the fit takes earlier steps again, but the data are an iterator, which can be read once; give "
                    "what can be iterated again, such as a DataLoader or a function that gives a new iterator."
                )
            self._from_the_start()
        while self._step < first:
            self._take()
        steps = [self._take() for _ in range(first, last)]
        return _stacked(steps)

    def _take(self) -> Rows:
        """The next rows, as many as a step takes."""
        parts, missing = [], self.batch_size
        while missing:
            rows = self._pending.popleft() if self._pending else self._next_batch()
            if len(rows[0]) > missing:
                rows, rest = _cut(rows, missing)
                self._pending.appendleft(rest)
            parts.append(rows)
            missing -= len(rows[0])
        self._step += 1
        return _joined(parts)

    def _next_batch(self, *, end: bool = False) -> Any:
        """One that has rows; with ``end``, None where a pass ends."""
        while True:
            with self._random_numbers:
                item = next(self._iterator, None)
            if item is None:
                if self._in_pass and end:
                    return None
                self._check_goes_on()
                self._new_pass()
                continue
            name = f"batch {self._batches}"
            self._batches += 1
            data, context = pair(item, name)
            self._first = self._first or (context, name)
            rows = to_rows((data, like_first(context, name, *self._first)), self._reading.dtype)
            if not rows[0].ndim or len(rows[0]):
                self._reading.check(rows, partial("row {1} of {0}".format, name))
                self._in_pass += len(rows[0])
                return rows

    def _check_goes_on(self) -> None:
        """Raises ValueError where there is nothing more."""
        if not self._in_pass:
            again = "" if self._passes == 1 else f" in pass {self._passes}"
            raise ValueError(
                f"the data gave no rows{again}; give an iterable of batches that begins anew at every iter(), or a "
                "function that gives a new iterator at every call."
            )
        if self._once:
            raise ValueError(
                f"the iterator ended after {self._in_pass} rows, at step {self._step} of {self._reading.steps}; give "
                "what can be iterated again, such as a DataLoader or a function that gives a new iterator, or "
                f"steps={max(1, self._step)}."
            )


def _cut(rows: Rows, n: int) -> tuple[Rows, Rows]:
    return each(lambda a: a[:n], rows), each(lambda a: a[n:], rows)


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    return _merged(np.concatenate, parts)


def _stacked(parts: list[Rows]) -> Rows:
    return _merged(np.stack, parts)


def _merged(f: Callable[[list[np.ndarray]], np.ndarray], parts: list[Rows]) -> Rows:
    columns = [f([*arrays]) for arrays in zip(*map(leaves, parts), strict=True)]
    context = parts[0][1]
    if isinstance(context, dict):
        return columns[0], dict(zip(context, columns[1:], strict=True))
    return columns[0], None if context is None else columns[1]
