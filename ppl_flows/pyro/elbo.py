"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.util import prune_subsample_sites

from ppl_flows.inference.guide_checks import RUNS, Sites, check_same_sites
from ppl_flows.inference.joint_prior import Priors, priors_of
from ppl_flows.pyro.fit_errors import check_data, data_errors
from ppl_flows.pyro.importance import is_latent
from ppl_flows.pyro.model_runs import check_apart, sample_sites


class Choice(NamedTuple):
    """How to estimate the ELBO of a model and a guide.

    Attributes:
        elbo: one that sums over enumerated sites, where the model has any that the guide does not draw.
        subsampled: whether a plate of the model draws a minibatch.
        supports: of the model's latent sites.
        priors: of those that a ``JointPrior`` draws, the sites that they are made of.
    """

    elbo: Trace_ELBO | TraceEnum_ELBO
    subsampled: bool
    supports: dict[str, Any]
    priors: Priors


def choose_elbo(model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, *, vectorize: bool) -> Choice:
    """The estimator for these functions of a weight, and what their sites say.

    Raises:
        ValueError: the guide is of another model; observed values are not finite; with ``vectorize``, the model mixes
            the particles.
    """
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=vectorize)
    seen, known = poutine.trace(model), poutine.trace(guide)
    with data_errors(model):
        elbo._guess_max_plate_nesting(seen, known, (1.0,), {})  # the host's own first look, which checks shapes
    check_data(seen.trace.nodes)
    more = (_run(model, guide) for _ in range(1, RUNS))
    check_same_sites((_sites(m), _sites(g)) for m, g in chain([(seen.trace, known.trace)], more))
    sites: dict[str, Any] = seen.trace.nodes
    frames = [frame for site in sites.values() for frame in site.get("cond_indep_stack", ())]
    subsampled = any(frame.full_size is not None and frame.full_size != frame.size for frame in frames)
    if vectorize and not subsampled:
        with torch.random.fork_rng(), torch.no_grad():
            runs = [sample_sites(trace) for trace in (seen.trace, _run(model, guide)[0])]
        check_apart(partial(model, 1.0), runs, elbo.max_plate_nesting - 1, way_out="vectorize_particles=False")
    nodes: dict[str, Any] = prune_subsample_sites(seen.trace).nodes
    latents = {name: site for name, site in nodes.items() if is_latent(site)}
    supports = {name: site["fn"].support for name, site in latents.items()}
    priors = priors_of(latents)
    if any(site["infer"].get("enumerate") for name, site in latents.items() if name not in known.trace.nodes):
        nesting = elbo.max_plate_nesting - vectorize
        options = {"num_particles": num_particles, "vectorize_particles": vectorize, "max_plate_nesting": nesting}
        return Choice(TraceEnum_ELBO(**options), subsampled, supports, priors)
    return Choice(elbo, subsampled, supports, priors)


def _run(model: Callable[..., Any], guide: Callable[..., Any]) -> tuple[Any, Any]:
    """Traces of the model and the guide, the first with the draws of the second."""
    with poutine.block():
        known = poutine.trace(guide).get_trace(1.0)
        return poutine.trace(poutine.replay(model, trace=known)).get_trace(1.0), known


def _sites(trace: Any) -> Sites:
    sites, nodes = Sites(), prune_subsample_sites(trace).nodes
    site: Any
    for name, site in nodes.items():
        if site["type"] != "sample":
            continue
        if not site["is_observed"]:
            sites.latents[name] = tuple(site["fn"].shape(*site["args"], **site["kwargs"]))
            mask, infer = site["mask"], site["infer"]
            if infer.get("is_auxiliary") or infer.get("enumerate") or not (mask is None or torch.as_tensor(mask).any()):
                sites.optional.add(name)
            if site["fn"].has_enumerate_support:
                sites.discrete.add(name)
        elif not (isinstance(site["fn"], dist.Unit) or site["infer"].get("_deterministic")):
            sites.observed.add(name)
    return sites
