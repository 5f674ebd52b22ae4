"""NUTS on a funnel of 100 dimensions, plain and through a trained ``AutoFlow`` (NeuTra); prints the smallest ESS.

    python tests/benchmarks/neutra.py --language numpyro

x0 ~ N(0, 3), x_i ~ N(0, exp(x0 / 2)) for i = 1, ..., 99. Bulk ESS of one chain as in ArviZ, the smallest of all
coordinates, after as many steps of warm-up; float32, the hosts' default.

Reference: Hoffman et al. (2019), NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo, arXiv:1903.03704.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import arviz as az
import numpy as np

import ppl_flows as pf
from ppl_flows.inference.results import FitResult

DIM, SCALE = 100, 3.0


class Chain(NamedTuple):
    """Draws of the funnel, ``(n, DIM)``, and the number of divergent steps among them."""

    x: np.ndarray
    divergences: int


class Nuts(NamedTuple):
    """Of both chains: steps of warm-up, and the acceptance that step sizes are adapted to."""

    warmup: int
    accept: float
    seed: int


class Sampler(NamedTuple):
    """Plain NUTS, the training, and NUTS through what it trained."""

    plain: Callable[[int], Chain]
    train: Callable[[], FitResult]
    neutra: Callable[[int], Chain]


def numpyro_sampler(guide_options: dict[str, Any], fit_options: dict[str, Any], nuts: Nuts) -> Sampler:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS
    from numpyro.infer.reparam import NeuTraReparam

    from ppl_flows.numpyro import AutoFlow, fit

    def funnel() -> None:
        x0 = numpyro.sample("x0", dist.Normal(0.0, SCALE))
        numpyro.sample("x", dist.Normal(jnp.zeros(DIM - 1), jnp.exp(x0 / 2)).to_event(1))

    guide = AutoFlow(funnel, **guide_options)
    trained: list[FitResult] = []

    def run(model: Callable, n: int) -> MCMC:
        mcmc = MCMC(
            NUTS(model, target_accept_prob=nuts.accept), num_warmup=nuts.warmup, num_samples=n, progress_bar=False
        )
        mcmc.run(jax.random.key(nuts.seed), extra_fields=("diverging",))
        return mcmc

    def chain(draws: dict[str, Any], mcmc: MCMC) -> Chain:
        x = jnp.concatenate([draws["x0"][:, None], draws["x"]], axis=1)
        return Chain(np.asarray(x), int(mcmc.get_extra_fields()["diverging"].sum()))

    def plain(n: int) -> Chain:
        mcmc = run(funnel, n)
        return chain(mcmc.get_samples(), mcmc)

    def train() -> FitResult:
        trained.append(fit(funnel, guide, progress=False, **fit_options))
        return trained[0]

    def through_the_flow(n: int) -> Chain:
        neutra = NeuTraReparam(guide, trained[0].params)
        mcmc = run(neutra.reparam(funnel), n)
        return chain(neutra.transform_sample(mcmc.get_samples()[f"{guide.prefix}_shared_latent"]), mcmc)

    return Sampler(plain, train, through_the_flow)


def pyro_sampler(guide_options: dict[str, Any], fit_options: dict[str, Any], nuts: Nuts) -> Sampler:
    import pyro
    import pyro.distributions as dist
    import torch
    from pyro.infer import MCMC, NUTS
    from pyro.infer.reparam import NeuTraReparam

    from ppl_flows.pyro import AutoFlow, fit

    torch.set_num_threads(1)

    def funnel() -> None:
        x0 = pyro.sample("x0", dist.Normal(0.0, SCALE))
        pyro.sample("x", dist.Normal(torch.zeros(DIM - 1), torch.exp(x0 / 2)[..., None]).to_event(1))

    guide = AutoFlow(funnel, **guide_options)

    def run(model: Callable, n: int) -> MCMC:
        pyro.set_rng_seed(nuts.seed)
        mcmc = MCMC(
            NUTS(model, target_accept_prob=nuts.accept), warmup_steps=nuts.warmup, num_samples=n, disable_progbar=True
        )
        mcmc.run()
        return mcmc

    def chain(draws: dict[str, Any], mcmc: MCMC) -> Chain:
        x = torch.cat([draws["x0"].reshape(-1, 1), draws["x"]], dim=1).detach().numpy()
        return Chain(x, sum(len(steps) for steps in mcmc.diagnostics()["divergences"].values()))

    def plain(n: int) -> Chain:
        mcmc = run(funnel, n)
        return chain(mcmc.get_samples(), mcmc)

    def train() -> FitResult:
        return fit(funnel, guide, progress=False, **fit_options)

    def through_the_flow(n: int) -> Chain:
        guide.requires_grad_(False)
        neutra = NeuTraReparam(guide)
        mcmc = run(neutra.reparam(funnel), n)
        return chain(neutra.transform_sample(mcmc.get_samples()["x0_shared_latent"]), mcmc)

    return Sampler(plain, train, through_the_flow)


def report(name: str, draw: Callable[[int], Chain], n: int) -> None:
    begin = time.perf_counter()
    x, divergences = draw(n)
    seconds = time.perf_counter() - begin
    ess = np.array([az.ess(column[None]) for column in x.T])
    print(
        f"{name}: smallest ESS {ess.min():.0f} of {n} (x0: {ess[0]:.0f}), {divergences} divergences, "
        f"x0 {x[:, 0].mean():.2f} +- {x[:, 0].std():.2f} (exactly 0 +- {SCALE:.0f}), {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=("numpyro", "pyro"), default="numpyro")
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--start", default="auto")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--particles", type=int)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--flow", help="a recipe such as iaf; by default that of AutoFlow")
    parser.add_argument("--accept", type=float, default=0.8, help="target acceptance of NUTS")
    parser.add_argument("--warmup", type=int, default=1_000)
    parser.add_argument("--draws", type=int, default=2_000, help="through the flow; plain NUTS makes half as many")
    parser.add_argument("--no-plain", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    flow = None if given.flow is None else getattr(pf, given.flow)
    guide_options = {"flow": flow, "quality": given.quality, "start": given.start, "seed": given.seed}
    fit_options = {"steps": given.steps, "num_particles": given.particles, "lr": given.lr, "seed": given.seed}
    make = {"numpyro": numpyro_sampler, "pyro": pyro_sampler}[given.language]
    sampler = make(guide_options, fit_options, Nuts(given.warmup, given.accept, given.seed))
    if not given.no_plain:
        report("NUTS", sampler.plain, given.draws // 2)
    begin = time.perf_counter()
    result = sampler.train()
    print(f"AutoFlow: {result}, trained in {time.perf_counter() - begin:.0f} s", flush=True)
    report("NUTS through AutoFlow", sampler.neutra, given.draws)


if __name__ == "__main__":
    main()
