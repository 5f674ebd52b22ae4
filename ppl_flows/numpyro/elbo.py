"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO

from ppl_flows.inference.guide_checks import RUNS, Sites, check_same_sites
from ppl_flows.inference.joint_prior import Priors, priors_of
from ppl_flows.numpyro.compile_once import computed
from ppl_flows.numpyro.fit_errors import check_data, data_errors, may_lack_data
from ppl_flows.numpyro.lazy_guide import LazyGuide, is_enumerated, is_subsampled


class Choice(NamedTuple):
    """How to estimate the ELBO of a model and a guide.

    Attributes:
        elbo: one that sums over enumerated sites, where the model has any that the guide does not draw.
        subsampled: whether a plate of the model draws a minibatch.
        supports: of the model's latent sites.
        priors: of those that a ``JointPrior`` draws, the sites that they are made of.
        enumerated: names of the sites that are summed over.
        has_deterministic_sites: whether the model has any.
    """

    elbo: Trace_ELBO | TraceEnum_ELBO
    subsampled: bool
    supports: dict[str, Any]
    priors: Priors
    enumerated: list[str]
    has_deterministic_sites: bool


def choose_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, key: jax.Array, params: dict[str, Any]
) -> Choice:
    """The estimator for these, and what their sites say.

    Raises:
        ValueError: the guide is of another model; observed values are not finite.
    """
    look = partial(_look, model, guide, params)
    with data_errors(model):
        first = look(key)
    check_data(first.data)
    more = (look(jax.random.fold_in(key, i)) for i in range(1, RUNS))
    check_same_sites((seen.model, seen.guide) for seen in chain([first], more))
    kind = TraceEnum_ELBO if first.enumerated else Trace_ELBO
    estimator = kind(num_particles=num_particles)
    return Choice(estimator, first.subsampled, first.supports, first.priors, first.enumerated, first.computes)


class _Look(NamedTuple):
    """What a run of model and guide shows: their sites, those whose data are to be checked, and what ``Choice`` has."""

    model: Sites
    guide: Sites
    subsampled: bool
    supports: dict[str, Any]
    priors: Priors
    enumerated: list[str]
    computes: bool
    data: dict[str, Any]


def _look(model: Callable[..., Any], guide: Callable[..., Any], params: dict[str, Any], key: jax.Array) -> _Look:
    """A run of the guide, and one of the model with its draws."""

    def run() -> _Look:
        _, model_key, guide_key = jax.random.split(key, 3)  # as in SVI.init: a guide may be set up here
        known = handlers.trace(handlers.seed(handlers.substitute(guide, params), guide_key)).get_trace()
        replayed = handlers.replay(handlers.substitute(model, params), known)  # as some priors cannot be drawn from
        trace = handlers.trace(handlers.seed(replayed, model_key)).get_trace()
        latents = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        return _Look(
            _sites(trace),
            _sites(known),
            is_subsampled(trace),
            {name: site["fn"].support for name, site in latents.items()},
            priors_of(latents),
            [name for name in latents if name not in known and is_enumerated(latents[name])],
            any(site["type"] == "deterministic" for site in trace.values()),
            {name: site for name, site in trace.items() if may_lack_data(site)},
        )

    # a host's guide may be set up here, and would keep what is only traced
    return computed(run) if isinstance(getattr(guide, "func", guide), LazyGuide) else run()


def _sites(trace: dict[str, Any]) -> Sites:
    sites = Sites()
    for name, site in trace.items():
        if site["type"] != "sample":
            continue
        if not site["is_observed"]:
            sites.latents[name] = tuple(site["fn"].shape(site["kwargs"]["sample_shape"]))
            infer = site["infer"]
            if infer.get("is_auxiliary") or is_enumerated(site) or _is_masked_out(site["fn"]):
                sites.optional.add(name)
            if site["fn"].has_enumerate_support:
                sites.discrete.add(name)
        elif not isinstance(site["fn"], dist.Unit):
            sites.observed.add(name)
    return sites


def _is_masked_out(d: dist.Distribution) -> bool:
    return isinstance(d, dist.MaskedDistribution) and not np.any(np.asarray(d._mask))
