"""Leave-one-out of a hierarchical model with 85 groups: from a flow guide by ``to_arviz``, and from NumPyro's NUTS.

    python tests/benchmarks/loo.py

Prints both elpd with their standard errors, and the difference in standard errors.
"""

from __future__ import annotations

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

from ppl_flows.numpyro import AutoFlow, fit

GROUPS, ROWS = 85, 919


def model(group: jax.Array, x: jax.Array, y: jax.Array) -> None:
    """Varying intercepts, as of the radon data."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("county", GROUPS):
        alpha = numpyro.sample("alpha", dist.Normal(mu, tau))
    with numpyro.plate("house", ROWS):
        numpyro.sample("y", dist.Normal(alpha[group] + slope * x, sigma), obs=y)


def data(seed: int) -> tuple[jax.Array, ...]:
    """Groups of 1 to some 100 rows."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(GROUPS, 0.7))
    group = np.concatenate([np.arange(GROUPS), rng.choice(GROUPS, ROWS - GROUPS, p=shares)])
    x = rng.integers(0, 2, ROWS).astype(float)
    alpha = rng.normal(1.5, 0.32, GROUPS)
    y = alpha[group] - 0.65 * x + rng.normal(0, 0.73, ROWS)
    return jnp.asarray(group), jnp.asarray(x), jnp.asarray(y)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    given = data(0)
    result = fit(model, AutoFlow(model), *given, progress=False)
    print(result)
    flow = az.loo(result.to_arviz(posterior_predictive=False, prior=0), pointwise=True)
    nuts = MCMC(
        NUTS(model), num_warmup=1000, num_samples=1000, num_chains=4, chain_method="vectorized", progress_bar=False
    )
    nuts.run(jax.random.key(0), *given)
    reference = az.loo(az.from_numpyro(nuts), pointwise=True)
    for name, loo in (("flow", flow), ("NUTS", reference)):
        print(f"{name}: elpd {loo.elpd_loo:.3f} ± {loo.se:.3f}, largest Pareto k {float(loo.pareto_k.max()):.2f}")
    print(f"difference: {(flow.elpd_loo - reference.elpd_loo) / reference.se:+.4f} standard errors")


if __name__ == "__main__":
    main()
