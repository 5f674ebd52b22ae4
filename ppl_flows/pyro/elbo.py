"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.util import prune_subsample_sites

from ppl_flows.pyro.importance import is_latent


def choose_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, *, vectorize: bool
) -> tuple[Trace_ELBO | TraceEnum_ELBO, bool, dict[str, Any]]:
    """For these functions of a weight: one that sums over enumerated sites, where the model has any that the guide
    does not draw; whether a plate of the model draws a minibatch; and the supports of the model's latent sites."""
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=vectorize)
    seen, known = poutine.trace(model), poutine.trace(guide)
    elbo._guess_max_plate_nesting(seen, known, (1.0,), {})  # the host's own first look, which checks shapes
    sites: dict[str, Any] = seen.trace.nodes
    frames = [frame for site in sites.values() for frame in site.get("cond_indep_stack", ())]
    subsampled = any(frame.full_size is not None and frame.full_size != frame.size for frame in frames)
    nodes: dict[str, Any] = prune_subsample_sites(seen.trace).nodes
    latents = {name: site for name, site in nodes.items() if is_latent(site)}
    supports = {name: site["fn"].support for name, site in latents.items()}
    if any(site["infer"].get("enumerate") for name, site in latents.items() if name not in known.trace.nodes):
        nesting = elbo.max_plate_nesting - vectorize
        options = {"num_particles": num_particles, "vectorize_particles": vectorize, "max_plate_nesting": nesting}
        return TraceEnum_ELBO(**options), subsampled, supports
    return elbo, subsampled, supports
