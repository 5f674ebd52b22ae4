"""How near AutoFlow comes to hierarchical posteriors of hundreds of dimensions; prints a markdown table.

    python tests/benchmarks/hierarchical/run.py --language numpyro --targets radon,volatility --seeds 0,1,2

KL(guide || posterior) = log Z - ELBO in nats, from fresh draws, with the standard errors of both; where log Z is not
known, the ELBO. Over globals, positive ones on the log scale, and over locals: the smallest and largest ratio of sds,
and the largest error of the means in posterior sds. Gradients of the log density: those of the start, a Hessian counted
as dim of them, and one for each draw of a training step. CPU seconds of the whole call of ``fit``, with compilation,
start and measure. With ``--exact 1000`` a second row has so many draws of ``result.exact``. Rows of NUTS are NumPyro's,
stored: its defaults, one chain of 1,000 + 1,000, warm-up included.

An ELBO above log Z is an error in the target or the guide, and of this script's exit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data import Target

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gradient_counter import Counter

from ppl_flows.inference.auto_flow import QUALITIES, fit_budget
from ppl_flows.inference.results import FitResult

DRAWS = 20_000  # that measure a guide
NUMBERS = 20_000_000  # of them at most, in draws that the moments are taken of
IMPOSSIBLE = 4  # standard errors by which an ELBO may be above log Z
COLUMNS = {
    "target": "",
    "guide": "",
    "seed": "",
    "kl": "KL, nats",
    "khat": "k-hat",
    "ess": "ESS",
    "grade": "verdict",
    "sd_globals": "sd ratio, globals",
    "mean_globals": "mean error, globals",
    "sd_locals": "sd ratio, locals",
    "mean_locals": "mean error, locals",
    "start": "start",
    "steps": "steps",
    "gradients": "gradients",
    "seconds": "CPU s",
}


@dataclass(frozen=True)
class Language:
    """What the twins have: their targets, ``AutoFlow`` and ``fit``, and the class of log densities."""

    targets: dict[str, Target]
    guide: Callable
    fit: Callable[..., FitResult]
    density: type
    forget: Callable[[], None]  # parameters of an earlier training


def numpyro_language() -> Language:
    import jax

    jax.config.update("jax_enable_x64", True)
    from targets_numpyro import TARGETS

    from ppl_flows.numpyro import AutoFlow, fit
    from ppl_flows.numpyro.log_density import LogDensity

    return Language(TARGETS, AutoFlow, fit, LogDensity, lambda: None)


def pyro_language() -> Language:
    import pyro
    import torch

    torch.set_default_dtype(torch.float64)
    from targets_pyro import TARGETS

    from ppl_flows.pyro import AutoFlow, fit
    from ppl_flows.pyro.log_density import LogDensity

    return Language(TARGETS, AutoFlow, fit, LogDensity, pyro.clear_param_store)


def accuracy(target: Target, drawn: dict[str, Any]) -> dict[str, Any]:
    """Range of the ratios of sds and largest error of the means, over globals and over locals; by quantity too."""
    if not (moments := target.moments()):
        return {}
    quantities = target.quantities({name: np.asarray(value, dtype=np.float64) for name, value in drawn.items()})
    n = len(quantities[target.scalars[0]])
    quantities = {name: quantities[name].reshape(n, *m.mean.shape) for name, m in moments.items()}  # plates of size one
    errors = {n: np.abs(quantities[n].mean(0) - m.mean) / m.sd for n, m in moments.items()}
    ratios = {n: quantities[n].std(0) / m.sd for n, m in moments.items()}
    found: dict[str, Any] = {"each": {n: [float(errors[n]), float(ratios[n])] for n in target.scalars}}
    for kind, names in (("globals", target.scalars), ("locals", target.locals_)):
        ratio = np.concatenate([np.ravel(ratios[n]) for n in names])
        found[f"sd_{kind}"] = f"{number(ratio.min(), 3)} to {number(ratio.max(), 3)}"
        found[f"mean_{kind}"] = number(max(np.max(errors[n]) for n in names), 3)
    return found


def measure(
    language: Language, counter: Counter, target: Target, seed: int, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row of the guide, and what it is made of; and one of exact draws, where they are asked for."""
    language.forget()
    options = {} if given.informed is None else {"informed": {"true": True, "false": False}.get(given.informed, "auto")}
    counter.gradients, start = 0, time.process_time()
    guide = language.guide(target.model, quality=given.quality, seed=seed, **options)
    result = language.fit(
        target.model,
        guide,
        steps=given.steps,
        num_particles=given.particles,
        draws=DRAWS if target.dim <= NUMBERS / DRAWS else NUMBERS // target.dim,
        seed=seed,
        progress=False,
    )
    seconds = time.process_time() - start
    particles = fit_budget(guide, given.steps, given.particles)[1]
    kl, se = target.log_z - result.elbo.mean, float(np.hypot(result.elbo.se, target.log_z_se))
    known, n = bool(np.isfinite(kl)), min(DRAWS, NUMBERS // target.dim)
    row = {
        "target": target.name,
        "guide": f"AutoFlow, {given.language}" + (f", informed={given.informed}" if given.informed else ""),
        "seed": seed,
        "kl": f"{number(kl, 4)} ± {number(se, 4)}" if known else f"ELBO {result.elbo.mean:.2f} ± {result.elbo.se:.2f}",
        "khat": f"{result.khat:.2f}",
        "ess": f"{result.ess:.3f}",
        "grade": result.grade,
        **accuracy(target, result.sample(n, batch_size=min(n, 2_000))),
        "start": str(guide.start),
        "steps": len(result.losses),
        "start_gradients": counter.gradients,
        "gradients": counter.gradients + len(result.losses) * particles,
        "seconds": f"{seconds:.0f}",
        "kl_number": float(kl),
        "kl_se": se,
        "bound": target.bound,
        "elbo": result.elbo.mean,
        "repr": repr(guide),
        "verdict": result.verdict,
    }
    return [row, exact_row(target, result, given.exact, row)] if given.exact else [row]


def exact_row(target: Target, result: FitResult, num_samples: int, of_guide: dict[str, Any]) -> dict[str, Any]:
    """So many effective draws by ``result.exact``: gradients and CPU seconds are their own, without the fit."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which the row has
        draws = result.exact(num_samples)
    seconds = time.process_time() - start
    evidence, shown = draws.log_evidence, max(1, len(draws.samples[next(iter(draws.samples))]) // DRAWS)
    return {
        "target": target.name,
        "guide": f"exact({num_samples})",
        "seed": of_guide["seed"],
        "kl": f"log Z off by {evidence.mean - target.log_z:.4f} ± {np.hypot(evidence.se, target.log_z_se):.4f}",
        "ess": f"{draws.ess:.0f}, R-hat {draws.rhat:.3f}",
        "grade": "; ".join(draws.alarms) or "no alarm",
        **accuracy(target, {name: value[::shown] for name, value in draws.samples.items()}),
        "gradients": draws.gradients,
        "seconds": f"{seconds:.0f}",
    }


def nuts_rows(target: Target) -> Iterable[dict[str, Any]]:
    for text, cost in target.stored.get("nuts", {}).items():
        yield {
            "target": target.name,
            "guide": f"NUTS, {text}" + (f" in {target.same_as}" if target.same_as else ""),
            "ess": f"{cost['min_ess']:.0f} of {cost['samples']}, {cost['divergences']} divergent",
            "gradients": cost["gradients"],
            "seconds": f"{cost['cpu_seconds']:.0f}",
        }


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"  # far guides have means such as 1e70


def line(row: dict[str, Any]) -> str:
    return "| " + " | ".join(str(row.get(column, "–")).replace("|", "\\|") for column in COLUMNS) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("numpyro", "pyro"), required=True)
    parser.add_argument("--targets", help="names with commas between; all by default")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between")
    parser.add_argument(
        "--informed", choices=("auto", "true", "false"), help="option of AutoFlow; by default not given"
    )
    parser.add_argument("--quality", choices=tuple(QUALITIES), default="standard", help="AutoFlow's, and the budget")
    parser.add_argument("--steps", type=int, help="by default what the guide says")
    parser.add_argument("--particles", type=int, help="draws per step; by default what the guide says")
    parser.add_argument("--exact", type=int, help="draws of the posterior itself that are made from each guide")
    parser.add_argument("--output", type=Path, help="file to which the rows are added, one JSON object a line")
    given = parser.parse_args()

    language = {"numpyro": numpyro_language, "pyro": pyro_language}[given.language]()
    names = (given.targets or ",".join(language.targets)).split(",")
    if unknown := [name for name in names if name not in language.targets]:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(language.targets)}.")
    counter = Counter()
    counter.watch(language.density)

    impossible = []
    print("| " + " | ".join(title or column for column, title in COLUMNS.items()) + " |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    for target in (language.targets[name] for name in names):
        for seed in map(int, given.seeds.split(",")):
            try:
                rows = measure(language, counter, target, seed, given)
            except (RuntimeError, ValueError) as error:  # of this target only: the others go on
                reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                rows = [{"target": target.name, "guide": f"AutoFlow, {given.language}", "seed": seed, "kl": reason}]
            for row in rows:
                print(line(row), flush=True)
                if given.output:
                    with given.output.open("a") as file:
                        file.write(json.dumps(row) + "\n")
            if rows[0].get("kl_number", 0.0) < -IMPOSSIBLE * rows[0].get("kl_se", 0.0):
                impossible.append(f"{target.name}, seed {seed}")
        for row in nuts_rows(target):
            print(line(row), flush=True)
    if impossible:
        sys.exit(f"ELBO above log Z by more than {IMPOSSIBLE} standard errors: {'; '.join(impossible)}.")


if __name__ == "__main__":
    main()
