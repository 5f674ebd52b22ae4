"""Runs of a NumPyro model at draws of its latents, and from its prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from jax import lax, random
from numpyro import handlers

from ppl_flows.inference.model_runs import Dims, ModelData, ModelRuns, named_arguments, plate_names
from ppl_flows.numpyro.compile_once import compile_once


def run_at(
    model: Callable[..., Any],
    params: dict[str, Any],
    draws: dict[str, jax.Array],
    *,
    seed: int,
    predictive: bool,
    log_likelihood: bool,
    batch: int,
) -> ModelRuns:
    """One compiled program, so many draws at once."""
    dims: dict[str, Dims] = {}

    def one(draw: dict[str, jax.Array], key: jax.Array) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        run_key, new_key = random.split(key)
        given = handlers.substitute(model, {**params, **draw})
        trace = handlers.trace(handlers.seed(given, run_key)).get_trace()
        dims.update(_dims(trace))
        data = {name: site for name, site in trace.items() if is_data(site)}
        new, scores = {}, {}
        if predictive:
            free = handlers.trace(handlers.uncondition(handlers.seed(given, new_key))).get_trace()
            new = {name: free[name]["value"] for name in data}
        if log_likelihood:
            scores = {name: site["fn"].log_prob(site["value"]) for name, site in data.items()}
        return new, scores, {name: site["value"] for name, site in data.items()}

    def all_of_them(draws: dict[str, jax.Array], key: jax.Array) -> tuple[dict[str, Any], ...]:
        keys = random.split(key, len(next(iter(draws.values()))))
        first = jax.tree.map(lambda a: a[0], draws)
        rows = lax.map(lambda row: one(*row)[:2], (draws, keys), batch_size=batch)
        return *rows, one(first, key)[2]

    key = random.key(seed)
    new, scores, observed = compile_once(all_of_them, draws, key)(draws, key)
    return ModelRuns(new, scores, {name: np.asarray(value) for name, value in observed.items()}, dims)


def with_deterministic_sites(
    model: Callable[..., Any], params: dict[str, Any], draws: dict[str, jax.Array], batch: int
) -> dict[str, jax.Array]:
    """The draws, and the model's deterministic sites, computed from them, for so many at once.

    Without these where the model draws what is not among the draws, as they would be made of the prior.
    """

    def one(draw: dict[str, jax.Array], params: dict[str, Any]) -> dict[str, jax.Array]:
        run = handlers.seed(handlers.substitute(model, {**params, **draw}), 0)
        trace = handlers.trace(run).get_trace()
        drawn = {n for n, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}
        if not drawn <= draw.keys():
            return {}
        return {name: site["value"] for name, site in trace.items() if site["type"] == "deterministic"}

    def all_of_them(draws: dict[str, jax.Array], params: dict[str, Any]) -> dict[str, jax.Array]:
        return lax.map(partial(one, params=params), draws, batch_size=batch)

    return {**draws, **compile_once(all_of_them, draws, params)(draws, params)}


def model_data(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelData:
    """What a run of the model shows."""
    trace = handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)
    observed = {name: np.asarray(site["value"]) for name, site in trace.items() if is_data(site)}
    return ModelData(observed, _dims(trace), named_arguments(model, args, kwargs))


def prior_draws(
    model: Callable[..., Any], params: dict[str, Any], num_samples: int, seed: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Draws of the model itself: its latents and deterministic sites, and its observed sites.

    Raises:
        NotImplementedError: a prior cannot be drawn from.
    """

    def one(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        free = handlers.uncondition(handlers.seed(handlers.substitute(model, params), key))
        trace = handlers.trace(free).get_trace()
        values = {n: s["value"] for n, s in trace.items() if s["type"] == "deterministic" or _is_drawn(s)}
        data = {name for name, site in trace.items() if is_data(site)}
        latents = {name: value for name, value in values.items() if name not in data}
        return latents, {name: values[name] for name in values if name in data}

    keys = random.split(random.key(seed), num_samples)
    return compile_once(partial(lax.map, one), keys)(keys)


def is_data(site: dict[str, Any]) -> bool:
    """Whether a site is observed, or was, and no factor."""
    observed = site["type"] == "sample" and (site["is_observed"] or site["infer"].get("was_observed"))
    return bool(observed) and not isinstance(site["fn"], dist.Unit)


def weighed(sites: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Of sample sites whose density is not that of what they draw: what changes it."""
    found = {}
    for name, site in sites.items():
        if isinstance(site["fn"], dist.Unit):
            found[name] = "is a factor"
        elif _is_masked(site["fn"]):
            found[name] = "is masked"
        elif site["scale"] is not None and np.any(np.asarray(site["scale"]) != 1):
            found[name] = "is scaled, as in a sub-sampled plate"
    return found


def _is_masked(fn: Any) -> bool:
    """Whether some of it is, inside of what the host has wrapped around."""
    own = isinstance(fn, dist.MaskedDistribution) and not np.all(fn._mask)
    return own or (hasattr(fn, "base_dist") and _is_masked(fn.base_dist))


def _is_drawn(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and not isinstance(site["fn"], dist.Unit)


def _dims(trace: dict[str, Any]) -> dict[str, Dims]:
    sites = {n: s for n, s in trace.items() if s["type"] in ("sample", "deterministic")}
    return {
        name: plate_names(
            np.shape(site["value"]),
            [(frame.name, frame.dim, frame.size) for frame in site["cond_indep_stack"]],
            site["fn"].event_dim if site["type"] == "sample" else None,
        )
        for name, site in sites.items()
    }
