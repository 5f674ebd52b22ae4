"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.initialization import init_to_uniform

from ppl_flows.inference.validation import check_observed
from ppl_flows.numpyro.guide import is_subsampled


def choose_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, key: jax.Array, params: dict[str, Any]
) -> tuple[Trace_ELBO | TraceEnum_ELBO, bool, dict[str, Any]]:
    """One that sums over enumerated sites, where the model has any that the guide does not draw; whether a plate of the
    model draws a minibatch; and the supports of the model's latent sites."""
    _, model_key, guide_key = jax.random.split(key, 3)  # as in SVI.init: a guide may be set up here
    try:
        known = handlers.trace(handlers.seed(handlers.substitute(guide, params), guide_key)).get_trace()
    except (RuntimeError, ValueError):
        drawn = handlers.substitute(handlers.seed(model, model_key), substitute_fn=init_to_uniform)
        _check_data(handlers.trace(drawn).get_trace())  # the likeliest reason, in words
        raise
    replayed = handlers.replay(handlers.substitute(model, params), known)  # as some priors cannot be drawn from
    sites = handlers.trace(handlers.seed(replayed, model_key)).get_trace()
    _check_data(sites)
    latents = [site for name, site in sites.items() if site["type"] == "sample" and name not in known]
    enumerated = any(site["infer"].get("enumerate") == "parallel" for site in latents)
    kind = TraceEnum_ELBO if enumerated else Trace_ELBO
    supports = {n: s["fn"].support for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
    return kind(num_particles=num_particles), is_subsampled(sites), supports


def _check_data(sites: dict[str, Any]) -> None:
    """Raises ValueError for observed values that are not finite, and have no density."""
    for name, site in sites.items():
        if site["type"] == "sample" and site["is_observed"] and not isinstance(site["value"], jax.core.Tracer):
            value = np.asarray(site["value"])
            if value.dtype.kind == "f":
                check_observed(name, value, partial(_log_density, site))


def _log_density(site: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the host: what it says of such values, check_observed says by name
        return np.asarray(site["fn"].log_prob(site["value"]))
