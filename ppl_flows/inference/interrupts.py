"""Ctrl-C during a training: the first ends it after the steps at hand, with what there is; the second raises."""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType, TracebackType


class StopOnInterrupt:
    """A context in which the first SIGINT sets ``requested``, and the second raises KeyboardInterrupt.

    An exception at any instruction would lose the training, and in the middle of a compiled program end the process.
    Only in the main thread, and only where SIGINT has Python's own handler; elsewhere nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: object = None

    def __enter__(self) -> StopOnInterrupt:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("fit: interrupted, ends within a second or a step; once more to raise", file=sys.stderr)


class Pieces:
    """Numbers of steps that take about ``SECONDS``, as what a program or a loop does between two looks at the world."""

    SECONDS, FIRST = 1.0, 16

    def __init__(self, block: int) -> None:
        self.size, self._block = max(1, block // self.FIRST), block
        self._began = time.perf_counter()

    def end(self, done: int, steps: int) -> int:
        """Where a piece that begins now, after so many steps, ends: within a block."""
        self._began = time.perf_counter()
        return min(done + self.size, done - done % self._block + self._block, steps)

    def ended(self) -> None:
        """The piece is over: the next is larger or smaller."""
        fast = time.perf_counter() - self._began < self.SECONDS / 2
        self.size = max(1, min(self._block, self.size * 2 if fast else self.size // 2))
