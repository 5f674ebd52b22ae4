"""Modes that a guide misses, and guides that cover all: how many are found, KL, and error of log Z; markdown tables.

    python tests/benchmarks/exact/modes.py --language numpyro --parts missed,covered,targets --seeds 5

*missed*: a guide that was started, and trained, at one of two modes: in how many fits the verdict says so, and the
share that it names. *covered*: ``modes="auto"`` on the same. *targets*: 40 Gaussians in two dimensions (means
uniform(-40, 40), scale softplus(1): the target of flow annealed importance sampling, Midgley et al. 2023,
arXiv:2208.01893), a many-well of 8 dimensions (their 2-dimensional double well, four times), and a mixture model with
label symmetry. Where log Z is known, the KL is its difference to the ELBO; else the fit's own estimate.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.integrate import quad

import ppl_flows as pf
from ppl_flows.inference.gaussian import Gaussian

DIM = 10
CASES = [(w, sep, place) for w in (0.5, 0.8, 0.95) for sep in (6.0, 10.0, 20.0) for place in ("inside", "outside")]
WELL = quad(lambda x: np.exp(-(x**4) + 6 * x**2 + x / 2), -5, 5)[0] * np.sqrt(2 * np.pi)


def centres(sep: float, place: str) -> np.ndarray:
    """Of the two modes: around the origin, or both far from it, on one side."""
    way = np.ones(DIM) / DIM**0.5
    return np.stack([-sep / 2 * way, sep / 2 * way]) + (0.0 if place == "inside" else 5.0)


def gaussians(
    weights: np.ndarray, means: np.ndarray, scale: float, width: float
) -> Callable[[Any], Callable[..., Any]]:
    """A model whose posterior is this mixture, with log Z = 0; the prior is wide."""

    def make(lang: Any) -> Callable[..., Any]:
        m, log_w, dim = lang.array(means), lang.array(np.log(weights)), means.shape[1]

        def model() -> None:
            prior = lang.dist.Normal(lang.array(np.zeros(dim)), width).to_event(1)
            x = lang.ppl.sample("x", prior)
            parts = lang.dist.Normal(m, scale).to_event(1).log_prob(x[..., None, :])
            lang.ppl.factor("target", lang.logsumexp(log_w + parts) - prior.log_prob(x))

        return model

    return make


def many_well(lang: Any) -> Callable[..., Any]:
    def model() -> None:
        prior = lang.dist.Normal(lang.array(np.zeros(8)), 3.0).to_event(1)
        x = lang.ppl.sample("x", prior)
        a, b = x[..., :4], x[..., 4:]
        lang.ppl.factor("target", (6 * a**2 - a**4 + a / 2 - b**2 / 2).sum(-1) - prior.log_prob(x))

    return model


def label_symmetry(lang: Any) -> Callable[..., Any]:
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(m, 1.0, n) for m, n in ((-4.0, 12), (0.0, 10), (3.5, 14))])

    def model() -> None:
        w = lang.ppl.sample("w", lang.dist.Dirichlet(lang.array(np.full(3, 3.0))))
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(np.zeros(3)), 5.0).to_event(1))
        sigma = lang.ppl.sample("sigma", lang.dist.LogNormal(lang.array(0.0), 0.5))
        rows = lang.array(y)[:, None]
        parts = lang.dist.Normal(mu[..., None, :], sigma[..., None, None]).log_prob(rows)
        lang.ppl.factor("y", lang.logsumexp(lang.xp.log(w)[..., None, :] + parts).sum(-1))

    return model


def forty() -> tuple[np.ndarray, np.ndarray, float, float]:
    means = np.random.RandomState(0).uniform(-40, 40, (40, 2))
    return np.full(40, 1 / 40), means, float(np.log1p(np.e)), 40.0


TARGETS: dict[str, tuple[Callable[[Any], Callable[..., Any]], float]] = {  # and their log Z
    "40 Gaussians, 2 dimensions": (gaussians(*forty()), 0.0),
    "many-well, 8 dimensions": (many_well, 4 * float(np.log(WELL))),
    "mixture model, label symmetry": (label_symmetry, np.nan),
}


class Lang:
    """A language, as these models want it."""

    def __init__(self, name: str) -> None:
        if name == "numpyro":
            import jax.numpy as xp
            import numpyro as ppl
            import numpyro.distributions as dist
            from jax.scipy.special import logsumexp

            import ppl_flows.numpyro as shell

            self.logsumexp = lambda a: logsumexp(a, axis=-1)
            self.array = lambda a: xp.asarray(a, dtype=float)
            self.clear = lambda: None
        else:
            import pyro as ppl
            import pyro.distributions as dist
            import torch as xp

            import ppl_flows.pyro as shell

            self.logsumexp = lambda a: xp.logsumexp(a, -1)
            self.array = lambda a: xp.as_tensor(np.asarray(a), dtype=xp.get_default_dtype())
            self.clear = ppl.clear_param_store
        self.xp, self.ppl, self.dist, self.AutoFlow, self.fit = xp, ppl, dist, shell.AutoFlow, shell.fit


def flat(dim: int) -> pf.Bijection:
    return pf.Elementwise(dim, pf.SinhArcsinh())


def missed(lang: Lang, seeds: int) -> None:
    print("\n| weights | sds apart | placed | found | share named, mean | CPU s a fit |\n|---|---|---|---|---|---|")
    for w, sep, place in CASES:
        means = centres(sep, place)
        model = gaussians(np.array([w, 1 - w]), means, 1.0, 10.0)(lang)
        found, shares, begin = 0, [], time.process_time()
        for seed in range(seeds):
            lang.clear()
            guide = lang.AutoFlow(model, flat, start=Gaussian(means[0], np.ones(DIM)), seed=seed)
            result = lang.fit(model, guide, steps=40, num_particles=16, seed=seed, progress=False)
            found += "somewhere this guide does not reach" in result.verdict
            shares.append(result._modes.missed)
        used = (time.process_time() - begin) / seeds
        print(
            f"| {w:g}/{1 - w:.2g} | {sep:g} | {place} | {found} of {seeds} | {np.mean(shares):.3f} | {used:.1f} |",
            flush=True,
        )


def cover(lang: Lang, model: Any, log_z: float, seed: int) -> dict[str, float]:
    lang.clear()
    begin = time.process_time()
    guide = lang.AutoFlow(model, modes="auto", seed=seed)
    result = lang.fit(model, guide, seed=seed, progress=False)
    evidence = result.log_evidence
    return {
        "modes": guide.num_modes,
        "kl": result.kl.mean if np.isnan(log_z) else log_z - result.elbo.mean,
        "ess": result.ess,
        "error": evidence.mean - log_z,
        "z": (evidence.mean - log_z) / evidence.se,
        "se": evidence.se,
        "good": result.grade == "good",
        "seconds": time.process_time() - begin,
    }


def row(name: str, runs: list[dict[str, float]]) -> None:
    def of(key: str) -> np.ndarray:
        return np.array([run[key] for run in runs], dtype=float)

    errors = of("error")
    print(
        f"| {name} | {', '.join(f'{int(m)}' for m in of('modes'))} | {np.median(of('kl')):.4f}, {of('kl').max():.4f} | "
        f"{np.median(of('ess')):.2f} | {np.median(np.abs(errors)):.4f}, {np.abs(errors).max():.4f} | "
        f"{int((np.abs(of('z')) <= 2).sum())} of {len(runs)} | {int(of('good').sum())} of {len(runs)} | "
        f"{np.median(of('seconds')):.0f} |",
        flush=True,
    )


HEAD = (
    "\n| target | modes | KL, median, largest | ESS | log Z error, median, largest | within 2 s.e. | good | CPU s |"
    "\n|---|---|---|---|---|---|---|---|"
)


def covered(lang: Lang, seeds: int) -> None:
    print(HEAD)
    for w, sep, place in CASES:
        model = gaussians(np.array([w, 1 - w]), centres(sep, place), 1.0, 10.0)(lang)
        row(f"{w:g}/{1 - w:.2g}, {sep:g} sds, {place}", [cover(lang, model, 0.0, seed) for seed in range(seeds)])


def targets(lang: Lang, seeds: int) -> None:
    print(HEAD)
    for name, (make, log_z) in TARGETS.items():
        model = make(lang)
        row(name, [cover(lang, model, log_z, seed) for seed in range(seeds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("numpyro", "pyro"), default="numpyro")
    parser.add_argument("--parts", default="missed,covered,targets")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lang = Lang(given.language)
    for part in given.parts.split(","):
        {"missed": missed, "covered": covered, "targets": targets}[part](lang, given.seeds)


if __name__ == "__main__":
    main()
