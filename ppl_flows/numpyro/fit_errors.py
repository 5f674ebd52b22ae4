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


def check_data(sites: dict[str, Any]) -> None:
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
