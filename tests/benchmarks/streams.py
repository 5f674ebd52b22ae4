"""A stream of ten batches, each posterior the next prior: how far the last one is from the posterior of all data.

``python tests/benchmarks/streams.py --language numpyro``; prints one line of JSON per kind of prior and seed:

- ``flow``: ``result.as_prior()``, where the verdict is "good" the guide's own flow;
- ``refit``: ``result.as_prior(reweighted=True)``, a flow fitted to reweighted draws, every time;
- ``gaussian``: mean and covariance of the posterior draws, on the unconstrained scale.

KL in nats, of the last prior from the posterior of all data, whose evidence is found by importance sampling.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.special import logsumexp

BATCHES, ROWS = 10, 4
SITES = ("offset", "height", "rate", "noise")


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Times and values of all batches, ``(BATCHES, ROWS)``: too short to see the plateau, so height and rate bend."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.0, 2.0, (BATCHES, ROWS))
    return t, 0.5 + 2.0 * (1 - np.exp(-0.5 * t)) + 0.4 * rng.standard_normal(t.shape)


def log_joint(u: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of unconstrained vectors, ``(n, 4)``, with all data, as one of u, ``(n,)``."""
    offset, height, rate, noise = u[:, 0], *np.exp(u[:, 1:].T)
    log_p = stats.norm.logpdf(offset) + stats.norm.logpdf(u[:, 1]) + stats.norm.logpdf(u[:, 2], -1.0)
    log_p = log_p + stats.halfnorm.logpdf(noise) + u[:, 3]
    for ti, yi in zip(t.ravel(), y.ravel(), strict=True):
        log_p = log_p + stats.norm.logpdf(yi, offset + height * (1 - np.exp(-rate * ti)), noise)
    return log_p


def evidence(t: np.ndarray, y: np.ndarray, n: int = 400_000) -> tuple[float, float, np.ndarray]:
    """Log evidence of all data and its standard error, by adaptive importance sampling; and draws of the posterior."""
    rng, mean, cov = np.random.default_rng(1), np.array([0.5, 0.5, -0.5, -1.0]), np.eye(4)
    for size in (n // 10, n // 10, n // 10, n):
        wide = stats.multivariate_t(mean, 1.2 * cov, df=5, seed=rng)
        u = wide.rvs(size)
        log_w = log_joint(u, t, y) - wide.logpdf(u)
        w = np.exp(log_w - logsumexp(log_w))
        mean = w @ u
        cov = (u - mean).T @ ((u - mean) * w[:, None])
    rows = rng.choice(len(u), size=20_000, p=w)
    return logsumexp(log_w) - math.log(n), math.sqrt(np.sum(w**2) - 1 / n), u[rows]


class Language(NamedTuple):
    """What the twins have under other names."""

    ppl: Any
    dist: Any
    xp: Any
    array: Callable
    shell: Any
    scored: Callable  # (distribution, n): draws and their log densities, in NumPy
    normal: Callable  # (mean, factor)
    options: dict  # of fit


def pyro_language() -> Language:
    import pyro
    import pyro.distributions as dist
    import torch

    import ppl_flows.pyro as shell

    def array(a):
        return torch.as_tensor(a, dtype=torch.float32)

    def scored(d, n):
        torch.manual_seed(0)
        with torch.no_grad():
            u = d.sample((n,))
            return u.double().numpy(), d.log_prob(u).double().numpy()

    def normal(mean, factor):
        return dist.MultivariateNormal(array(mean), scale_tril=array(factor))

    return Language(pyro, dist, torch, array, shell, scored, normal, {"compile": "auto"})


def numpyro_language() -> Language:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    import ppl_flows.numpyro as shell

    def scored(d, n):
        def draw(key):
            u = d.sample(key, (n,))
            return u, d.log_prob(u)

        return tuple(np.asarray(a, np.float64) for a in jax.jit(draw)(jax.random.key(0)))

    def normal(mean, factor):
        return dist.MultivariateNormal(jnp.asarray(mean), scale_tril=jnp.asarray(factor))

    return Language(numpyro, dist, jnp, jnp.asarray, shell, scored, normal, {})


def unconstrained(draws: dict[str, Any]) -> np.ndarray:
    rows = np.stack([np.asarray(draws[site], np.float64) for site in SITES], axis=1)
    return np.concatenate([rows[:, :1], np.log(rows[:, 1:])], axis=1)


def stream(lang: Language, kind: str, quality: str, seed: int) -> tuple[Any, list]:
    """Ten fits, one after the other: the distribution of unconstrained sites at the end, and what the fits say."""
    ppl, dist, array, exp = lang.ppl, lang.dist, lang.array, lang.xp.exp
    t, y = data()
    prior, fits = None, []

    def first() -> dict:
        return {
            "offset": ppl.sample("offset", dist.Normal(array(0.0), 1.0)),
            "height": ppl.sample("height", dist.LogNormal(array(0.0), 1.0)),
            "rate": ppl.sample("rate", dist.LogNormal(array(-1.0), 1.0)),
            "noise": ppl.sample("noise", dist.HalfNormal(array(1.0))),
        }

    def of_gaussian() -> dict:
        u = ppl.sample("u", prior)
        values = [u[..., 0], *(exp(u[..., i]) for i in (1, 2, 3))]
        return {site: ppl.deterministic(site, value) for site, value in zip(SITES, values, strict=True)}

    def model(t, y):
        z = first() if prior is None else of_gaussian() if kind == "gaussian" else prior("yesterday")
        with ppl.plate("rows", ROWS):
            curve = z["offset"] + z["height"] * (1 - exp(-z["rate"] * t))
            ppl.sample("y", dist.Normal(curve, z["noise"]), obs=y)

    for k in range(BATCHES):
        if hasattr(ppl, "clear_param_store"):
            ppl.clear_param_store()
        guide = lang.shell.AutoFlow(model, quality=quality, seed=seed)
        result = lang.shell.fit(model, guide, array(t[k]), array(y[k]), seed=seed, progress=False, **lang.options)
        fits.append((round(result.kl.mean, 4), result.grade, len(result.losses)))
        if kind == "gaussian":
            rows = unconstrained(result.reweighted(20_000))
            prior = lang.normal(rows.mean(0), np.linalg.cholesky(np.cov(rows.T)))
        else:
            prior = result.as_prior(reweighted=True if kind == "refit" else None, seed=seed)
    return getattr(prior, "flow", prior), fits


def divergence(last: Any, lang: Language, log_z: float, n: int = 40_000) -> tuple[float, float]:
    """KL from the posterior of all data, and its standard error, in nats."""
    u, log_q = lang.scored(last, n)
    log_w = log_joint(u, *data()) - log_q
    return log_z - log_w.mean(), log_w.std() / math.sqrt(n)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--language", choices=["pyro", "numpyro"], default="numpyro")
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--kinds", nargs="+", default=["flow", "refit", "gaussian"])
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    lang = pyro_language() if args.language == "pyro" else numpyro_language()
    log_z, se, draws = evidence(*data())
    normal = stats.multivariate_normal(draws.mean(0), np.cov(draws.T))
    best = log_z - np.mean(log_joint(u := normal.rvs(40_000, random_state=0), *data()) - normal.logpdf(u))
    print(json.dumps({"log_z": round(log_z, 4), "se": round(se, 4), "kl_of_its_own_gaussian": round(best, 3)}))
    for kind in args.kinds:
        for seed in range(args.seeds):
            start = time.process_time()
            last, fits = stream(lang, kind, args.quality, seed)
            seconds = round(time.process_time() - start)
            kl, kl_se = divergence(last, lang, log_z)
            row = {"language": args.language, "kind": kind, "seed": seed, "kl": round(kl, 4), "se": round(kl_se, 4)}
            print(json.dumps(row | {"cpu_seconds": seconds, "fits": fits}), flush=True)


if __name__ == "__main__":
    main()
