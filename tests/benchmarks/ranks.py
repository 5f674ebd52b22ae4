"""Steps of Pyro's ``fit`` and ``fit_density`` in 1, 2 and 4 processes of this machine: seconds, and bytes of a step.

``python tests/benchmarks/ranks.py [RANKS...]`` prints the tables of docs/scaling.md. Seconds are medians over pieces of
a training: of the wall clock, which other work on the machine slows down, and of the CPU of the busiest process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

STEPS, WARM = 100, 8  # and pieces, of twenty, that do not count
SIZES = [100, 10_000, 1_000_000]  # of plain sums, in single precision


def loopback() -> int:
    """Bytes so far that processes of this machine sent each other."""
    line = next(row for row in Path("/proc/net/dev").read_text().splitlines() if row.strip().startswith("lo:"))
    return int(line.split()[9])


class Clock:
    """A callback of ``fit`` that looks at the clocks after every piece of a training."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float, int]] = []

    def __call__(self, *_: object) -> None:
        self.seen.append((time.perf_counter(), time.process_time(), loopback()))

    def medians(self) -> list[float]:
        """Of a step: wall-clock seconds, CPU seconds, bytes over the loopback."""
        import numpy as np

        pieces = np.diff(np.array(self.seen[WARM:]), axis=0) / (STEPS // 20)
        return [float(value) for value in np.median(pieces, axis=0)]


def guide_of_particles(clock: Clock) -> int:
    """The default flow on ten latents, where a step is small."""
    return particles(clock, rows=10, dim=10)


def likelihood_of_rows(clock: Clock) -> int:
    """The same guide, of a regression with 20,000 rows, which every particle scores."""
    return particles(clock, rows=20_000, dim=10)


def particles(clock: Clock, rows: int, dim: int) -> int:
    import pyro
    import pyro.distributions as dist
    import torch

    from ppl_flows.pyro import AutoFlow, fit

    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))
    y = (x.sum(-1) > 0).float()

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(dim), 1.0).to_event(1))
        with pyro.plate("rows", rows):
            pyro.sample("y", dist.Bernoulli(logits=w.squeeze(-2) @ x.T if w.ndim > 1 else x @ w), obs=y)

    guide = AutoFlow(model, start="init", quality="quick")
    options = {"num_particles": 64, "steps": STEPS, "tolerance": None, "draws": 10, "check_modes": False}
    result = fit(model, guide, compile=False, callback=clock, progress=False, **options)
    return sum(value.numel() for value in result.params.values())


def density(clock: Clock) -> int:
    """Five MAF layers of 256 x 256 units on 64 columns, 1,024 rows a step."""
    import torch

    import ppl_flows as pf
    from ppl_flows.core.params import flatten
    from ppl_flows.pyro import fit_density

    data = torch.randn(5_000, 64, generator=torch.Generator().manual_seed(0))
    bijection = pf.maf(64, flow_layers=5, hidden=(256, 256))
    options = {"steps": STEPS, "batch_size": 1_024, "compile": False, "progress": False}
    fitted = fit_density(bijection, data, callback=clock, **options)
    return sum(value.numel() for _, value in flatten(fitted.params))


KINDS = {"small guide": guide_of_particles, "20,000 rows": likelihood_of_rows, "density": density}


def sums() -> dict[str, float]:
    """Seconds of a plain sum of so many numbers."""
    import torch
    import torch.distributed as dist

    found = {}
    for size in SIZES:
        numbers, seconds = torch.ones(size), []
        for _ in range(30):
            start = time.perf_counter()
            dist.all_reduce(numbers)
            seconds.append(time.perf_counter() - start)
        found[str(size)] = sorted(seconds)[15]
    return found


def child() -> None:
    import pyro
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    ranks = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    report: dict[str, object] = {"sums": sums() if ranks > 1 else {}}
    for kind, run in KINDS.items():
        pyro.clear_param_store()
        clock = Clock()
        size = run(clock)
        everyone: list[list[float]] = [[]] * ranks
        dist.all_gather_object(everyone, clock.medians())
        wall, cpu, sent = (max(column) for column in zip(*everyone, strict=True))
        report[kind] = {"parameters": size, "wall": wall, "cpu": cpu, "sent": sent if ranks > 1 else 0.0}
    if dist.get_rank() == 0:
        print("REPORT" + json.dumps(report), flush=True)
    dist.destroy_process_group()


def main(counts: list[int]) -> None:
    reports = {}
    for count in counts:
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", __file__, "--child"]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(launcher, env=one_thread, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            raise SystemExit(done.stderr)
        line = next(line for line in done.stdout.splitlines() if "REPORT" in line)
        reports[count] = json.loads(line.partition("REPORT")[2])
    print(f"{os.cpu_count()} cores\n")
    print("| training | parameters | processes | wall, ms | CPU, ms | bytes a process hands over | bytes sent by all |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        for count, report in reports.items():
            of, handed = report[kind], 4 * (report[kind]["parameters"] + 5) * (count > 1)
            times = f"{1e3 * of['wall']:.1f} | {1e3 * of['cpu']:.1f}"
            print(f"| {kind} | {of['parameters']:,} | {count} | {times} | {handed:,} | {of['sent']:,.0f} |")
    print("\n| numbers in a sum | " + " | ".join(f"{count} processes, ms" for count in counts if count > 1) + " |")
    print("|---|" + "---|" * sum(count > 1 for count in counts))
    for size in SIZES:
        times = [f"{1e3 * report['sums'][str(size)]:.2f}" for count, report in reports.items() if count > 1]
        print(f"| {size:,} | {' | '.join(times)} |")


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
    else:
        main([int(arg) for arg in sys.argv[1:]] or [1, 2, 4])
