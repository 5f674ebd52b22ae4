"""``fit_amortized``: one conditional flow that is the posterior for every data set, trained by simulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import biject_to

from ppl_flows.core.bijection import Bijection
from ppl_flows.fit_result import AmortizedFit
from ppl_flows.flows import nsf
from ppl_flows.guides import Scaler, check_simulations, check_sites
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.fit import fit_density
from ppl_flows.pyro.params import to_tensor


def fit_amortized(
    model: Callable,
    *args: Any,
    flow: Callable[..., Bijection] = nsf,
    simulations: int = 20_000,
    vectorize: bool = True,
    steps: int = 5_000,
    batch_size: int = 256,
    lr: float = 2e-3,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> AmortizedFit:
    """Fits ``q(latents | data)`` for all data at once: neural posterior estimation.

    Draws latents and data together from the model and maximises the mean of ``log q(latents | data)``, which is the
    expected KL from the posterior up to a constant. No likelihood is evaluated, so that any model will do that can be
    simulated; the posterior of new data is one pass of the flow.

    Args:
        model: a Pyro model with continuous latents; its sites with ``obs`` are the data.
        *args, **kwargs: of the model: any data of the right shapes, whose values are not used.
        flow: recipe of the conditional flow: ``(dim, context_dim=...) -> Bijection``.
        simulations: number of draws from the model, made once.
        vectorize: all of them in one run of the model, under one more plate; False for models that cannot.
        steps, batch_size, lr, seed, progress: as in ``fit_density``.

    Raises:
        ValueError: the model observes nothing, has no latents, or simulates numbers that are not finite; fewer than
            100 simulations.

    Reference: Papamakarios & Murray (2016), Fast epsilon-free Inference of Simulation Models, arXiv:1605.06376;
        Greenberg et al. (2019), Automatic Posterior Transformation, arXiv:1905.07488.
    """
    sites = _sites(model, args, kwargs)
    data = [n for n, s in sites.items() if s["is_observed"]]
    latents = [n for n, s in sites.items() if not s["is_observed"]]
    nesting = max((-f.dim for s in sites.values() for f in s["cond_indep_stack"] if f.vectorized), default=0)
    free = poutine.uncondition(model)

    def rows(drawn: dict[str, Any], n: int) -> tuple[torch.Tensor, torch.Tensor]:
        values = [biject_to(drawn[name]["fn"].support).inv(drawn[name]["value"]) for name in latents]
        z = torch.cat([v.reshape(n, -1) for v in values], dim=-1)
        return z, torch.cat([drawn[name]["value"].reshape(n, -1).to(z) for name in data], dim=-1)

    def simulate() -> tuple[torch.Tensor, torch.Tensor]:
        if vectorize:
            with pyro.plate("simulations", simulations, dim=-1 - nesting):
                return rows(_sites(free, args, kwargs), simulations)
        runs = [rows(_sites(free, args, kwargs), 1) for _ in range(simulations)]
        z, x = (torch.cat(r) for r in zip(*runs, strict=True))
        return z, x

    check_sites(data, latents)
    shapes = {n: biject_to(sites[n]["fn"].support).inv(sites[n]["value"]).shape for n in latents}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        z, x = simulate()
    check_simulations(z.cpu().numpy(), x.cpu().numpy())
    scaler = Scaler.of(x.cpu().numpy())
    fitted = fit_density(
        flow(z.shape[-1], context_dim=x.shape[-1]),
        z,
        context=to_tensor(scaler(x.cpu().numpy())),
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        progress=progress,
    )

    def draw(num_samples: int, seed: int, args: tuple, kwargs: dict) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            given = _sites(model, args, kwargs)
            observed = torch.cat([given[name]["value"].reshape(-1).to(z) for name in data])
            context = to_tensor(scaler(observed.cpu().numpy())).to(z)
            drawn = Flow(fitted.bijection, fitted.params, context=context).sample((num_samples,))
            pieces = drawn.split([shape.numel() for shape in shapes.values()], dim=-1)
            return {
                name: biject_to(sites[name]["fn"].support)(piece.reshape(num_samples, *shape))
                for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
            }

    return AmortizedFit(fitted, draw)


def _sites(model: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Sample sites of a run of the model, by name."""
    nodes = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs)).nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}
