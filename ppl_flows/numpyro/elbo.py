"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from numpyro import handlers
from numpyro.infer import Trace_ELBO, TraceEnum_ELBO

from ppl_flows.numpyro.guide import is_subsampled


def choose_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, key: jax.Array, params: dict[str, Any]
) -> tuple[Trace_ELBO | TraceEnum_ELBO, bool, dict[str, Any]]:
    """One that sums over enumerated sites, where the model has any that the guide does not draw; whether a plate of the
    model draws a minibatch; and the supports of the model's latent sites."""
    _, model_key, guide_key = jax.random.split(key, 3)  # as in SVI.init: a guide may be set up here
    known = handlers.trace(handlers.seed(handlers.substitute(guide, params), guide_key)).get_trace()
    replayed = handlers.replay(handlers.substitute(model, params), known)  # as some priors cannot be drawn from
    sites = handlers.trace(handlers.seed(replayed, model_key)).get_trace()
    latents = [site for name, site in sites.items() if site["type"] == "sample" and name not in known]
    enumerated = any(site["infer"].get("enumerate") == "parallel" for site in latents)
    kind = TraceEnum_ELBO if enumerated else Trace_ELBO
    supports = {n: s["fn"].support for n, s in sites.items() if s["type"] == "sample" and not s["is_observed"]}
    return kind(num_particles=num_particles), is_subsampled(sites), supports
