"""``fit_amortized``: one conditional flow that is the posterior for every data set, trained by simulation."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed
from ppl_flows.core.types import Params
from ppl_flows.inference.amortized import Observations, check_simulations, check_sites
from ppl_flows.inference.density_results import AmortizedFit
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.validation import step_sizes
from ppl_flows.numpyro.amortized_files import save_amortized
from ppl_flows.numpyro.context import Context
from ppl_flows.numpyro.correct import correct
from ppl_flows.numpyro.density import fit_density
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.model_runs import model_data
from ppl_flows.recipes import nsf


@one_at_a_time
def fit_amortized(
    model: Callable[..., Any],
    *args: Any,
    flow: Callable[..., Bijection] = nsf,
    encoder: Callable[..., Any] | None = None,
    simulations: int = 20_000,
    steps: int = 5_000,
    batch_size: int = 256,
    lr: float | None = None,
    optimizer: Any = None,
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
        model: a NumPyro model with continuous latents; its sites with ``obs`` are the data.
        *args, **kwargs: of the model: any data of the right shapes, whose values are not used.
        flow: recipe of the conditional flow: ``(dim, context_dim=...) -> Bijection``.
        encoder: network from the data, ``{site: (n, *site shape)}`` for n data sets, each site centred and scaled as a
            whole, to ``(n, context_dim)``: a function that takes its parameters from ``numpyro.param``, or from
            ``flax_module`` and its like. They train with the flow; ``.density.encoder`` of the result has them. None:
            all numbers of the data in one vector, each centred and scaled.
        simulations: number of draws from the model, made once.
        steps, batch_size, optimizer, callback, seed, progress: as in ``fit_density``.
        checkpoint, checkpoint_every: likewise; the simulations are made anew, and must be the same.
        lr: likewise. None: 0.002.

    Returns:
        An ``AmortizedFit``: ``sample(n, *args)`` draws from the posterior of the data in the arguments.

    Raises:
        ValueError: the model observes nothing, has no latents, or simulates numbers that are not finite; fewer than
            100 simulations; an encoder whose result has another shape, or that has nothing to train; an optimiser and
            ``lr``.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import fit_amortized
        >>> def model(y):
        ...     z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        ...     numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
        >>> fit = fit_amortized(model, 0.0, flow=pf.Elementwise, simulations=100, steps=2, progress=False)
        >>> fit.sample(3, 1.0)["z"].shape
        (3,)

    Reference: Papamakarios & Murray (2016), Fast epsilon-free Inference of Simulation Models, arXiv:1605.06376;
        Greenberg et al. (2019), Automatic Posterior Transformation, arXiv:1905.07488.
    """
    checked_seed("fit_amortized", seed)  # before the simulations, which take long
    own_lr, _ = step_sizes(optimizer, lr, None, default_lr=2e-3)
    prototype = handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)
    sites = {n: s for n, s in prototype.items() if s["type"] == "sample"}
    data = [n for n, s in sites.items() if s["is_observed"]]
    latents = [n for n, s in sites.items() if not s["is_observed"]]
    check_sites(data, latents)
    free = handlers.uncondition(model)

    def simulate(key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        drawn = handlers.trace(handlers.seed(free, key)).get_trace(*args, **kwargs)
        unconstrained = {n: biject_to(drawn[n]["fn"].support).inv(drawn[n]["value"]) for n in latents}
        return ravel_pytree(unconstrained)[0], {n: drawn[n]["value"] for n in data}

    start = {n: biject_to(sites[n]["fn"].support).inv(sites[n]["value"]) for n in latents}
    unravel = ravel_pytree(start)[1]
    keys = jax.random.split(jax.random.key(seed), simulations)
    z, x = jax.tree.map(np.asarray, jax.jit(jax.vmap(simulate))(keys))
    check_simulations(z, x)
    observations = Observations.from_rows(x, encoder=encoder is not None)
    first = Context(observations({name: value[:2] for name, value in x.items()}), encoder, seed)
    fitted = fit_density(
        flow(z.shape[-1], context_dim=first.all_rows().shape[-1]),
        z,
        context=observations(x),
        encoder=encoder,
        steps=steps,
        batch_size=batch_size,
        lr=own_lr if optimizer is None else None,
        optimizer=optimizer,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        seed=seed,
        progress=progress,
    )

    @partial(jax.jit, static_argnums=0)
    def posterior(num_samples: int, key: jax.Array, observed: Any) -> dict[str, jax.Array]:
        (context,) = observed if fitted.encoder is None else fitted.encoder(observed)
        rows = Flow(fitted.bijection, fitted.params, context=context).sample(key, (num_samples,))
        values = jax.vmap(unravel)(rows)
        return {n: biject_to(sites[n]["fn"].support)(values[n]) for n in latents}

    def observed_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        trace = handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)
        return observations({n: np.asarray(trace[n]["value"])[None] for n in data})

    def draw(num_samples: int, seed: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, jax.Array]:
        return posterior(num_samples, jax.random.key(seed), observed_in(args, kwargs))

    def context_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        observed = observed_in(args, kwargs)
        return (observed if fitted.encoder is None else fitted.encoder(observed))[0]

    own = {name: sites[name] for name in sorted(latents)}  # as a pytree has them
    write = partial(save_amortized, latents=own, scalers=observations.scalers)
    sizes = {name: int(np.size(start[name])) for name in own}
    corrected = partial(correct, model=model, sizes=sizes, context_of=context_of)
    return AmortizedFit(fitted, draw, partial(model_data, model), write, corrected)
