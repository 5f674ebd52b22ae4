"""How fast does an outbreak spread? The posterior of a stochastic model for all data sets at once, in NumPyro.

Every case causes ``r`` new ones a day later on average; ``imports`` come from outside. Prints how far posterior means
are from exact ones, and p-values of calibration: ranks of true numbers among posterior draws are uniform if calibrated.
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import stats

import ppl_flows as pf
from ppl_flows.numpyro import fit_amortized

DAYS, GRID = 20, 200


def outbreak(cases):
    r = numpyro.sample("r", dist.Uniform(0.0, 1.0))
    imports = numpyro.sample("imports", dist.LogNormal(1.0, 1.0))
    today = imports
    for day in range(DAYS):
        today = numpyro.sample(f"day {day}", dist.Poisson(imports + r * today), obs=cases[day])


def true_numbers_and_outbreaks(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    truth = np.stack([rng.uniform(size=n), rng.lognormal(1.0, 1.0, n)], axis=-1)
    days = [truth[:, 1]]
    for _ in range(DAYS):
        days.append(rng.poisson(truth[:, 1] + truth[:, 0] * days[-1]))
    return truth, np.stack(days[1:], axis=-1).astype(np.float32)


def exact_mean_and_sd(cases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ``(r, log imports)``, by quadrature."""
    r, log_imports = np.meshgrid((np.arange(GRID) + 0.5) / GRID, np.linspace(-4, 6, 3 * GRID), indexing="ij")
    before = [np.exp(log_imports), *(np.full_like(r, c) for c in cases[:-1])]
    log_p = stats.norm.logpdf(log_imports, 1.0, 1.0)
    log_p += sum(stats.poisson.logpmf(c, np.exp(log_imports) + r * b) for c, b in zip(cases, before, strict=True))
    p = np.exp(log_p - log_p.max())[..., None]
    values = np.stack([r, log_imports], axis=-1)
    mean = (p * values).sum((0, 1)) / p.sum()
    return mean, ((p * (values - mean) ** 2).sum((0, 1)) / p.sum()) ** 0.5


def main(simulations: int = 20_000, steps: int = 5_000, tests: int = 200, out: str = "out") -> dict[str, float]:
    flow = fit_amortized(outbreak, jnp.zeros(DAYS), flow=pf.nsf, simulations=simulations, steps=steps)
    truth, cases = true_numbers_and_outbreaks(tests, np.random.default_rng(0))
    ranks, errors = [], []
    for i in range(tests):
        draws = flow.sample(1_000, jnp.asarray(cases[i]), seed=i)
        draws = np.stack([np.asarray(draws["r"]), np.asarray(draws["imports"])], axis=-1)
        ranks.append((draws < truth[i]).mean(0))
        mean, sd = exact_mean_and_sd(cases[i])
        errors.append(np.abs(np.stack([draws[:, 0], np.log(draws[:, 1])], -1).mean(0) - mean) / sd)
    p = [float(stats.kstest(rank, "uniform").pvalue) for rank in np.transpose(ranks)]
    numbers = {"mean error / sd": float(np.mean(errors)), "p, r": p[0], "p, imports": p[1]}
    print(", ".join(f"{name}: {number:.3f}" for name, number in numbers.items()))

    figure, axes = plt.subplots(figsize=(4, 4))
    level = np.linspace(0, 1, 200)
    axes.fill_between(level, *stats.binom(tests, level).interval(0.95) / np.array(tests), color="0.9")
    for name, rank in zip(("r", "imports"), np.transpose(ranks), strict=True):
        axes.plot(level, (rank[:, None] <= level).mean(0), label=name)
    axes.set(xlabel="posterior quantile", ylabel="share of true numbers below it")
    axes.legend()
    Path(out).mkdir(exist_ok=True)
    figure.savefig(f"{out}/calibration_numpyro.png", dpi=100, bbox_inches="tight")
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="out")
    main(**vars(parser.parse_args()))
