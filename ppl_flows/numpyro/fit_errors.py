"""The errors of hosts that ``fit`` says in words: data that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer.initialization import init_to_uniform

from ppl_flows.inference.validation import check_observed
from ppl_flows.numpyro.mesh import on_host, spans_processes


def may_lack_data(site: dict[str, Any]) -> bool:
    """Whether a site observes values of which some are not finite, or that are yet to be computed or gathered."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    value = site["value"]
    later = isinstance(value, jax.core.Tracer) or spans_processes(value)
    return later or not np.all(np.isfinite(_floats(value)))


def check_data(sites: dict[str, Any]) -> None:
    """Raises ValueError for observed values that are not finite, and have no density."""
    for name, site in sites.items():
        if may_lack_data(site) and not isinstance(site["value"], jax.core.Tracer):
            check_observed(name, _floats(site["value"]), partial(_log_density, site))


def _floats(value: Any) -> np.ndarray:
    """Values, as far as they may be no numbers."""
    array = on_host(value)
    return array if array.dtype.kind == "f" else np.zeros(0)


def _log_density(site: dict[str, Any]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the host: what it says of such values, check_observed says by name
        return np.asarray(site["fn"].log_prob(site["value"]))


@contextmanager
def data_errors(model: Callable[..., Any]) -> Iterator[None]:
    """Errors of a model whose data are not finite become one that says so."""
    try:
        yield
    except (RuntimeError, ValueError):
        drawn = handlers.substitute(handlers.seed(model, 0), substitute_fn=init_to_uniform)
        with handlers.block():
            check_data(handlers.trace(drawn).get_trace())
        raise
