"""``fit_amortized``: one conditional flow that is the posterior for every data set, trained by simulation."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import biject_to

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed
from ppl_flows.core.types import Params
from ppl_flows.inference.amortized import Observations, check_simulations, check_sites
from ppl_flows.inference.density_results import AmortizedFit
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.validation import step_sizes
from ppl_flows.pyro.amortized_files import save_amortized
from ppl_flows.pyro.compile.replay import check_compile
from ppl_flows.pyro.context import Context, to_tensors
from ppl_flows.pyro.correct import correct
from ppl_flows.pyro.density import fit_density
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.model_runs import WithoutData, is_data, model_data
from ppl_flows.recipes import nsf


@one_at_a_time
def fit_amortized(
    model: Callable[..., Any],
    *args: Any,
    flow: Callable[..., Bijection] = nsf,
    encoder: torch.nn.Module | None = None,
    simulations: int = 20_000,
    vectorize: bool = True,
    steps: int = 5_000,
    batch_size: int = 256,
    lr: float | None = None,
    optimizer: Any = None,
    compile: bool | str | None = None,
    callback: Callable[[int, float, Params], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
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
        encoder: network from the data, ``{site: (n, *site shape)}`` for n data sets, each site centred and scaled as a
            whole, to ``(n, context_dim)``. A copy trains with the flow, and is ``.density.encoder`` of the result.
            None: all numbers of the data in one vector, each centred and scaled.
        simulations: number of draws from the model, made once.
        vectorize: all of them in one run of the model, under one more plate; False for models that cannot.
        steps, batch_size, optimizer, compile, callback, seed, progress: as in ``fit_density``.
        checkpoint, checkpoint_every: likewise; the simulations are made anew, and must be the same.
        lr: likewise. None: 0.002.

    Returns:
        An ``AmortizedFit``: ``sample(n, *args)`` draws from the posterior of the data in the arguments.

    Raises:
        ValueError: the model observes nothing, has no latents, or simulates numbers that are not finite; fewer than
            100 simulations; an encoder whose result has another shape, or that has nothing to train; an optimiser and
            ``lr`` or ``compile``.
        TypeError: the encoder is no ``torch.nn.Module``.
        CompileError: as in ``fit_density``.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_amortized
        >>> def model(y):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> fit = fit_amortized(model, torch.tensor(0.0), flow=pf.Elementwise, simulations=100, steps=2, progress=False)
        >>> fit.sample(3, torch.tensor(1.0))["z"].shape
        torch.Size([3])

    Reference: Papamakarios & Murray (2016), Fast epsilon-free Inference of Simulation Models, arXiv:1605.06376;
        Greenberg et al. (2019), Automatic Posterior Transformation, arXiv:1905.07488.
    """
    checked_seed("fit_amortized", seed)  # before the simulations, which take long
    own_lr, _ = step_sizes(optimizer, lr, None, default_lr=2e-3)
    check_compile(compile, optimizer=optimizer)
    sites = _sites(model, args, kwargs)
    data = [n for n, s in sites.items() if is_data(s)]
    latents = [n for n, s in sites.items() if not s["is_observed"]]
    nesting = max((-f.dim for s in sites.values() for f in s["cond_indep_stack"] if f.vectorized), default=0)
    free = WithoutData()(model)

    def rows(drawn: dict[str, Any], n: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values = [biject_to(drawn[name]["fn"].support).inv(drawn[name]["value"]) for name in latents]
        z = torch.cat([v.reshape(n, -1) for v in values], dim=-1)
        return z, {name: drawn[name]["value"].reshape(n, *sites[name]["value"].shape) for name in data}

    def simulate() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if vectorize:
            with pyro.plate("simulations", simulations, dim=-1 - nesting):
                return rows(_sites(free, args, kwargs), simulations)
        runs = [rows(_sites(free, args, kwargs), 1) for _ in range(simulations)]
        return torch.cat([z for z, _ in runs]), {name: torch.cat([x[name] for _, x in runs]) for name in data}

    check_sites(data, latents)
    shapes = {n: biject_to(sites[n]["fn"].support).inv(sites[n]["value"]).shape for n in latents}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        z, drawn = simulate()
    x = {name: value.cpu().numpy() for name, value in drawn.items()}
    check_simulations(z.cpu().numpy(), x)
    observations = Observations.from_rows(x, encoder=encoder is not None)
    first = Context(observations({name: value[:2] for name, value in x.items()}), encoder, z)
    fitted = fit_density(
        flow(z.shape[-1], context_dim=first.all_rows().shape[-1]),
        z,
        context=observations(x),
        encoder=encoder,
        steps=steps,
        batch_size=batch_size,
        lr=own_lr if optimizer is None else None,
        optimizer=optimizer,
        compile=compile,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        seed=seed,
        progress=progress,
    )

    def context_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
        with torch.random.fork_rng(), torch.no_grad():
            given = _sites(model, args, kwargs)
            observed = to_tensors(observations({n: given[n]["value"].cpu().numpy()[None] for n in data}), "data", z)
            (context,) = observed if fitted.encoder is None else fitted.encoder(observed)
            return context

    def draw(num_samples: int, seed: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        context = context_of(args, kwargs)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            drawn = Flow(fitted.bijection, fitted.params, context=context).sample((num_samples,))
            pieces = drawn.split([shape.numel() for shape in shapes.values()], dim=-1)
            return {
                name: biject_to(sites[name]["fn"].support)(piece.reshape(num_samples, *shape))
                for (name, shape), piece in zip(shapes.items(), pieces, strict=True)
            }

    own = {name: sites[name] for name in latents}
    write = partial(save_amortized, latents=own, scalers=observations.scalers)
    sizes = {name: shape.numel() for name, shape in shapes.items()}
    corrected = partial(correct, model=model, sizes=sizes, context_of=context_of, vectorize=vectorize)
    return AmortizedFit(fitted, draw, partial(model_data, model), write, corrected)


def _sites(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Sample sites of a run of the model, by name."""
    nodes = prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs)).nodes
    return {name: site for name, site in nodes.items() if site["type"] == "sample"}
