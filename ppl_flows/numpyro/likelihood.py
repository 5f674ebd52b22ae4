"""``fit_likelihood``: the density of data given parameters, learned from simulations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.types import Params
from ppl_flows.inference.learned_likelihood import (
    LikelihoodFit,
    check_likelihood_sites,
    check_options,
    check_row,
    check_rows_simulated,
    context_numbers,
    scaled_context,
)
from ppl_flows.inference.observations import Scaler
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.inference.simulation_checks import check_simulated
from ppl_flows.numpyro.density import fit_density
from ppl_flows.numpyro.learned_likelihood import condition, save_likelihood, transforms_of
from ppl_flows.numpyro.model_runs import is_data, weighed
from ppl_flows.numpyro.neutral_supports import SUPPORTS
from ppl_flows.numpyro.simulator import sites_of
from ppl_flows.recipes import nsf


@one_at_a_time
def fit_likelihood(
    model: Callable[..., Any],
    *args: Any,
    given: Sequence[str] | None = None,
    flow: Callable[..., Bijection] = nsf,
    simulations: int = 20_000,
    steps: int = 5_000,
    batch_size: int = 256,
    validation: float = 0.1,
    lr: float | None = None,
    optimizer: Any = None,
    callback: Callable[[int, float, Params], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> LikelihoodFit:
    """Fits ``q(row of the data | latents)`` to simulations of the model: neural likelihood estimation.

    Draws latents and data together from the model and maximises the mean of ``log q(row | latents)``. No likelihood is
    evaluated. What the model draws besides, such as noise inside of a simulator, is integrated out. The result is a
    likelihood for any number of i.i.d. rows, and for other priors; it is good where the prior has simulations.

    Args:
        model: a NumPyro model with one observed site, of continuous numbers. Rows in plates are i.i.d. given the
            latents: the first of each simulation is learned, and one is enough.
        *args, **kwargs: of the model: any data of the right shapes, whose values are not used.
        given: names of the latents that the likelihood is given, which are continuous; all others are integrated out.
            None: those outside of the plates of the data.
        flow: recipe of the conditional flow: ``(dim, context_dim=...) -> Bijection``.
        simulations: number of draws from the model, made once.
        steps, batch_size, validation, optimizer, callback, seed, progress: as in ``fit_density``.
        checkpoint, checkpoint_every: likewise; the simulations are made anew, and must be the same.
        lr: likewise. None: 0.002.

    Returns:
        A ``LikelihoodFit``: ``condition(**latents)`` is a distribution, for an ``obs`` site of a model.

    Raises:
        ValueError: discrete data; another number of observed sites than one, or rows in no plate; no latents; a latent
            whose support has no name in both languages; a factor, or a site that is masked or scaled; simulations that
            are not finite, or fewer than 100; a number out of its range; an optimiser and ``lr``.
        TypeError: an option of another kind.
        FileNotFoundError: there is no such directory for the checkpoint.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import fit_likelihood
        >>> model = lambda y: numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> small = {"flow": pf.Elementwise, "simulations": 100, "steps": 2, "progress": False}
        >>> learned = fit_likelihood(model, 0.0, **small)
        >>> learned.condition(z=0.5).batch_shape, learned.condition(z=0.5).event_shape  # for an obs site
        ((), ())

    Reference: Papamakarios, Sterratt & Murray (2019), Sequential Neural Likelihood, arXiv:1805.07226.
    """
    own_lr = check_options(  # before the simulations, which take long
        given,
        flow,
        simulations,
        lr,
        optimizer,
        steps=steps,
        batch_size=batch_size,
        validation=validation,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        seed=seed,
    )
    free = handlers.uncondition(model)

    def run(key: jax.Array | int) -> dict[str, Any]:
        return sites_of(handlers.seed(free, key), args, kwargs)

    first, second = run(0), run(1)
    check_simulated(weighed(first))
    data = [name for name, site in first.items() if is_data(site)]
    plates = {n: {frame.name: frame.dim for frame in s["cond_indep_stack"]} for n, s in first.items()}
    latents = {n: plates[n] for n, s in first.items() if not (s["is_observed"] or s["infer"].get("was_observed"))}
    names = check_likelihood_sites(data, latents, {p for n in data for p in plates[n]}, given)
    (observed,) = data
    sites = tuple(SUPPORTS.site(n, first[n]["fn"], first[n]["value"]) for n in names)
    row = _row(observed, first[observed], second[observed], plates[observed])
    transforms = transforms_of((row, *sites))

    def simulate(key: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        drawn = run(key)
        rows = drawn[observed]["value"].reshape(-1, *row.shape)
        return {n: drawn[n]["value"] for n in names}, transforms[row.name].inv(rows[0])

    keys = jax.random.split(jax.random.key(seed), simulations)
    values, u = jax.jit(jax.vmap(simulate))(keys)
    numbers = [np.asarray(n) for n in context_numbers(sites, values, transforms)]
    rows = np.asarray(u).reshape(simulations, -1)
    check_rows_simulated({**dict(zip(names, numbers, strict=True)), observed: rows}, observed)
    scalers = {n: Scaler.from_rows(own) for n, own in zip(names, numbers, strict=True)}
    context = scaled_context(numbers, scalers.values())
    bijection = flow(rows.shape[-1], context_dim=context.shape[-1])
    check_bijection("fit_likelihood", bijection)
    density = fit_density(
        bijection,
        rows,
        context=context,
        steps=steps,
        batch_size=batch_size,
        validation=validation,
        lr=own_lr,
        optimizer=optimizer,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        seed=seed,
        progress=progress,
    )
    return LikelihoodFit(density, sites, row, scalers, partial(condition, transforms=transforms), save_likelihood)


def _row(name: str, first: dict[str, Any], second: dict[str, Any], plates: dict[str, int]) -> SavedSite:
    """One row of an observed site; on the reals, where its support depends on the latents."""
    fn, value = first["fn"], first["value"]
    check_row(name, np.shape(value), fn.event_dim, plates.values(), bool(fn.support.is_discrete))
    shape = tuple(fn.event_shape)
    one = jnp.asarray(value, dtype=float).reshape(-1, *shape)[0]
    return SUPPORTS.row(name, fn.support, second["fn"].support, shape, one)
