"""Memory and time of a density's training on rows that stay on disk; prints a markdown table.

``python tests/benchmarks/rows.py``: 20 million rows of 10 float32 numbers, 800 MB, are written in pieces to a file in
``--folder``, and fitted by an autoregressive flow, in each language from a memory map, from memory, and from memory
with a part of the rows only; the file is deleted afterwards. Each line is a process of its own. "anonymous" is the
largest anonymous memory of the process during the fit, RssAnon of ``/proc/self/status`` read every 10 ms, and "before"
the same before it: library, and rows where they are in memory. Pages of a memory map are the system's to drop, and not
in it. The log density is that of 20,000 rows that are not in the file, in nats per row, and "true" the mean log density
of these under what they were drawn from. A step's time is on the clock, the median over twentieths of the training.
From memory it grows with the rows, as the hosts' plates permute their numbers in every step, so that such a training is
cut short.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from timing import one_core

one_core()

import numpy as np

import ppl_flows as pf

DIM, PIECE, TEST_ROWS = 10, 1_000_000, 20_000
PART, CUT_SHORT = 100_000, 40  # rows, and steps


def draw(n: int, seed: int) -> tuple[np.ndarray, float]:
    """Rows, and their mean log density in nats: pairs of columns are bent, and scales are of several orders."""
    z = np.random.default_rng(seed).standard_normal((n, DIM))
    score = -0.5 * (z * z).sum(-1) - 0.5 * DIM * np.log(2 * np.pi)
    x = z.copy()
    x[:, 1::2] = z[:, 1::2] * 0.5 + np.sin(z[:, ::2])
    x *= 10.0 ** (np.arange(DIM) % 3)
    log_det = (DIM // 2) * np.log(0.5) + np.log(10.0) * (np.arange(DIM) % 3).sum()
    return x.astype(np.float32), float(score.mean() - log_det)


def write(path: Path, rows: int) -> None:
    with path.open("wb") as file:
        for seed, first in enumerate(range(0, rows, PIECE)):
            draw(min(PIECE, rows - first), 1 + seed)[0].tofile(file)


class AnonymousMemory:
    """A context in which the largest anonymous memory of the process is seen, in MiB."""

    def __enter__(self) -> AnonymousMemory:
        self.before = self.peak = self.now()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def measure(language: str, kind: str, path: str, steps: int) -> dict[str, float]:
    """One row of the table."""
    import importlib

    shell = importlib.import_module(f"ppl_flows.{language}")
    if language == "pyro":
        import torch

        torch.set_num_threads(1)
        as_array, options = torch.as_tensor, {"compile": "jit"}
    else:
        import jax.numpy as as_numpy

        as_array, options = as_numpy.asarray, {}
    data = np.memmap(path, np.float32, "r").reshape(-1, DIM)
    if kind != "disk":
        data = np.array(data if kind == "memory" else data[:PART])
    steps = min(steps, CUT_SHORT) if kind == "memory" else steps
    flow, times = pf.maf(DIM, flow_layers=4, hidden=(64, 64)), []
    with AnonymousMemory() as memory:
        fit = shell.fit_density(
            flow,
            data,
            steps=steps,
            batch_size=256,
            callback=lambda *_: times.append(time.perf_counter()),
            progress=False,
            **options,
        )
    test, true = draw(TEST_ROWS, 0)
    score = float(np.mean(np.asarray(fit.flow.log_prob(as_array(test)))))
    step = 1e3 * float(np.median(np.diff(times))) / (steps // 20)
    return {"before": memory.before, "peak": memory.peak, "steps": steps, "score": score, "true": true, "step": step}


def main(rows: int, steps: int, folder: str, languages: list[str], kinds: list[str]) -> None:
    path = Path(folder) / "rows_of_the_benchmark.bin"
    print("| language | from | before (MiB) | anonymous (MiB) | steps | log density | true | step (ms) |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    try:
        write(path, rows)
        for language in languages:
            for kind in kinds:
                command = [sys.executable, __file__, "--measure", language, kind, str(path), str(steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                r = json.loads(done.stdout.splitlines()[-1])
                whence = f"memory, {PART:,} rows" if kind == "part" else f"{kind}, {rows:,} rows"
                cells = (language, whence, f"{r['before']:.0f}", f"{r['peak']:.0f}", f"{r['steps']:,}")
                scores = (f"{r['score']:.3f}", f"{r['true']:.3f}", f"{r['step']:.2f}")
                print("|", " | ".join((*cells, *scores)), "|", flush=True)
    finally:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(*sys.argv[2:5], int(sys.argv[5]))))
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--rows", type=int, default=20_000_000)
        parser.add_argument("--steps", type=int, default=4_000)
        parser.add_argument("--folder", default="/tmp")
        parser.add_argument("--languages", nargs="+", default=["pyro", "numpyro"], choices=["pyro", "numpyro"])
        parser.add_argument("--kinds", nargs="+", default=["disk", "part", "memory"])
        main(**vars(parser.parse_args()))
