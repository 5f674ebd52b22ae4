"""Which population do the groups come from? A hierarchical model whose population distribution is a flow, in NumPyro.

Groups have a line each (intercept, slope) and noisy points on it; there are two kinds of groups. The flow is learned
with the lines (empirical Bayes), beside a normal; then it stays as it is, and NUTS draws the lines of some groups.
"""

import argparse
from functools import partial

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.handlers import block, substitute
from numpyro.infer import MCMC, NUTS
from numpyro.infer.autoguide import AutoNormal
from scipy.spatial.distance import cdist

import ppl_flows as pf
from ppl_flows.numpyro import fit, flow

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
    with numpyro.plate("groups", len(y), dim=-2):
        line = numpyro.sample("line", population())
        with numpyro.plate("times", len(TIMES), dim=-1):
            numpyro.sample("y", dist.Normal(line[..., 0] + line[..., 1] * jnp.asarray(TIMES), NOISE), obs=y)


def learned_normal():
    loc = numpyro.param("loc", jnp.zeros(2))
    scale_tril = numpyro.param("scale_tril", jnp.eye(2), constraint=dist.constraints.lower_cholesky)
    return dist.MultivariateNormal(loc, scale_tril=scale_tril)


def main(steps: int = 2_000, draws: int = 500, groups: int = 200, chains: int = 4) -> dict[str, float]:
    rng = np.random.default_rng(0)
    lines, truth = simulate(groups, rng), simulate(2_000, rng)
    y = lines[:, :1] + lines[:, 1:] * TIMES + NOISE * rng.standard_normal((groups, len(TIMES)))
    y = jnp.asarray(y.astype(np.float32))
    out = {}
    for name, population in (("normal", learned_normal), ("flow", partial(flow, "population", POPULATION))):
        prior = partial(model, population)
        trained = fit(prior, AutoNormal(prior), y, steps=steps, num_particles=4, draws=100)
        with block(), substitute(data=trained.params):
            learned = population()
        out[name] = energy_distance(np.asarray(learned.sample(jax.random.key(0), (2_000,))), truth)
        print(f"{name}: energy distance of the learned population to the true one {out[name]:.3f}")

    kernel = NUTS(partial(model, learned.detach))
    mcmc = MCMC(kernel, num_warmup=draws // 2, num_samples=draws, num_chains=chains, chain_method="vectorized")
    mcmc.run(jax.random.key(0), y[:5], extra_fields=("diverging",))
    out["r_hat"] = float(
        az.rhat(az.convert_to_dataset({"line": np.asarray(mcmc.get_samples(group_by_chain=True)["line"])}))[
            "line"
        ].max()
    )
    out["divergences"] = int(mcmc.get_extra_fields()["diverging"].sum())
    print(f"NUTS: largest R-hat {out['r_hat']:.3f}, {out['divergences']} divergences")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2_000)
    main(**vars(parser.parse_args()))
