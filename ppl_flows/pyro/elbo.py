"""Which of the host's estimators of the ELBO ``fit`` takes, where it is given none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide.initialization import InitMessenger, init_to_uniform
from pyro.poutine.util import prune_subsample_sites

from ppl_flows.inference.results import FitError
from ppl_flows.inference.validation import check_observed
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.importance import is_latent


def choose_elbo(
    model: Callable[..., Any], guide: Callable[..., Any], num_particles: int, *, vectorize: bool
) -> tuple[Trace_ELBO | TraceEnum_ELBO, bool, dict[str, Any]]:
    """For these functions of a weight: one that sums over enumerated sites, where the model has any that the guide
    does not draw; whether a plate of the model draws a minibatch; and the supports of the model's latent sites."""
    elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=vectorize)
    seen, known = poutine.trace(model), poutine.trace(guide)
    try:
        elbo._guess_max_plate_nesting(seen, known, (1.0,), {})  # the host's own first look, which checks shapes
    except (RuntimeError, ValueError):
        with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):
            drawn = poutine.trace(InitMessenger(init_to_uniform)(model)).get_trace(1.0)
        _check_data(drawn.nodes)  # the likeliest reason, in words
        raise
    sites: dict[str, Any] = seen.trace.nodes
    _check_data(sites)
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


@contextmanager
def vectorized_errors(elbo: ELBO, model: Callable[..., Any], guide: Callable[..., Any]) -> Iterator[None]:
    """Errors of a model, of a weight, that runs for one draw and not for many at once become one that says so."""
    try:
        yield
    except (IndexError, RuntimeError, ValueError) as error:
        own = isinstance(error, FitError | CompileError)
        if own or not elbo.vectorize_particles or not _fails(elbo, model, guide) or _fails(Trace_ELBO(), model, guide):
            raise
        raise ValueError(
            "the model runs for one draw of the guide, but not for all particles at once, as it branches on values, or "
            f"its shapes have no room for one more plate; pass vectorize_particles=False. The error was: {error}"
        ) from error


def _fails(elbo: Any, model: Callable[..., Any], guide: Callable[..., Any]) -> bool:
    with poutine.block(), torch.no_grad():
        try:
            elbo.loss(model, guide, 1.0)
        except (IndexError, RuntimeError, ValueError):  # what operations on unexpected shapes raise
            return True
    return False


def _check_data(sites: dict[str, Any]) -> None:
    """Raises ValueError for observed values that are not finite, and have no density."""
    for name, site in sites.items():
        if site["type"] == "sample" and site["is_observed"] and torch.is_tensor(site["value"]):
            check_observed(name, site["value"].detach().cpu().double().numpy(), partial(_log_density, site))


def _log_density(site: dict[str, Any]) -> np.ndarray:
    """nan where the host's own checks refuse the value."""
    try:
        return np.asarray(site["fn"].log_prob(site["value"]).detach().cpu())
    except ValueError:
        return np.array(np.nan)
