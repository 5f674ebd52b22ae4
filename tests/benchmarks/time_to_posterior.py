"""CPU seconds from the start of a process to a judged posterior, beside the host's NUTS; prints a markdown table.

    python tests/benchmarks/time_to_posterior.py --language numpyro --targets eight_schools,radon --runs 5

Every run is a process of its own, ours and NUTS by turns, on the same text of the model; medians of their CPU seconds,
user and system, imports included. Ours: ``AutoFlow`` and ``fit``, to the printed verdict; then ``sample`` and a second
fit in the same process. NUTS: NumPyro's with 4 vectorised chains of 1,000 + 1,000, Pyro's with ``jit_compile`` and one
chain of 500 + 1,000. Programs: those that XLA compiled before the verdict. The models are those of
``hierarchical/``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

HIERARCHICAL = Path(__file__).resolve().parent / "hierarchical"
TARGETS = "eight_schools,radon,volatility,item_response,capture_recapture,horseshoe,horseshoe_noncentred"


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def numpyro_flow(name: str) -> dict[str, Any]:
    import jax

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **kwargs: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    from targets_numpyro import TARGETS

    from ppl_flows.numpyro import AutoFlow, fit

    model = TARGETS[name].model
    result = fit(model, AutoFlow(model), progress=False)
    print(result.verdict)
    found: dict[str, Any] = {"seconds": cpu_seconds(), "programs": len(compiled), "verdict": result.grade}
    result.sample(1_000)
    found["sample"] = cpu_seconds() - found["seconds"]
    before = cpu_seconds()
    fit(model, AutoFlow(model), progress=False)
    return found | {"second": cpu_seconds() - before}


def numpyro_nuts(name: str) -> dict[str, Any]:
    import jax
    from numpyro.infer import MCMC, NUTS
    from targets_numpyro import TARGETS

    mcmc = MCMC(
        NUTS(TARGETS[name].model),
        num_warmup=1_000,
        num_samples=1_000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0))
    mcmc.print_summary()
    return {"seconds": cpu_seconds()}


def pyro_flow(name: str) -> dict[str, Any]:
    import pyro
    from targets_pyro import TARGETS

    from ppl_flows.pyro import AutoFlow, fit

    model = TARGETS[name].model
    result = fit(model, AutoFlow(model), progress=False)
    print(result.verdict)
    found: dict[str, Any] = {"seconds": cpu_seconds(), "verdict": result.grade}
    result.sample(1_000)
    found["sample"] = cpu_seconds() - found["seconds"]
    before = cpu_seconds()
    pyro.clear_param_store()
    fit(model, AutoFlow(model), progress=False)
    return found | {"second": cpu_seconds() - before}


def pyro_nuts(name: str) -> dict[str, Any]:
    from pyro.infer import MCMC, NUTS
    from targets_pyro import TARGETS

    kernel = NUTS(TARGETS[name].model, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, num_samples=1_000, warmup_steps=500, disable_progbar=True)
    mcmc.run()
    mcmc.summary()
    return {"seconds": cpu_seconds()}


RUNS = {
    ("numpyro", "flow"): numpyro_flow,
    ("numpyro", "nuts"): numpyro_nuts,
    ("pyro", "flow"): pyro_flow,
    ("pyro", "nuts"): pyro_nuts,
}


def in_a_process(language: str, kind: str, target: str) -> dict[str, Any]:
    """What such a run says in its last line, in a process of its own on one core."""
    command = [sys.executable, __file__, "--language", language, "--targets", target, "--one", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("numpyro", "pyro"), required=True)
    parser.add_argument("--targets", default=TARGETS, help="names of the hierarchical benchmark with commas between")
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    parser.add_argument("--one", choices=("flow", "nuts"), help="this run alone, in this process")
    parser.add_argument("--output", type=Path, help="file to which the rows are added, one JSON object a line")
    given = parser.parse_args()

    sys.path.insert(0, str(HIERARCHICAL))
    if given.one:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(RUNS[given.language, given.one](given.targets)))
        return
    columns = ("target", "verdict", "to the verdict", "NUTS", "ratio", "programs", "sample", "second fit")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    for target in given.targets.split(","):
        flows, nuts = [], []
        for _ in range(given.runs):
            flows.append(in_a_process(given.language, "flow", target))
            nuts.append(in_a_process(given.language, "nuts", target))
        ours, theirs = (median(run["seconds"] for run in runs) for runs in (flows, nuts))
        sample, second = (median(run[name] for run in flows) for name in ("sample", "second"))
        programs = flows[0].get("programs", "–")
        cells = (target, flows[0]["verdict"], f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}", programs)
        print(f"| {' | '.join(map(str, cells))} | {sample:.1f} | {second:.1f} |", flush=True)
        if given.output:
            row = {"date": time.strftime("%F"), "language": given.language, "target": target}
            with given.output.open("a") as file:
                file.write(json.dumps(row | {"flow": flows, "nuts": nuts}) + "\n")


if __name__ == "__main__":
    main()
