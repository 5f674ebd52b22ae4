"""Makes ``references.json``: log evidence, posterior moments, and what NUTS costs, of the simulated targets.

    python tests/benchmarks/hierarchical/references.py --targets radon,horseshoe

Draws are long runs of NumPyro's NUTS in float64, in the parametrisation best for it. Log evidence is exact by
quadrature over the globals where the locals can be summed out (``quadrature.py``), else by bridge sampling after
summing out what can be (``bridge.py``). Moments of quantities that the quadrature has are its own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from bridge import COLLAPSED, log_evidence, log_half_cauchy_of, regression
from data import REFERENCES, Target, references
from long_chain import volatility2519
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS
from numpyro.infer.reparam import LocScaleReparam, TransformReparam
from quadrature import BOXES, integrate
from targets_numpyro import TARGETS

R_HAT, MIN_ESS = 1.01, 2_000
DISAGREE = 4.5  # standard errors between NUTS and the quadrature, of the largest of all scalars
EXACT = ("funnel10", "funnel101")


def volatility_noncentred(returns: jax.Array) -> None:
    step_size = numpyro.sample("step_size", dist.Exponential(50.0))
    with numpyro.plate("steps", len(returns)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    s = numpyro.deterministic("s", step_size * jnp.cumsum(z))
    nu = numpyro.sample("nu", dist.Exponential(0.1))
    numpyro.sample("returns", dist.StudentT(nu, 0.0, jnp.exp(s)).to_event(1), obs=returns)


def horseshoe_conditional(X: np.ndarray, y: np.ndarray) -> None:
    """Scales by their priors' quantiles, coefficients by their conditional given them."""
    k = X.shape[1]
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([k + 1]).to_event(1))
    e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([k + 1]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(5.0))
    scales = jnp.exp(log_half_cauchy_of(w))
    tau = numpyro.deterministic("tau", scales[0])
    given = regression(X, y, tau * numpyro.deterministic("lambda", scales[1:]), sigma)
    numpyro.factor("y", given.log_likelihood)
    coefficients = given.at(e)
    numpyro.deterministic("beta", coefficients[:k])
    numpyro.deterministic("alpha", coefficients[k])


def for_sampling(target: Target) -> Callable[[], None]:
    """The target in the text that NUTS likes best."""
    data = {k: jnp.asarray(v) for k, v in target.data().items()}
    if target.name == "volatility":
        return lambda: volatility_noncentred(**data)
    if target.name == "horseshoe":
        return lambda: horseshoe_conditional(**target.data())
    centred = {
        "eight_schools": {"theta": 0.0},
        "funnel10": {"x": 0.0},
        "funnel101": {"x": 0.0},
        "radon": {"a": 0.5, "b": 0.0},
        "item_response": {"a_base": 0.5, "b": 0.5},
        "capture_recapture": {"eps": 0.0},
    }.get(target.name, {})
    model = reparam(target.model, {"a": TransformReparam()}) if "a_base" in centred else target.model
    return reparam(model, {site: LocScaleReparam(share) for site, share in centred.items()})


def nuts(
    model: Callable, chains: int, warmup: int, samples: int, accept: float, seed: int, *, dense: bool = False
) -> tuple[Any, dict]:
    """Draws ``(chains, samples, ...)`` by site, and the cost."""
    start = time.process_time()
    mcmc = MCMC(
        NUTS(model, target_accept_prob=accept, dense_mass=dense),
        num_warmup=warmup,
        num_samples=samples,
        num_chains=chains,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.warmup(jax.random.key(seed), extra_fields=("num_steps",), collect_warmup=True)
    steps = int(np.sum(mcmc.get_extra_fields()["num_steps"]))
    mcmc.run(mcmc.post_warmup_state.rng_key, extra_fields=("num_steps", "diverging"))
    extra = mcmc.get_extra_fields()
    cost = {
        "chains": chains,
        "warmup": warmup,
        "samples": samples,
        "target_accept_prob": accept,
        "gradients": steps + int(np.sum(extra["num_steps"])),
        "divergences": int(np.sum(extra["diverging"])),
    }
    draws = {name: np.asarray(value) for name, value in mcmc.get_samples(group_by_chain=True).items()}
    return draws, cost | {"cpu_seconds": round(time.process_time() - start, 1)}


def of_chains(target: Target, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    shape = next(iter(draws.values())).shape[:2]
    flat = target.quantities({name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()})
    return {name: value.reshape(*shape, *value.shape[1:]) for name, value in flat.items()}


def min_ess(quantities: dict[str, np.ndarray]) -> float:
    return round(float(min(np.min(effective_sample_size(value)) for value in quantities.values())), 1)


def default_cost(target: Target, model: Callable) -> dict[str, Any]:
    """Of the host's NUTS with its defaults: one chain, 1,000 + 1,000."""
    draws, cost = nuts(model, 1, 1_000, 1_000, 0.8, seed=1)
    return cost | {"min_ess": min_ess(of_chains(target, draws))}


def rounded(values: np.ndarray) -> Any:
    return json.loads(json.dumps(np.asarray(values).tolist()), parse_float=lambda s: float(f"{float(s):.5g}"))


def long_run(target: Target, given: argparse.Namespace) -> dict[str, Any]:
    """Log evidence and moments."""
    draws, made = nuts(for_sampling(target), given.chains, given.warmup, given.samples, given.accept, given.seed)
    quantities = of_chains(target, draws)
    made |= {"seed": given.seed, "min_ess": min_ess(quantities)}
    made["max_r_hat"] = float(max(np.max(split_gelman_rubin(v)) for v in quantities.values()))
    if made["max_r_hat"] > R_HAT or made["min_ess"] < MIN_ESS:
        print(f"{target.name}: not good enough: {made}", flush=True)
    moments = {n: [rounded(v.mean((0, 1))), rounded(v.std((0, 1)))] for n, v in quantities.items()}
    if target.name in BOXES:
        exact = integrate(BOXES[target.name](**target.data()))
        found = {"log_z": exact.log_z, "log_z_se": exact.error, "log_z_by": "quadrature"}
        for name, (mean, sd) in exact.moments.items():
            error = sd / np.sqrt(effective_sample_size(quantities[name]))
            off = float((quantities[name].mean() - mean) / error)
            print(
                f"{target.name} {name}: NUTS {moments[name]}, quadrature {mean:.4f} {sd:.4f}; {off:.1f} se", flush=True
            )
            if abs(off) > DISAGREE:
                raise ValueError(f"{target.name}: NUTS and the quadrature disagree in {name}")
            moments[name] = [rounded(mean), rounded(sd)]
    else:
        collapsed = COLLAPSED[target.name](**target.data())
        estimate = log_evidence(collapsed, quantities, given.seed)
        found = {"log_z": estimate.log_z, "log_z_se": estimate.se, "log_z_by": "bridge", "halves": estimate.halves}
    return found | {"moments": moments, "reference_nuts": made}


def of_irt501(target: Target, given: argparse.Namespace) -> dict[str, Any]:
    """Log evidence, from NUTS on the density with the abilities summed out."""
    collapsed = COLLAPSED[target.name](**target.data())

    def model() -> None:
        mean = numpyro.sample("mean_student_ability", dist.ImproperUniform(dist.constraints.real, (), ()))
        difficulty = numpyro.sample("question_difficulty", dist.ImproperUniform(dist.constraints.real, (), (100,)))
        numpyro.factor("all", collapsed.log_density(jnp.append(mean, difficulty)))

    draws, made = nuts(model, given.chains, given.warmup, given.samples, given.accept, given.seed, dense=True)
    estimate = log_evidence(collapsed, draws, given.seed)
    for name, (mean, sd) in target.moments().items():
        if name in draws:
            off, ratio = (draws[name].mean((0, 1)) - mean) / sd, draws[name].std((0, 1)) / sd
            print(
                f"{target.name} {name}: off the package's by {np.abs(off).max():.3f} sd, {ratio.min()} to {ratio.max()}"
            )
    made |= {"seed": given.seed, "min_ess": min_ess(draws)}
    made["max_r_hat"] = float(max(np.max(split_gelman_rubin(v)) for v in draws.values()))
    found = {"log_z": estimate.log_z, "log_z_se": estimate.se, "log_z_by": "bridge", "halves": estimate.halves}
    return found | {"reference_nuts": made}


def reference(target: Target, given: argparse.Namespace) -> dict[str, Any]:
    made = getattr(target.data, "func", target.data)
    found = {"data": {"generator": made.__name__, **getattr(target.data, "keywords", {})}}
    if target.name in EXACT:
        shape = target.dim - 1
        scale = 3.0 if target.name == "funnel10" else 1.0
        moments = {target.scalars[0]: [0.0, scale], "z": [[0.0] * shape, [1.0] * shape]}
        found |= {"log_z": 0.0, "log_z_se": 0.0, "log_z_by": "definition", "moments": moments}
    elif target.name == "volatility2519":  # moments are in the package
        exact = integrate(volatility2519(**target.data()))
        print(f"{target.name}: quadrature {exact.moments}; the package {[*target.moments().items()][:3]}", flush=True)
        found |= {"log_z": exact.log_z, "log_z_se": exact.error, "log_z_by": "quadrature"}
    elif target.name == "irt501":  # moments are in the package
        found |= of_irt501(target, given)
    elif np.isfinite(target.bound):
        found |= long_run(target, given)
    found["nuts"] = {"as written": default_cost(target, target.model)}
    if np.isfinite(target.bound):
        other = TARGETS["horseshoe_noncentred"].model if target.name == "horseshoe" else for_sampling(target)
        found["nuts"]["reparameterised"] = default_cost(target, other)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", help="names with commas between; all by default")
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1_500)
    parser.add_argument("--samples", type=int, default=5_000)
    parser.add_argument("--accept", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    own = [name for name, target in TARGETS.items() if not target.same_as]
    for name in given.targets.split(",") if given.targets else own:
        start = time.time()
        new = reference(TARGETS[name], given)
        references.cache_clear()  # of another run's, meanwhile
        stored = references() | {name: new}
        lines = ",\n".join(f"{json.dumps(n)}: {json.dumps(stored[n])}" for n in own if n in stored)
        REFERENCES.write_text(f"{{\n{lines}\n}}\n")
        short = {k: v for k, v in new.items() if k not in {"moments", "data"}}
        print(name, short, f"{time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
