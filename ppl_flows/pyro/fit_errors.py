"""The errors of hosts that ``fit`` says in words: data that are not finite, and models that do not vectorise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from pyro.infer.autoguide.initialization import InitMessenger, init_to_uniform

from ppl_flows.inference.fit_error import FitError
from ppl_flows.inference.validation import check_observed
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.ranks import RankError


@contextmanager
def vectorized_errors(elbo: ELBO, model: Callable[..., Any], guide: Callable[..., Any]) -> Iterator[None]:
    """Errors of a model, of a weight, that runs for one draw and not for many at once become one that says so."""
    try:
        yield
    except (IndexError, RuntimeError, ValueError) as error:
        own = isinstance(error, FitError | CompileError | RankError)
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


def check_data(sites: dict[str, Any]) -> None:
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


@contextmanager
def data_errors(model: Callable[..., Any]) -> Iterator[None]:
    """Errors of a model, of a weight, whose data are not finite become one that says so."""
    try:
        yield
    except (RuntimeError, ValueError):
        with poutine.block(), torch.no_grad(), pyro.validation_enabled(False):
            drawn = poutine.trace(InitMessenger(init_to_uniform)(model)).get_trace(1.0)
        check_data(drawn.nodes)
        raise
