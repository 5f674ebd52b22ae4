"""Rows with numbers: arrays on disk, and datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ppl_flows.inference.density import held_out
from ppl_flows.inference.row_source import Reading, Rows, RowSource, each, like_first, pair, sample_size, to_rows

SAMPLED, HELD_OUT = 1, 2  # streams of a seed
ROUNDS = 6  # of a permutation


class NumberedRows(RowSource):
    """Any of n rows at any time.

    Args:
        fetch: of sorted row numbers, each at most once.
        n: number of rows.

    Raises:
        ValueError: rows that no training takes; a share to validate by that leaves none for one of both uses.
    """

    def __init__(self, fetch: Callable[[np.ndarray], Any], n: int, reading: Reading) -> None:
        super().__init__(reading)
        if n < 2:
            raise ValueError(f"data must have at least 2 rows, got {n}.")
        self._fetch, self.rows = fetch, n
        self._random_numbers = reading.random_numbers()
        self.held = held_out(n, reading.validation)
        self._trained_on = n - self.held
        self.batch_size = min(reading.batch_size, self._trained_on)
        size = min(sample_size(self._rows(np.arange(2))), self._trained_on)
        draw = np.random.default_rng(np.random.SeedSequence(reading.seed, spawn_key=(SAMPLED,)))
        self._start(self._rows(self._to_train_on(draw.choice(self._trained_on, size, replace=False))))

    def held_batches(self) -> Iterator[Rows]:
        for first in range(0, self.held, self.batch_size):
            numbers = np.arange(first, min(first + self.batch_size, self.held))
            yield self._rows(permuted(numbers, self.rows or 0, self._reading.seed))

    def _read(self, first: int, last: int) -> Rows:
        rows = [
            rows_of_step(self._trained_on, self.batch_size, self._reading.seed, step) for step in range(first, last)
        ]
        found = self._rows(self._to_train_on(np.concatenate(rows)))
        return each(lambda a: a.reshape(last - first, self.batch_size, *a.shape[1:]), found)

    def _to_train_on(self, i: np.ndarray) -> np.ndarray:
        """Row numbers of those that are not held out."""
        return permuted(i + self.held, self.rows or 0, self._reading.seed) if self.held else i

    def _rows(self, numbers: np.ndarray) -> Rows:
        """In one pass over the disk."""
        found, back = np.unique(numbers, return_inverse=True)
        with self._random_numbers:
            rows = to_rows(self._fetch(found), self._reading.dtype)
        self._reading.check(rows, lambda i: f"row {found[i]}")
        return each(lambda a: a[back], rows)


def rows_of_step(n: int, size: int, seed: int, step: int) -> np.ndarray:
    """Numbers of the rows, of n, that a step takes, ``(size,)``: without replacement, in memory that n does not need.

    Of seed and step alone, so that a process that starts at any step, or takes a part of it, finds the same.
    """
    return np.random.default_rng((seed, step)).choice(n, size, replace=False)


def permuted(i: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Where a random permutation of 0, ..., n - 1 takes these numbers; none of its tables is ever in memory.

    A Feistel network permutes the numbers below a power of four; one that is n or more is permuted again.
    """
    half = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(seed, spawn_key=(HELD_OUT,)).generate_state(ROUNDS, np.uint64)
    out, left_over = i.astype(np.uint64), np.arange(len(i))
    while len(left_over):
        left, right = out[left_over] >> half, out[left_over] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        out[left_over] = left << half | right
        left_over = left_over[out[left_over] >= n]
    return out.astype(np.int64)


def _mixed(x: Any) -> Any:
    """All bits of the result depend on all of x: the finaliser of SplitMix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def of_dataset(dataset: Any) -> Callable[[np.ndarray], Any]:
    """``fetch`` of ``dataset[i]``: rows, or pairs of a row and its context.

    It raises ValueError for contexts of some rows only, of other keys, or of other shapes.
    """
    first: list[Any] = []  # of the rows that were read first, one's context, and what it is called

    def fetch(numbers: np.ndarray) -> Any:
        pairs = [pair(dataset[int(i)], f"row {i}") for i in numbers]
        first[:] = first or [pairs[0][1], f"row {numbers[0]}"]
        given = [like_first(context, f"row {i}", *first) for i, (_, context) in zip(numbers, pairs, strict=True)]
        rows = [to_rows((data, context), float) for (data, _), context in zip(pairs, given, strict=True)]
        data = _stacked([data for data, _ in rows], numbers, "data")
        contexts = [context for _, context in rows]
        if isinstance(contexts[0], dict):
            return data, {k: _stacked([c[k] for c in contexts], numbers, f"context {k!r}") for k in contexts[0]}
        return data, None if contexts[0] is None else _stacked(contexts, numbers, "context")

    return fetch


def _stacked(rows: list[np.ndarray], numbers: np.ndarray, name: str) -> np.ndarray:
    for i, row in zip(numbers, rows, strict=True):
        if row.shape != rows[0].shape:
            raise ValueError(
                f"{name} must be rows of one shape, but row {numbers[0]} has {rows[0].shape}, and row {i} {row.shape}."
            )
    return np.stack(rows)
