"""How sure is a density? A flow whose weights have priors, and a posterior, in Pyro.

Petal lengths of irises: ``random_flow`` samples the weights of a spline, and SVI gives their posterior, so the density
has a band around it. Prints for 20 and for 100 irises the mean width of the band and the log-likelihood of the other
50, averaged over the posterior; saves a picture.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from scipy.special import logsumexp
from sklearn.datasets import load_iris

import ppl_flows as pf
from ppl_flows.pyro import fit, random_flow

SPLINE = pf.Elementwise(1, pf.RationalQuadratic(bins=12, bound=4.0))
DRAWS = 400  # of the posterior


def density():
    return random_flow("density", SPLINE, dist.Normal(0.0, 1.0))


def model(lengths):
    given = density()
    with pyro.plate("irises", len(lengths)):
        pyro.sample("length", given, obs=lengths)


def densities():
    """One flow for every draw of the weights, in one call: a batch of them."""
    with pyro.plate("draws", DRAWS):
        return density()


def main(steps: int = 1_000, out: str = "out", seed: int = 0) -> dict[str, float]:
    lengths = load_iris().data[:, 2:3].astype(np.float32)
    lengths = np.random.default_rng(seed).permutation((lengths - lengths.mean()) / lengths.std())
    grid, numbers = np.linspace(-2, 2, 300, dtype=np.float32), {}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    for ax, seen in zip(axes, (20, 100), strict=True):
        pyro.clear_param_store()
        data = torch.tensor(lengths[:seen])
        posterior = fit(model, AutoNormal(model), data, steps=steps, num_particles=16, seed=seed)
        flows = pyro.condition(densities, data=posterior.sample(DRAWS))()

        def log_prob(x: np.ndarray, flows=flows) -> np.ndarray:
            """Of every row under every draw, ``(rows, DRAWS)``."""
            return flows.log_prob(torch.tensor(x)[:, None]).numpy()

        values = np.exp(log_prob(grid[:, None]))
        low, high = np.quantile(values, [0.05, 0.95], axis=1)
        numbers[f"width, {seen}"] = float(np.mean(high - low))
        numbers[f"log-likelihood, {seen}"] = float(np.mean(logsumexp(log_prob(lengths[100:]), axis=1) - np.log(DRAWS)))
        ax.fill_between(grid, low, high, alpha=0.3, label="90% of the posterior")
        ax.plot(grid, values.mean(1), label="its mean")
        ax.plot(lengths[:seen, 0], np.zeros(seen), "k|")
        ax.set(xlabel="petal length, scaled", title=f"{seen} irises")
    for name, number in numbers.items():
        print(f"{name} irises: {number:.3f}")
    axes[0].legend()
    Path(out).mkdir(exist_ok=True)
    figure.savefig(f"{out}/bayesian_flow_pyro.png", dpi=100, bbox_inches="tight")
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--out", default="out")
    main(**vars(parser.parse_args()))
