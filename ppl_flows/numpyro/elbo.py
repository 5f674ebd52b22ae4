"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO

from ppl_flows.inference.guide_checks import RUNS, Sites, check_same_sites
from ppl_flows.inference.joint_prior import Priors, priors_of
from ppl_flows.numpyro.fit_errors import check_data, data_errors
from ppl_flows.numpyro.lazy_guide import is_enumerated, is_subsampled


class Choice(NamedTuple):
    """How to estimate the ELBO of a model and a guide.

    Attributes:
        elbo: one that sums over enumerated sites, where the model has any that the guide does not draw.
        subsampled: whether a plate of the model draws a minibatch.
        supports: of the model's latent sites.
        priors: of those that a ``JointPrior`` draws, the sites that they are made of.
        enumerated: names of the sites that are summed over.
    """

    elbo: Trace_ELBO | TraceEnum_ELBO
    subsampled: bool
    supports: dict[str, Any]
    priors: Priors
    enumerated: list[str]


def choose_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, key: jax.Array, params: dict[str, Any]
) -> Choice:
    """The estimator for these, and what their sites say.

    Raises:
        ValueError: the guide is of another model; observed values are not finite.
    """
    with data_errors(model):
        sites, known = first = _run(model, guide, key, params)
    check_data(sites)
    more = (_run(model, guide, jax.random.fold_in(key, i), params) for i in range(1, RUNS))
    check_same_sites((_sites(seen), _sites(drawn)) for seen, drawn in chain([first], more))
    summed = [name for name, site in sites.items() if name not in known and is_enumerated(site)]
    kind = TraceEnum_ELBO if summed else Trace_ELBO
    latents = {n: s for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
    supports = {name: site["fn"].support for name, site in latents.items()}
    return Choice(kind(num_particles=num_particles), is_subsampled(sites), supports, priors_of(latents), summed)


def _run(
    model: Callable[..., Any], guide: Callable[..., Any], key: jax.Array, params: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Traces of the model and the guide, the first with the draws of the second."""
    _, model_key, guide_key = jax.random.split(key, 3)  # as in SVI.init: a guide may be set up here
    known = handlers.trace(handlers.seed(handlers.substitute(guide, params), guide_key)).get_trace()
    replayed = handlers.replay(handlers.substitute(model, params), known)  # as some priors cannot be drawn from
    return handlers.trace(handlers.seed(replayed, model_key)).get_trace(), known


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
