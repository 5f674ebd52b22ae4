"""Ratios within one run: every variant in turn, round after round, on one core."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np

ROUNDS = 21


def one_core() -> None:
    """Pins this process to one core; call it before torch or JAX start their threads."""
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
