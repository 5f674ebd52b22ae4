"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO


def choose_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, *, vectorize: bool
) -> tuple[Trace_ELBO | TraceEnum_ELBO, bool]:
    """For these functions of a weight: one that sums over enumerated sites, where the model has any that the guide
    does not draw; and whether a plate of the model draws a minibatch."""
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=vectorize)
    seen, known = poutine.trace(model), poutine.trace(guide)
    elbo._guess_max_plate_nesting(seen, known, (1.0,), {})  # the host's own first look, which checks shapes
    sites: dict[str, Any] = seen.trace.nodes
    frames = [frame for site in sites.values() for frame in site.get("cond_indep_stack", ())]
    subsampled = any(frame.full_size is not None and frame.full_size != frame.size for frame in frames)
    latents = [s for n, s in sites.items() if s["type"] == "sample" and n not in known.trace.nodes]
    if any(site["infer"].get("enumerate") for site in latents):
        nesting = elbo.max_plate_nesting - vectorize
        options = {"num_particles": num_particles, "vectorize_particles": vectorize, "max_plate_nesting": nesting}
        return TraceEnum_ELBO(**options), subsampled
    return elbo, subsampled
