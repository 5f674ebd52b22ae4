"""``AmortizedFit.correct``: an amortised posterior as the guide of its model at one data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import map_params
from ppl_flows.files import to_numpy
from ppl_flows.inference.corrected import ADVICE, START, Conditioned, Correction, no_density
from ppl_flows.inference.density_results import AmortizedFit
from ppl_flows.inference.measure_fit import measure_fit
from ppl_flows.inference.progress import stage
from ppl_flows.inference.results import FitResult
from ppl_flows.inference.schedule import Training
from ppl_flows.pyro.elbo import choose_elbo
from ppl_flows.pyro.fit import fit
from ppl_flows.pyro.fit_errors import data_errors, vectorized_errors
from ppl_flows.pyro.fitted_guide import fitted_guide
from ppl_flows.pyro.guide import AutoFlow
from ppl_flows.pyro.landscape import landscape_of
from ppl_flows.pyro.lazy_guide import set_up
from ppl_flows.pyro.model_runs import is_data
from ppl_flows.pyro.save_fit import save_result
from ppl_flows.pyro.transform import FlowTransform


class AmortizedGuide(AutoFlow):
    """An ``AutoFlow`` whose flow is an amortised posterior at one data set.

    Args:
        model: of the fit.
        start: the posterior.
        seed: of the set-up.
    """

    def __init__(self, model: Callable[..., Any], start: Conditioned, *, seed: int) -> None:
        super().__init__(model, seed=seed)
        self._conditioned = start

    def _first_transform(self, loc: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FlowTransform:
        names = [name for name, _ in self.prototype_trace.iter_stochastic_nodes()]
        self.start = START
        return self._flows(*self._conditioned.guide_flow(names), loc)


def correct(
    amortized: AmortizedFit,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wish: Correction,
    *,
    model: Callable[..., Any],
    sizes: dict[str, int],
    at: Callable[[tuple[Any, ...], dict[str, Any]], tuple[Bijection, Any]],
    vectorize: bool,
) -> FitResult:
    """As of ``AmortizedFit.correct``.

    Args:
        sizes: of the latents, as of ``Conditioned``.
        at: the bijection for these arguments, and its context, ``(context_dim,)``.
        vectorize: whether the model runs for many draws at once.
    """
    bijection, context = at(args, kwargs)
    _check_density(model, args, kwargs)
    params = map_params(lambda _, a: to_numpy(a), amortized.density.params)
    start = Conditioned(bijection, params, to_numpy(context), sizes)
    store = pyro.get_param_store()
    with store.scope(store.get_state()):  # the guide's parameters are those of this result alone
        guide = AmortizedGuide(model, start, seed=wish.seed)
        if wish.steps:
            result = fit(
                model,
                guide,
                *args,
                steps=wish.steps,
                num_particles=wish.num_particles,
                lr=wish.lr,
                draws=wish.draws,
                vectorize_particles=vectorize,
                check_modes=wish.check_modes,
                seed=wish.seed,
                progress=wish.progress,
                **kwargs,
            )
        else:
            result = _measured(guide, model, args, kwargs, wish, vectorize=vectorize)
    return replace(result, _advice=ADVICE)


def _measured(
    guide: AmortizedGuide,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wish: Correction,
    *,
    vectorize: bool,
) -> FitResult:
    """Of the guide as it starts."""
    bound_model, bound_guide = partial(model, *args, **kwargs), partial(guide, *args, **kwargs)
    particles, vectorize = wish.num_particles, vectorize and wish.num_particles > 1
    with data_errors(lambda _: bound_model()):
        set_up(guide, args, kwargs, wish.seed)

    def model_of(_: Any) -> Any:
        return bound_model()

    def guide_of(_: Any) -> Any:
        return bound_guide()

    with torch.random.fork_rng():
        torch.manual_seed(wish.seed)
        choice = choose_elbo(model_of, guide_of, particles, vectorize=vectorize)
        params = _values(bound_guide, bound_model)
        fitted = fitted_guide(
            bound_model, bound_guide, params, choice, vectorized=vectorize, num_particles=particles, seed=wish.seed
        )
    with (
        stage(f"measuring by {wish.draws:,} draws", progress=wish.progress),
        vectorized_errors(choice.elbo, model_of, guide_of),
    ):
        return measure_fit(
            Training(np.empty(0), 0, params, False),
            fitted,
            near=guide.near(*args, **kwargs),
            landscape=landscape_of(guide, args, kwargs) if wish.check_modes else None,
            num_draws=wish.draws,
            seed=wish.seed,
            write=partial(save_result, guide=guide, num_particles=particles, seed=wish.seed, vectorized=vectorize),
        )


def _values(*functions: Callable[..., Any]) -> dict[str, torch.Tensor]:
    """Of all parameters that these have, by the names of Pyro's store."""
    store = pyro.get_param_store()
    with poutine.trace(param_only=True) as seen:
        for function in functions:
            with poutine.block(hide_types=["sample"]):
                function()
    return {name: store[name].detach().clone() for name in seen.trace.nodes if name in store}


def _check_density(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises ValueError where an observed site has no log density."""
    nodes: dict[str, Any] = poutine.trace(model).get_trace(*args, **kwargs).nodes
    for name, site in nodes.items():
        if site["type"] == "sample" and is_data(site):
            try:
                site["fn"].log_prob(site["value"])
            except NotImplementedError:
                raise no_density(name, site["fn"]) from None
