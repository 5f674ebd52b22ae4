"""The eight tasks of the benchmark ``sbibm`` by ``fit_amortized``, beside its own neural posterior estimation.

    python tests/benchmarks/sbibm.py --language numpyro --tasks two_moons,slcp --simulations 1000 --observations 1,2

Prints a markdown table: C2ST, the mean over the observations, of ten thousand draws against the reference posterior;
the published number; CPU seconds of the simulations and the training, and of all draws. With ``--correct`` the draws
are corrected by the model's likelihood first: ``reweighted`` by importance weights, ``steps`` by that many steps of
``fit`` from the amortised flow and then by weights, ``exact`` by Markov chains.

The priors, simulators, observations and references are those of the package, which is not installed; the differential
equations of ``sir`` and ``lotka_volterra`` are solved by diffrax and torchdiffeq in the place of its Julia solver.

Reference: Lueckmann et al. (2021), Benchmarking Simulation-Based Inference, arXiv:2101.04653.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the matrices of C2ST are small: threads would wait for each other

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from sbibm_tasks import wheel
from sbibm_tasks.priors import DATA_SHAPES, TASKS

import ppl_flows as pf

DRAWS = 10_000
CHAINS = 128  # of exact draws: so many need few moves of each
SIMULATIONS = (1_000, 10_000, 100_000)
PUBLISHED = {  # C2ST of NPE at these numbers of simulations, mean over the ten observations
    "two_moons": (0.725, 0.606, 0.542),
    "gaussian_mixture": (0.731, 0.661, 0.555),
    "gaussian_linear": (0.694, 0.552, 0.506),
    "gaussian_linear_uniform": (0.696, 0.553, 0.509),
    "bernoulli_glm": (0.863, 0.678, 0.559),
    "slcp": (0.975, 0.901, 0.831),
    "sir": (0.815, 0.680, 0.585),
    "lotka_volterra": (0.999, 0.997, 0.981),
}
CORRECTIONS = ("none", "reweighted", "steps", "exact")


def language_of(name: str) -> tuple[Any, Any, Callable[..., Any]]:
    """The shell, the models and what makes an array."""
    if name == "numpyro":
        import jax.numpy as jnp
        from sbibm_tasks import models_numpyro

        import ppl_flows.numpyro as shell

        return shell, models_numpyro, jnp.asarray
    import torch
    from sbibm_tasks import models_pyro

    import ppl_flows.pyro as pyro_shell

    return pyro_shell, models_pyro, torch.as_tensor


def posterior_draws(fit: Any, y: Any, correction: str, steps: int, seed: int) -> np.ndarray:
    """Ten thousand, ``(10000, dim)``."""
    if correction == "none":
        drawn = fit.sample(DRAWS, y, seed=seed)
    else:
        result = fit.correct(y, steps=steps if correction == "steps" else 0, seed=seed, progress=False)
        exact = correction == "exact"
        drawn = (
            result.exact(DRAWS, num_chains=CHAINS, seed=seed).samples if exact else result.reweighted(DRAWS, seed=seed)
        )
    rows = np.asarray(drawn["parameters"], dtype=np.float32)
    return rows[np.linspace(0, len(rows) - 1, DRAWS).round().astype(int)]  # of chains there are more


def run(task: str, simulations: int, args: argparse.Namespace) -> dict[str, Any]:
    """One task and number of simulations: C2ST of each observation."""
    shell, models, array = language_of(args.language)
    model = models.model(task, wheel.design_matrix(args.wheel) if task == "bernoulli_glm" else None)
    start = time.process_time()
    fit = shell.fit_amortized(
        model,
        array(np.full(DATA_SHAPES[task], 0.5, dtype=np.float32)),
        simulations=simulations,
        seed=args.seed,
        progress=False,
        **json.loads(args.options),
    )
    trained = time.process_time()
    observations = [int(number) for number in args.observations.split(",")]
    draws, scores, rows = [], [], args.rows or DRAWS
    for number in observations:
        y = array(wheel.observation(task, number, args.wheel))
        draws.append(posterior_draws(fit, y, args.correct, args.correct_steps, args.seed + number))
    drawn = time.process_time()
    for number, own in zip(observations, draws, strict=True):
        scores.append(pf.c2st(wheel.reference(task, number, args.wheel)[:rows], own[:rows]))
    published = dict(zip(SIMULATIONS, PUBLISHED[task], strict=True)).get(simulations)
    return {
        "task": task,
        "language": args.language,
        "simulations": simulations,
        "correct": args.correct,
        "observations": observations,
        "c2st": scores,
        "mean": float(np.mean(scores)),
        "published": published,
        "fit_seconds": trained - start,
        "draw_seconds": drawn - trained,
        "c2st_seconds": time.process_time() - drawn,
        "steps": len(fit.density.losses),
    }


def row_of(found: dict[str, Any]) -> str:
    published = "–" if found["published"] is None else f"{found['published']:.3f}"
    scores = " ".join(f"{score:.3f}" for score in found["c2st"])
    return (
        f"| {found['task']} | {found['simulations']:,} | {found['correct']} | {found['mean']:.3f} | {published} | "
        f"{scores} | {found['steps']:,} | {found['fit_seconds']:.0f} | {found['draw_seconds']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--language", choices=("numpyro", "pyro"), default="numpyro")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--simulations", default="1000,10000")
    parser.add_argument("--observations", default="1,2,3,4,5,6,7,8,9,10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--correct", choices=CORRECTIONS, default="none")
    parser.add_argument("--correct-steps", type=int, default=300)
    parser.add_argument("--options", default="{}", help="of fit_amortized, as JSON")
    parser.add_argument(
        "--rows", type=int, help="of both samples in C2ST, instead of ten thousand: faster, other numbers"
    )
    parser.add_argument("--wheel", help="path of the package's wheel, instead of out/")
    parser.add_argument("--json", help="file to which a line of each result is added")
    args = parser.parse_args()
    tasks = args.tasks.split(",")
    if unknown := set(tasks) - set(TASKS):
        parser.error(f"unknown tasks {sorted(unknown)}; there are {', '.join(TASKS)}")
    print("| task | simulations | correct | C2ST | published NPE | by observation | steps | fit s | draws s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for task in tasks:
        for simulations in map(int, args.simulations.split(",")):
            found = run(task, simulations, args)
            print(row_of(found), flush=True)
            if args.json:
                with open(args.json, "a") as file:
                    file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
