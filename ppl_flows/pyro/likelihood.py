"""``fit_likelihood``: the density of data given parameters, learned from simulations."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyro
import torch

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
from ppl_flows.pyro.compile.replay import check_compile
from ppl_flows.pyro.density import fit_density
from ppl_flows.pyro.learned_likelihood import condition, save_likelihood, transforms_of
from ppl_flows.pyro.model_runs import WithoutData, check_apart, is_data, weighed
from ppl_flows.pyro.neutral_supports import SUPPORTS
from ppl_flows.pyro.simulator import sites_of
from ppl_flows.recipes import nsf


@one_at_a_time
def fit_likelihood(
    model: Callable[..., Any],
    *args: Any,
    given: Sequence[str] | None = None,
    flow: Callable[..., Bijection] = nsf,
    simulations: int = 20_000,
    vectorize: bool = True,
    steps: int = 5_000,
    batch_size: int = 256,
    validation: float = 0.1,
    lr: float | None = None,
    optimizer: Any = None,
    compile: bool | str | None = None,
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
        model: a Pyro model with one observed site, of continuous numbers. Rows in plates are i.i.d. given the
            latents: the first of each simulation is learned, and one is enough.
        *args, **kwargs: of the model: any data of the right shapes, whose values are not used.
        given: names of the latents that the likelihood is given, which are continuous; all others are integrated out.
            None: those outside of the plates of the data.
        flow: recipe of the conditional flow: ``(dim, context_dim=...) -> Bijection``.
        simulations: number of draws from the model, made once.
        vectorize: all of them in one run of the model, under one more plate; False for models that cannot.
        steps, batch_size, validation, optimizer, compile, callback, seed, progress: as in ``fit_density``.
        checkpoint, checkpoint_every: likewise; the simulations are made anew, and must be the same.
        lr: likewise. None: 0.002.

    Returns:
        A ``LikelihoodFit``: ``condition(**latents)`` is a distribution, for an ``obs`` site of a model.

    Raises:
        ValueError: discrete data; another number of observed sites than one, or rows in no plate; no latents; a latent
            whose support has no name in both languages; a factor, or a site that is masked or scaled; simulations that
            are not finite, or fewer than 100; a number out of its range; an optimiser and ``lr`` or ``compile``.
        TypeError: an option of another kind.
        FileNotFoundError: there is no such directory for the checkpoint.
        CompileError: as in ``fit_density``.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_likelihood
        >>> model = lambda y: pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> small = {"flow": pf.Elementwise, "simulations": 100, "steps": 2, "progress": False}
        >>> learned = fit_likelihood(model, torch.tensor(0.0), **small)
        >>> learned.condition(z=0.5).batch_shape, learned.condition(z=0.5).event_shape  # for an obs site
        (torch.Size([]), torch.Size([]))

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
    check_compile(compile, optimizer=optimizer)
    free = WithoutData()(model)
    run = partial(sites_of, free, args, kwargs)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        first, second = run(), run()
    check_simulated(weighed(first))
    data = [name for name, site in first.items() if is_data(site)]
    plates = {n: {f.name: f.dim for f in s["cond_indep_stack"] if f.vectorized} for n, s in first.items()}
    latents = {n: plates[n] for n, s in first.items() if not (n in data or s["is_observed"])}
    names = check_likelihood_sites(data, latents, {p for n in data for p in plates[n]}, given)
    (observed,) = data
    sites = tuple(SUPPORTS.site(n, first[n]["fn"], first[n]["value"]) for n in names)
    row = _row(observed, first[observed], second[observed], plates[observed])
    transforms = transforms_of((row, *sites))
    nesting = max((-dim for own in plates.values() for dim in own.values()), default=0)
    if vectorize:
        check_apart(partial(free, *args, **kwargs), [first, second], nesting, way_out="vectorize=False")

    def simulated(n: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        drawn = run()
        rows = drawn[observed]["value"].reshape(n, -1, *row.shape)[:, 0]
        return {s.name: drawn[s.name]["value"].reshape(n, *s.shape) for s in sites}, transforms[row.name].inv(rows)

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        if vectorize:
            with pyro.plate("simulations", simulations, dim=-1 - nesting):
                values, u = simulated(simulations)
        else:
            runs = [simulated(1) for _ in range(simulations)]
            values = {n: torch.cat([v[n] for v, _ in runs]) for n in names}
            u = torch.cat([own for _, own in runs])
        numbers = [n.cpu().numpy() for n in context_numbers(sites, values, transforms)]
        rows = u.reshape(simulations, -1)
    check_rows_simulated({**dict(zip(names, numbers, strict=True)), observed: rows.cpu().numpy()}, observed)
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
        compile=compile,
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
    check_row(name, value.shape, fn.event_dim, plates.values(), bool(fn.support.is_discrete))
    shape = tuple(fn.event_shape)
    one = value.reshape(-1, *shape)[0]
    return SUPPORTS.row(name, fn.support, second["fn"].support, shape, one)
