"""``AmortizedFit.correct``: an amortised posterior as the guide of its model at one data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpyro import handlers

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import map_params
from ppl_flows.files import to_numpy
from ppl_flows.inference.corrected import ADVICE, START, Conditioned, Correction, no_density
from ppl_flows.inference.density_results import AmortizedFit
from ppl_flows.inference.measure_fit import measure_fit
from ppl_flows.inference.progress import stage
from ppl_flows.inference.results import FitResult
from ppl_flows.inference.schedule import Training
from ppl_flows.numpyro.compile_once import random_key
from ppl_flows.numpyro.elbo import choose_elbo
from ppl_flows.numpyro.fit import fit
from ppl_flows.numpyro.fit_errors import data_errors
from ppl_flows.numpyro.fitted_guide import FittedGuide
from ppl_flows.numpyro.guide import AutoFlow
from ppl_flows.numpyro.guide_start import model_params
from ppl_flows.numpyro.landscape import landscape_of
from ppl_flows.numpyro.lazy_guide import set_up
from ppl_flows.numpyro.model_runs import is_data
from ppl_flows.numpyro.save_fit import save_result


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

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.prefix = f"auto_{next(iter(self._init_locs))}"
        self._arguments = args, kwargs
        self._set_flows(*self._conditioned.guide_flow([*self._init_locs]), None)
        self.start = START


def correct(
    amortized: AmortizedFit,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    wish: Correction,
    *,
    model: Callable[..., Any],
    sizes: dict[str, int],
    at: Callable[[tuple[Any, ...], dict[str, Any]], tuple[Bijection, Any]],
) -> FitResult:
    """As of ``AmortizedFit.correct``.

    Args:
        sizes: of the latents, as of ``Conditioned``.
        at: the bijection for these arguments, and its context, ``(context_dim,)``.
    """
    bijection, context = at(args, kwargs)
    _check_density(model, args, kwargs)
    params = map_params(lambda _, a: to_numpy(a), amortized.density.params)
    start = Conditioned(bijection, params, to_numpy(context), sizes)
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
            check_modes=wish.check_modes,
            seed=wish.seed,
            progress=wish.progress,
            **kwargs,
        )
    else:
        result = _measured(guide, model, args, kwargs, wish)
    return replace(result, _advice=ADVICE)


def _measured(
    guide: Any, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], wish: Correction
) -> FitResult:
    """Of the guide as it starts."""
    bound_model = partial(model, *args, **kwargs)
    with data_errors(bound_model):
        set_up(guide, args, kwargs, wish.seed, {})
    key = random_key(wish.seed)
    choice = choose_elbo(bound_model, partial(guide, *args, **kwargs), wish.num_particles, key, {})
    params = {f"{guide.prefix}_flow": guide._first_params(), **model_params(guide)}
    with stage(f"measuring by {wish.draws:,} draws", progress=wish.progress):
        return measure_fit(
            Training(np.empty(0), 0, params, False),
            FittedGuide(model, guide, args, kwargs, params, choice, wish.num_particles, wish.seed),
            near=guide.near(params, *args, **kwargs),
            landscape=landscape_of(guide, args, kwargs, params) if wish.check_modes else None,
            num_draws=wish.draws,
            seed=wish.seed,
            write=partial(save_result, guide=guide, num_particles=wish.num_particles, seed=wish.seed),
        )


def _check_density(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises ValueError where an observed site has no log density."""
    trace = handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)
    for name, site in trace.items():
        if site["type"] == "sample" and is_data(site):
            try:
                site["fn"].log_prob(site["value"])
            except NotImplementedError:
                raise no_density(name, site["fn"]) from None
