"""How many draws are run at once where none are trained on: as many as a bounded memory has room for."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

MOST_BYTES = 2**28  # that the tensors of one run may take at a time

T = TypeVar("T")


class PeakBytes(TorchDispatchMode):
    """A context that knows how much memory the tensors take that are made in it.

    Attributes:
        peak: the most bytes that were alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._alive: dict[int, list[int]] = {}  # bytes, and tensors that share them, by storage

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {arg.untyped_storage()._cdata for arg in args if isinstance(arg, torch.Tensor)}
        for tensor in out if isinstance(out, tuple | list) else [out]:
            # not a view of what was there before
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given - self._alive.keys():
                self._add(tensor)
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = [storage.nbytes(), 0]
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
        self._alive[key][1] += 1
        weakref.finalize(tensor, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self._alive[key][1] -= 1
        if not self._alive[key][1]:
            self._now -= self._alive.pop(key)[0]


def draws_per_run(bytes_per_draw: float) -> int:
    """As many as there is memory for, at least one."""
    return max(1, int(MOST_BYTES / max(bytes_per_draw, 1.0)))


def in_runs(run: Callable[[int, int], T], n: int, first: int) -> list[T]:
    """``run(start, stop)`` for n draws in all: ``first`` many, and then as many at once as their memory allows.

    The first run is to be one that memory has room for, as training's.
    """
    size = min(first, n)
    with PeakBytes() as memory:
        results = [run(0, size)]
    start, size = size, draws_per_run(memory.peak / size)
    while start < n:
        results.append(run(start, min(start + size, n)))
        start += size
    return results
