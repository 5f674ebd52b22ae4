"""Which population do the groups come from? A hierarchical model whose population distribution is a flow, in Pyro.

Groups have a line each (intercept, slope) and noisy points on it; there are two kinds of groups. The flow is learned
with the lines (empirical Bayes), beside a normal; then it stays as it is, and NUTS draws the lines of some groups.
"""

import argparse
from functools import partial

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide import AutoNormal
from scipy.spatial.distance import cdist

import ppl_flows as pf
from ppl_flows.pyro import fit, flow

TIMES, NOISE = np.linspace(-1, 1, 6, dtype=np.float32), 0.5
POPULATION = pf.nsf(2, flow_layers=2, hidden=(32, 32))


def simulate(groups: int, rng: np.random.Generator) -> np.ndarray:
    """Lines of a population of two kinds."""
    first = rng.random((groups, 1)) < 0.5
    return np.where(first, [-2.0, 1.0], [2.0, -1.0]) + rng.standard_normal((groups, 2)) * np.where(first, 0.4, 0.7)


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between two samples; 0 for the same distribution."""
    return float(2 * cdist(a, b).mean() - cdist(a, a).mean() - cdist(b, b).mean())


def model(population, y):
    with pyro.plate("groups", len(y), dim=-2):
        line = pyro.sample("line", population())
        with pyro.plate("times", len(TIMES), dim=-1):
            pyro.sample("y", dist.Normal(line[..., 0] + line[..., 1] * torch.tensor(TIMES), NOISE), obs=y)


def learned_normal():
    loc = pyro.param("loc", torch.zeros(2))
    scale_tril = pyro.param("scale_tril", torch.eye(2), constraint=dist.constraints.lower_cholesky)
    return dist.MultivariateNormal(loc, scale_tril=scale_tril)


def main(steps: int = 2_000, draws: int = 500, groups: int = 200, chains: int = 4) -> dict[str, float]:
    rng = np.random.default_rng(0)
    lines, truth = simulate(groups, rng), simulate(2_000, rng)
    y = lines[:, :1] + lines[:, 1:] * TIMES + NOISE * rng.standard_normal((groups, len(TIMES)))
    y = torch.tensor(y.astype(np.float32))
    out = {}
    for name, population in (("normal", learned_normal), ("flow", partial(flow, "population", POPULATION))):
        prior = partial(model, population)
        pyro.clear_param_store()
        fit(prior, AutoNormal(prior), y, steps=steps, num_particles=4, draws=100)
        learned = population()
        out[name] = energy_distance(learned.sample((2_000,)).detach().numpy(), truth)
        print(f"{name}: energy distance of the learned population to the true one {out[name]:.3f}")

    kernel = NUTS(partial(model, learned.detach), jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, num_samples=draws, warmup_steps=draws // 2, num_chains=chains)
    mcmc.run(y[:5])
    out["r_hat"] = float(
        az.rhat(az.convert_to_dataset({"line": mcmc.get_samples(group_by_chain=True)["line"].numpy()}))["line"].max()
    )
    out["divergences"] = sum(map(len, mcmc.diagnostics()["divergences"].values()))
    print(f"NUTS: largest R-hat {out['r_hat']:.3f}, {out['divergences']} divergences")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2_000)
    main(**vars(parser.parse_args()))
