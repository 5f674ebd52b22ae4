"""Draws of ``result.exact`` beside reference draws and beside the host's NUTS; prints a markdown table.

    python tests/benchmarks/exact/posteriors.py --language numpyro --targets kidiq,seeds --seeds 0,1,2,3,4

For every quantity with a reference: z, the difference of means, and of standard deviations, over both Monte Carlo
errors, as the share above 3 and the largest. Effective sample size: the smallest of all numbers of the latent vector
and of the log weight; of NUTS (NumPyro: four chains of 1,000 + 1,000, its defaults; Pyro: one of 500 + 1,000) the
smallest of all latent sites. Gradients of the log density: of the draws alone, and with start and training; CPU seconds
of a first call, of a second, and of the fit before them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "posteriors")]

from gradient_counter import Counter

from ppl_flows.inference.auto_flow import fit_budget
from ppl_flows.numerics.chain_diagnostics import bulk_ess

DRAWS = 4_000
REFERENCE = 10_000  # independent draws that the references are worth
NUTS_CHAINS, NUTS_DRAWS = 4, 1_000


@dataclass(frozen=True)
class Language:
    """What the twins have."""

    targets: dict[str, Any]
    guide: Callable[..., Any]
    fit: Callable[..., Any]
    density: type
    nuts: Callable[[Callable[[], Any], int], tuple[dict[str, np.ndarray], int]]  # draws by chain, and gradients
    forget: Callable[[], None]


def numpyro_language() -> Language:
    import jax

    jax.config.update("jax_enable_x64", True)
    from numpyro.infer import MCMC, NUTS

    from ppl_flows.numpyro import AutoFlow, fit
    from ppl_flows.numpyro.log_density import LogDensity

    def nuts(model: Callable[[], Any], seed: int) -> tuple[dict[str, np.ndarray], int]:
        mcmc = MCMC(
            NUTS(model),
            num_warmup=NUTS_DRAWS,
            num_samples=NUTS_DRAWS,
            num_chains=NUTS_CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )
        key = jax.random.key(seed)
        mcmc.warmup(key, extra_fields=("num_steps",), collect_warmup=True)
        gradients = int(mcmc.get_extra_fields()["num_steps"].sum())
        mcmc.run(key, extra_fields=("num_steps",))
        gradients += int(mcmc.get_extra_fields()["num_steps"].sum())
        return {n: np.asarray(a) for n, a in mcmc.get_samples(group_by_chain=True).items()}, gradients

    return Language(load("targets_numpyro"), AutoFlow, fit, LogDensity, nuts, lambda: None)


def pyro_language() -> Language:
    import pyro
    import torch

    torch.set_default_dtype(torch.float64)
    from pyro.infer import MCMC, NUTS
    from pyro.infer.mcmc import nuts as pyro_nuts

    from ppl_flows.pyro import AutoFlow, fit
    from ppl_flows.pyro.log_density import LogDensity

    def nuts(model: Callable[[], Any], seed: int) -> tuple[dict[str, np.ndarray], int]:
        pyro.set_rng_seed(seed)
        kernel = NUTS(model, jit_compile=True, ignore_jit_warnings=True)
        mcmc = MCMC(kernel, num_samples=NUTS_DRAWS, warmup_steps=NUTS_DRAWS // 2, disable_progbar=True)
        # each is one leapfrog step
        with mock.patch.object(pyro_nuts, "velocity_verlet", wraps=pyro_nuts.velocity_verlet) as leapfrog:
            mcmc.run()
        draws = {n: a.detach().numpy() for n, a in mcmc.get_samples(group_by_chain=True).items()}
        return draws, leapfrog.call_count

    return Language(load("targets_pyro"), AutoFlow, fit, LogDensity, nuts, pyro.clear_param_store)


def load(name: str) -> dict[str, Any]:
    """The targets with reference moments."""
    return {n: t for n, t in __import__(name).TARGETS.items() if t.reference is not None}


def z_scores(target: Any, samples: dict[str, Any], ess: float) -> np.ndarray:
    """Of all means and standard deviations."""
    quantities = target.quantities({n: np.asarray(a, dtype=np.float64) for n, a in samples.items()})
    found = []
    for name, moments in target.reference().items():
        draws = quantities[name].reshape(len(quantities[name]), -1)
        mean, sd = map(np.ravel, moments)
        share = np.sqrt(1 / ess + 1 / REFERENCE)
        off = (draws - draws.mean(0)) / draws.std(0)
        kurtosis = (off**4).mean(0)
        found.append((draws.mean(0) - mean) / (sd * share))
        found.append((draws.std(0) - sd) / (sd * np.sqrt(np.maximum(kurtosis - 1, 0.1)) / 2 * share))
    return np.abs(np.concatenate(found))


def row(language: Language, target: Any, seed: int, counter: Counter, *, with_nuts: bool) -> dict[str, Any]:
    language.forget()
    counter.gradients, start = 0, time.process_time()
    guide = language.guide(target.model, seed=seed)
    result = language.fit(target.model, guide, seed=seed, progress=False)
    fitted = time.process_time()
    trained = counter.gradients + len(result.losses) * fit_budget(guide, None, None)[1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        draws = result.exact(DRAWS, seed=seed + 1)
    cold = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = result.exact(DRAWS, seed=seed + 100)
    warm = time.process_time()
    z = z_scores(target, draws.samples, draws.ess)
    found = {
        "target": target.name,
        "seed": seed,
        "kl": target.log_z - result.elbo.mean,
        "z above 3": float((z > 3).mean()),
        "largest z": float(z.max()),
        "quantities": z.size,
        "ESS": draws.ess,
        "R-hat": draws.rhat,
        "log Z error": draws.log_evidence.mean - target.log_z,
        "its s.e.": draws.log_evidence.se,
        "gradients": draws.gradients,
        "of training": trained,
        "CPU s": cold - fitted,
        "again": warm - cold,
        "again ESS": again.ess,
        "fit": fitted - start,
        "alarms": "; ".join(draws.alarms) or ("warned" if caught else ""),
    }
    if with_nuts:
        begun = time.process_time()
        samples, gradients = language.nuts(target.model, seed)
        sites = np.concatenate([a.reshape(*a.shape[:2], -1) for a in samples.values()], axis=-1)
        found |= {"NUTS s": time.process_time() - begun, "NUTS gradients": gradients}
        found |= {"NUTS ESS": float(np.nanmin(bulk_ess(sites[..., np.ptp(sites, axis=(0, 1)) > 0])))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("numpyro", "pyro"), required=True)
    parser.add_argument("--targets", help="names with commas between; all by default")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="with commas between; NUTS runs with the first")
    parser.add_argument("--no-nuts", action="store_true", help="where it takes too long")
    parser.add_argument("--output", type=Path, help="file to which the rows are added, one JSON object a line")
    given = parser.parse_args()
    language = {"numpyro": numpyro_language, "pyro": pyro_language}[given.language]()
    names, seeds = (given.targets or ",".join(language.targets)).split(","), [*map(int, given.seeds.split(","))]
    counter, rows, titled = Counter(), [], False
    counter.watch(language.density)
    for target in (language.targets[name] for name in names):
        for seed in seeds:
            found = row(language, target, seed, counter, with_nuts=seed == seeds[0] and not given.no_nuts)
            if not titled:
                print("| " + " | ".join(found) + " |\n" + "|---" * len(found) + "|")
                titled = True
            cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in found.values()]
            print(f"| {' | '.join(cells)} |", flush=True)
            rows.append(found)
            if given.output:
                with given.output.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    above = sum(r["z above 3"] * r["quantities"] for r in rows) / sum(r["quantities"] for r in rows)
    largest = max(r["largest z"] for r in rows)
    print(f"\nz above 3: {above:.2%} of {sum(r['quantities'] for r in rows):,}; largest {largest:.1f}")
    print(f"runs with alarms: {sum(bool(r['alarms']) for r in rows)} of {len(rows)}")
    both = [r for r in rows if "NUTS ESS" in r]
    for words, ours, theirs in (
        ("per gradient", lambda r: r["ESS"] / r["gradients"], lambda r: r["NUTS ESS"] / r["NUTS gradients"]),
        (
            "per gradient, with training",
            lambda r: r["ESS"] / (r["gradients"] + r["of training"]),
            lambda r: r["NUTS ESS"] / r["NUTS gradients"],
        ),
        ("per CPU second, warm", lambda r: r["again ESS"] / r["again"], lambda r: r["NUTS ESS"] / r["NUTS s"]),
        (
            "per CPU second, cold, with the fit",
            lambda r: r["ESS"] / (r["fit"] + r["CPU s"]),
            lambda r: r["NUTS ESS"] / r["NUTS s"],
        ),
    ):
        print(f"ESS {words}: ahead of NUTS on {sum(ours(r) > theirs(r) for r in both)} of {len(both)}")


if __name__ == "__main__":
    main()
