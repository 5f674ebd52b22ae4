"""How near guides come to posteriors with a known log evidence; prints a markdown table.

    python tests/benchmarks/posteriors/run.py --language numpyro --targets kidiq,seeds --guides AutoFlow,AutoNormal

Every guide is trained by ``fit`` with the same budget, ``AutoFlow`` with that of its ``size``, unless it is given here.
Each row is measured by fresh draws: KL(guide || posterior) = log Z - ELBO in nats, with the standard error of the ELBO;
the error of ``result.log_evidence``, with that of both; PSIS k-hat; over all quantities with a reference the largest
|mean error| in posterior sds, and the smallest and largest ratio of sds; CPU seconds of the whole call of ``fit``, with
compilation, start and measure. An ELBO above log Z is an error in the target or the guide, and of this script's exit.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ppl_flows.inference.auto_flow import QUALITIES
from ppl_flows.inference.results import FitResult

DRAWS = 20_000  # that measure a guide
IMPOSSIBLE = 4  # standard errors by which an ELBO may be above log Z
PROBE, PROBE_SECONDS = 100, 3.0  # steps of the first short run; time that the longer one must take on top
GUIDES = ("AutoFlow", "AutoNormal", "AutoMultivariateNormal", "AutoIAFNormal", "AutoBNAFNormal")
HEADER = (
    "| target | guide | KL, nats | log Z error, nats | k-hat | mean error / sd | sd ratio | steps | seconds |",
    "|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Options:
    """Budget of a training; None: what the guide itself asks for."""

    quality: str
    steps: int | None
    particles: int | None
    draws: int
    seed: int


@dataclass(frozen=True)
class Language:
    """What the twins have: their targets, ``fit``, and guides by name."""

    targets: dict[str, Any]
    fit: Callable[..., FitResult]
    guides: dict[str, Callable]
    forget: Callable[[], None]  # parameters of an earlier training


def numpyro_language(float32: bool) -> Language:
    import jax

    jax.config.update("jax_enable_x64", not float32)
    from numpyro.infer import autoguide
    from targets_numpyro import TARGETS

    from ppl_flows.numpyro import AutoFlow, fit

    guides = {name: getattr(autoguide, name) for name in GUIDES if name != "AutoFlow"}
    return Language(TARGETS, fit, {"AutoFlow": AutoFlow} | guides, lambda: None)


def pyro_language(float32: bool) -> Language:
    import pyro
    import torch

    torch.set_default_dtype(torch.float32 if float32 else torch.float64)
    from pyro.distributions.transforms import block_autoregressive
    from pyro.infer import autoguide
    from targets_pyro import TARGETS

    from ppl_flows.pyro import AutoFlow, fit

    guides = {
        "AutoFlow": AutoFlow,
        "AutoNormal": autoguide.AutoNormal,
        "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
        "AutoIAFNormal": partial(autoguide.AutoIAFNormal, num_transforms=3),  # as many as NumPyro's has
        # Pyro has the transform only; its default is that of NumPyro's guide
        "AutoBNAFNormal": partial(autoguide.AutoNormalizingFlow, init_transform_fn=block_autoregressive),
    }
    return Language(TARGETS, fit, guides, pyro.clear_param_store)


def train(language: Language, target: Any, guide: str, options: Options) -> tuple[FitResult, float]:
    """The fit of a guide to a target, and its seconds."""
    language.forget()
    make = language.guides[guide]
    own = {"quality": options.quality, "seed": options.seed} if guide == "AutoFlow" else {}
    start = time.process_time()
    result = language.fit(
        target.model,
        make(target.model, **own),
        steps=options.steps,
        num_particles=options.particles,
        draws=options.draws,
        seed=options.seed,
        progress=False,
    )
    return result, time.process_time() - start


def steps_within(seconds: float, language: Language, target: Any, guide: str, options: Options) -> int:
    """Steps that a guide makes in so many seconds, compilation and start apart: from a short and a longer run."""

    def duration(steps: int) -> float:
        return train(language, target, guide, replace(options, steps=steps, draws=options.particles))[1]

    short, extra = duration(PROBE), PROBE
    while (took := duration(PROBE + extra) - short) < min(PROBE_SECONDS, seconds):
        extra *= 4
    return max(PROBE, round(seconds * extra / took / PROBE) * PROBE)


def accuracy(target: Any, result: FitResult) -> tuple[str, str]:
    """Largest error of the means in sds, and the range of the ratios of sds; dashes where there is no reference."""
    if target.reference is None:
        return "–", "–"
    draws = {name: np.asarray(value, dtype=np.float64) for name, value in result.sample(DRAWS).items()}
    quantities = target.quantities(draws)
    errors, ratios = [], []
    for name, (mean, sd) in target.reference().items():
        errors.append(np.ravel((quantities[name].mean(0) - mean) / sd))
        ratios.append(np.ravel(quantities[name].std(0) / sd))
    ratio = np.concatenate(ratios)
    return number(np.abs(np.concatenate(errors)).max(), 3), f"{number(ratio.min(), 3)} to {number(ratio.max(), 3)}"


def evidence_error(target: Any, result: FitResult) -> str:
    """Of ``result.log_evidence``, with the standard errors of both; a dash where it is withheld."""
    evidence = result.log_evidence
    if np.isnan(evidence.mean):
        return "–"
    return f"{evidence.mean - target.log_z:+.4f} ± {np.hypot(evidence.se, target.log_z_se):.4f}"


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"  # far guides have means such as 1e70


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("numpyro", "pyro"), required=True)
    parser.add_argument("--targets", help="names with commas between; all by default")
    parser.add_argument("--guides", default=",".join(GUIDES), help="names with commas between; all by default")
    parser.add_argument("--quality", choices=tuple(QUALITIES), default="standard", help="AutoFlow's, and the budget")
    parser.add_argument("--steps", type=int, help="of every guide; by default what the quality says")
    parser.add_argument("--particles", type=int, help="draws per step; by default what the quality says")
    parser.add_argument("--seconds", type=float, help="as many steps as a guide makes in them, instead of --steps")
    parser.add_argument("--float32", action="store_true", help="instead of float64")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    language = {"numpyro": numpyro_language, "pyro": pyro_language}[given.language](given.float32)
    names, guides = (given.targets or ",".join(language.targets)).split(","), given.guides.split(",")
    if unknown := [n for n in names if n not in language.targets] + [g for g in guides if g not in language.guides]:
        parser.error(f"no such target or guide: {', '.join(unknown)}; there are {', '.join(language.targets)}.")
    budget = QUALITIES[given.quality]
    particles = given.particles or budget.num_particles
    options = Options(given.quality, given.steps or budget.steps, particles, DRAWS, given.seed)
    own = replace(options, steps=given.steps, particles=given.particles)

    if given.seconds and given.language == "pyro":  # steps are counted in short fits, which are not compiled
        language = replace(language, fit=partial(language.fit, compile=False))
    impossible = []
    print(*HEADER, sep="\n", flush=True)
    for target in (language.targets[name] for name in names):
        for guide in guides:
            budgeted = own if guide == "AutoFlow" and not given.seconds else options
            try:
                if given.seconds:
                    steps = steps_within(given.seconds, language, target, guide, options)
                    budgeted = replace(options, steps=steps)
                result, seconds = train(language, target, guide, budgeted)
            except (RuntimeError, ValueError) as error:  # of this guide only: the others go on
                reason = str(error).splitlines()[0].replace("|", "\\|")
                print(f"| {target.name} | {guide} | {type(error).__name__}: {reason} | | | | | | |", flush=True)
                continue
            kl = target.log_z - result.elbo.mean
            if kl < -IMPOSSIBLE * np.hypot(result.elbo.se, target.log_z_se):
                impossible.append(f"{guide} on {target.name}")
            cells = [
                target.name,
                guide,
                f"{number(kl, 4)} ± {number(result.elbo.se, 4)}",
                evidence_error(target, result),
                f"{result.khat:.2f}",
                *accuracy(target, result),
                str(len(result.losses)),
                f"{seconds:.1f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
    if impossible:
        sys.exit(f"ELBO above log Z by more than {IMPOSSIBLE} standard errors: {'; '.join(impossible)}.")


if __name__ == "__main__":
    main()
