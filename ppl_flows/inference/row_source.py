"""Rows that are read when a step takes them, from data that need not fit into memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from hashlib import sha256
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ppl_flows.inference.arrays import to_numpy

SAMPLE_ROWS, SAMPLE_NUMBERS = 16_384, 2**22  # that a training starts from: at most so many rows, and numbers
AHEAD_STEPS, AHEAD_BYTES = 64, 2**24  # that are read at once: at most so many steps, and bytes

# data ``(rows, *event)``, and their contexts: None, an array, or what an encoder takes, an array or a dict of arrays
Rows: TypeAlias = tuple[np.ndarray, Any]


class Reading(NamedTuple):
    """How a training reads.

    Attributes:
        check: raises ValueError for rows that no step may take; the function says which row of the source one is.
        dtype: that the rows are given in.
        random_numbers: what holds back the language's random numbers while the source's own code runs.
    """

    steps: int
    batch_size: int
    validation: float
    seed: int
    check: Callable[[Rows, Callable[[int], str]], None]
    dtype: Any
    random_numbers: Callable[[], AbstractContextManager[Any]]


class Fetched(NamedTuple):
    """Rows by their numbers, which must be sorted, and how many there are: data that a function makes."""

    fetch: Callable[[np.ndarray], Any]
    n: int


class RowSource(ABC):
    """What a training reads of data that stay where they are; of which memory holds a sample, and a few steps.

    Attributes:
        batch_size: rows of every step.
        sample: rows that the training starts from, drawn from all where these have numbers, else the first.
        rows: how many there are; None: nobody knows.
        held: how many of them are held out.
        ahead: for how many steps at most are read at once.
    """

    batch_size: int
    rows: int | None
    held: int = 0

    def __init__(self, reading: Reading) -> None:
        self._reading, self.batch_size = reading, reading.batch_size
        self._buffer: tuple[int, int, Any] = (0, 0, None)  # steps from, up to, and their rows
        self._taken: tuple[int, Rows] | None = None  # the last step that was, and its rows

    def _start(self, sample: Rows) -> None:
        self.sample = sample
        size = self.batch_size * sum(leaf[:1].nbytes for leaf in leaves(sample))
        self.ahead = max(1, min(AHEAD_STEPS, AHEAD_BYTES // size))

    @abstractmethod
    def _read(self, first: int, last: int) -> Rows:
        """Of steps ``first, ..., last - 1``, each array ``(last - first, batch_size, ...)``."""

    def held_batches(self) -> Iterator[Rows]:
        """The rows held out."""
        return iter(())

    def steps(self, first: int, last: int) -> Rows:
        """What steps ``first, ..., last - 1`` take, each array ``(last - first, batch_size, ...)``.

        Raises:
            ValueError: some rows are not of the right shape, not finite or out of range; an iterator has ended.
        """
        found = self._read(first, last)
        self._taken = last - 1, each(lambda a: a[-1], found)
        return found

    def step(self, step: int) -> Rows:
        """What one step takes; the next ones are read with it."""
        first, last, found = self._buffer
        if not first <= step < last:
            first, last = step, min(step + self.ahead, self._reading.steps)
            found = self._read(first, last)
            self._buffer = first, last, found
        self._taken = step, each(lambda a: a[step - first], found)
        return self._taken[1]

    def example(self) -> Rows:
        """Rows as a step takes them."""
        return filled(self.sample, self.batch_size)

    def saved(self) -> list[Any] | None:
        """The last step, and what tells its rows, for a checkpoint."""
        return None if self._taken is None else [self._taken[0], _digest(self._taken[1])]

    def restore(self, saved: list[Any] | None, _: Any) -> None:
        """Goes on after that step.

        Raises:
            ValueError: its rows are others now.
        """
        if saved is None:
            return
        step = saved[0]
        self._taken = step, each(lambda a: a[0], self._read(step, step + 1))
        if _digest(self._taken[1]) != saved[1]:
            raise ValueError(
                f"the data give other rows for step {step} than before, so that the fit cannot go on; give the same "
                "data, and seed what shuffles them."
            )


def each(f: Callable[[Any], Any], rows: Any) -> tuple[Any, Any]:
    """f of every array, or tensor."""
    data, context = rows
    if isinstance(context, Mapping):
        return f(data), {name: f(value) for name, value in context.items()}
    return f(data), None if context is None else f(context)


def leaves(rows: Any) -> list[Any]:
    """All arrays, the data first."""
    data, context = rows
    more = list(context.values()) if isinstance(context, Mapping) else [] if context is None else [context]
    return [data, *more]


def filled(rows: Rows, size: int) -> Rows:
    """So many rows: these, and again from the first."""
    return each(lambda a: a[np.arange(size) % len(a)], rows)


def sample_size(rows: Rows) -> int:
    """How many rows such as these a sample has."""
    numbers = sum(leaf[:1].size for leaf in leaves(rows))
    return int(max(2, min(SAMPLE_ROWS, SAMPLE_NUMBERS // max(numbers, 1))))


def pair(item: Any, what: str) -> tuple[Any, Any]:
    """Data, and their contexts or None.

    Raises:
        TypeError: it is neither an array nor a pair.
    """
    if isinstance(item, Mapping) or (isinstance(item, tuple | list) and len(item) not in (1, 2)):
        got = f"a dict of {sorted(map(str, item))}" if isinstance(item, Mapping) else f"{len(item)} things"
        raise TypeError(
            f"{what} must be data, or a pair of data and context, got {got}; give what makes such pairs, such as "
            "map(lambda batch: batch['x'], batches) as a function of no arguments."
        )
    return (*item, None)[:2] if isinstance(item, tuple | list) else (item, None)


def to_rows(item: Any, dtype: Any) -> Rows:
    """As NumPy arrays of this dtype.

    Raises:
        TypeError, ValueError: as in ``to_numpy``.
    """
    data, context = item
    if isinstance(context, Mapping):
        given: Any = {name: to_numpy(value, "context").astype(dtype, copy=False) for name, value in context.items()}
    else:
        given = None if context is None else to_numpy(context, "context").astype(dtype, copy=False)
    return to_numpy(data, "data").astype(dtype, copy=False), given


def like_first(context: Any, what: str, first: Any, first_what: str) -> Any:
    """A context, where it is a dict in the order of the first.

    Raises:
        ValueError: one of the two is missing, or a dict, or they have different keys.
    """
    kind, wanted = _kind(context), _kind(first)
    if kind != wanted:
        raise ValueError(f"context: {what} has {kind}, but {first_what} has {wanted}; give every one the same.")
    return {name: context[name] for name in first} if isinstance(first, Mapping) else context


def _kind(context: Any) -> str:
    if isinstance(context, Mapping):
        return f"a dict of {sorted(map(str, context))}"
    return "none" if context is None else "one array"


def _digest(rows: Rows) -> str:
    digest = sha256()
    for leaf in leaves(rows):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
