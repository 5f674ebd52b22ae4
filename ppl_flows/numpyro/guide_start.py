"""Where an ``AutoFlow`` starts: what it asks of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.initialization import init_to_value
from numpyro.infer.util import initialize_model
from numpyro.primitives import Messenger

from ppl_flows.inference.auto_flow import check_start
from ppl_flows.inference.find_map import NOTHING_TO_PLACE, warn_of_factors
from ppl_flows.inference.find_start import Start, find_start
from ppl_flows.inference.gaussian import Gaussian, gaussian_of_draws
from ppl_flows.inference.gaussian_start import FULL_RANK_DIM
from ppl_flows.inference.model_map import ModelMap
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.informed import NumPyroCoordinates, model_map
from ppl_flows.numpyro.lazy_guide import is_subsampled
from ppl_flows.numpyro.log_density import LogDensity
from ppl_flows.numpyro.see_model import check_initial_point


def first_start(guide: Any, informed: bool | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Start:
    """Where a guide starts that is set up now; sets what its ``start`` is.

    Args:
        informed: as of ``AutoFlow``.
    """
    if isinstance(guide.start, Gaussian):
        gaussian, guide.start = guide.start, "given"
        return Start(gaussian)
    if isinstance(guide.start, Mapping):
        latents = {name: jnp.shape(guide.prototype_trace[name]["value"]) for name in guide._init_locs}
        check_start(guide.start, latents, guide.prototype_trace)
        maps = {name: biject_to(guide.prototype_trace[name]["fn"].support) for name in latents}
        draws = {name: to_array(guide.start[name]) for name in latents}
        # in the host's order: a pytree would be sorted by name
        rows = jax.vmap(lambda site: jnp.concatenate([jnp.ravel(maps[n].inv(site[n])) for n in maps]))(draws)
        guide.start = "draws"
        return Start(gaussian_of_draws(np.asarray(rows, dtype=np.float64)))
    hindrance = obstacle_of(guide, args, kwargs)
    if hindrance and (informed is True or guide.start not in ("auto", "init")):
        what = "informed=True" if informed is True else f"start={guide.start!r}"
        raise ValueError(f"AutoFlow: {what} is not possible: {hindrance}; use start='init'.")
    if guide.start == "auto":
        guide.start = "init" if hindrance else "full_rank" if guide.latent_dim <= FULL_RANK_DIM else "low_rank"
    if guide.start == "init":
        check_initial_point(guide)
        return Start(Gaussian(guide._init_latent, np.full(guide.latent_dim, guide._init_scale)))
    if informed:
        trace = guide.prototype_trace
        factors = [n for n, s in trace.items() if s["type"] == "sample" and isinstance(s["fn"], dist.Unit)]
        warn_of_factors({n: trace[n] for n in guide._init_locs}, factors)
    found = guide_map(guide, args, kwargs) if informed else None
    if informed is True and not (found and found.placed):
        raise ValueError(NOTHING_TO_PLACE)
    start = _searched_start(guide, found, args, kwargs, always=informed is True)
    if guide.start == "full_rank" and start.gaussian.factor.ndim == 1:
        guide.start = "mean_field"  # of a hierarchy in many dimensions
    return start


def obstacle_of(guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """What makes the log density no function of the latents alone."""
    if isinstance(guide._init_latent, jax.core.Tracer):
        return "the guide is set up inside a traced function"
    if is_subsampled(guide.prototype_trace):
        return "the likelihood is sub-sampled"
    return "the model draws numbers that the guide does not" if _hides_draws(guide, args, kwargs) else None


def guide_map(guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelMap:
    """The map of the guide's model."""
    trace = guide.prototype_trace
    latents, init = {name: trace[name] for name in guide._init_locs}, np.asarray(guide._init_latent, dtype=np.float64)
    with handlers.block(), numpyro.validation_enabled(False):
        return model_map(guide._bare, args, kwargs, latents=latents, init=init, params=model_params(guide))


def model_params(guide: Any) -> dict[str, Any]:
    """The model's own parameters, as they were at the set-up."""
    return {name: site["value"] for name, site in guide.prototype_trace.items() if site["type"] == "param"}


def _searched_start(
    guide: Any, informed: ModelMap | None, args: tuple[Any, ...], kwargs: dict[str, Any], *, always: bool
) -> Start:
    """What a search finds, in the coordinates of the map or in the latent space."""
    dtype, potential = guide._init_latent.dtype, potential_of(guide, args, kwargs)

    def log_density(z: jax.Array, _: Any = None) -> jax.Array:
        return -potential(guide._unpack_latent(z))

    # not in the trace that this call is part of; and without the host's checks, which programs would only trace
    with handlers.block(), numpyro.validation_enabled(False):
        model = model_params(guide)
        coordinates = None if informed is None else NumPyroCoordinates(informed, log_density, dtype, model)
        init = np.asarray(guide._init_latent, dtype=np.float64)
        density, block = LogDensity(log_density, dtype), not guide.model.names  # of sites that are summed over
        return find_start(guide.start, density, coordinates, init, guide._seed, always=always, block=block)


def _hides_draws(guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a ``block`` around the model keeps latent sites from the guide, as in an ``AutoGuideList``."""
    inner = guide._bare
    while isinstance(inner, Messenger) and not isinstance(inner, handlers.block):
        inner = inner.fn
    if not isinstance(inner, handlers.block):
        return False
    with handlers.block():
        trace = handlers.trace(handlers.seed(inner.fn, 0)).get_trace(*args, **kwargs)
    latents = {n for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
    return not latents <= guide.prototype_trace.keys() | guide.model.names


def potential_of(
    guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: dict[str, Any] | None = None
) -> Callable[[dict[str, Any]], jax.Array]:
    """The potential energy of the unconstrained sites, with enumerated ones summed over.

    Args:
        params: of the model; None: as at the set-up.
    """
    if not (guide.model.names or params):
        potential: Callable[[dict[str, Any]], jax.Array] = guide._potential_fn
        return potential
    values = {name: guide.prototype_trace[name]["value"] for name in guide._init_locs}
    with handlers.block():
        return initialize_model(
            jax.random.key(guide._seed),
            handlers.substitute(guide._bare, params or {}),
            init_strategy=init_to_value(values=values),
            model_args=args,
            model_kwargs=kwargs,
        ).potential_fn
