"""Ratios within one run: every variant in turn, round after round, on one core."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

ROUNDS = 21


def one_core() -> None:
    """Pins this process to one core; call it before torch or JAX start their threads."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def ratios(variants: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median over rounds of each variant's CPU time over that of the first."""
    for run in variants.values():  # compilation and warm-up
        run()
        run()
    seconds = np.empty((rounds, len(variants)))
    for i in range(rounds):
        for j in np.roll(np.arange(len(variants)), i):
            start = time.process_time()
            list(variants.values())[j]()
            seconds[i, j] = time.process_time() - start
    return dict(zip(variants, np.median(seconds / seconds[:, :1], axis=0), strict=True))


def cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended, such as a compiler."""
    return sum(os.times()[:4])


class Contestant:
    """A variant in a process of its own, so that its memory is its own; it works only when it is its turn.

    The command answers every line on its standard input by one of JSON, as ``serve`` does.
    """

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self) -> dict:
        try:
            print("go", file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return {"missing": "its process died"}
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else {"missing": "its process died"}

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def serve(build: Callable[[], Callable[[], object]], seconds: float) -> None:
    """The other end of ``Contestant``: first ``{"first": s}``, then ``{"step": s, "peak": bytes}`` at every turn.

    Args:
        build: makes what is timed; its own time belongs to the first step. Its attribute ``steps``, if it has one, is
            the number of steps that a call takes.
        seconds: of CPU that a turn takes.
    """
    steps, run = 0, None
    for _ in sys.stdin:
        start = cpu_seconds()
        if run is None:
            try:
                run = build()
            except ModuleNotFoundError as error:
                answer = {"missing": f"no module {error.name}; pip install '.[bench]' has it"}
            else:
                run()
                answer = {"first": cpu_seconds() - start}
        else:
            start = time.process_time()
            if not steps:
                run()
                once = max(time.process_time() - start, 1e-5)
                steps, start = max(1, round(seconds / once)), time.process_time()
            for _ in range(steps):
                run()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            taken = steps * getattr(run, "steps", 1)
            answer = {"step": (time.process_time() - start) / taken, "peak": peak}
        print(json.dumps(answer), flush=True)
