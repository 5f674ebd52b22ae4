"""The log density of a NumPyro model, and where one may start on it, as looking for modes asks for them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from ppl_flows.core.types import Params
from ppl_flows.inference.auto_flow import SEARCHED
from ppl_flows.numpyro.compile_once import compile_once, random_key
from ppl_flows.numpyro.guide_start import guide_map, model_params, obstacle_of, potential_of
from ppl_flows.numpyro.informed import ways
from ppl_flows.numpyro.log_density import LogDensity
from ppl_flows.numpyro.model_walk import leaves
from ppl_flows.numpyro.transform import FlowTransform

PRIOR_STREAM = 7  # of keys of a seed


class NumPyroLandscape:
    """Of an ``AutoFlow``'s latent vector; in a hierarchy, of coordinates that its priors place.

    Args:
        params: of the model, and others; of the guide, too, if it is informed.
    """

    def __init__(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: dict[str, Any]) -> None:
        self._guide, self._args, self._kwargs = guide, args, kwargs
        self._params = {name: params[name] for name in model_params(guide) if name in params}
        potential = potential_of(guide, args, kwargs, self._params)

        def log_density(z: jax.Array, _: Any = None) -> jax.Array:
            return -potential(guide._unpack_latent(z))

        self.density, self.ways = LogDensity(log_density, guide._init_latent.dtype), None
        if last := _way_past_necks(guide, args, kwargs, params):

            def of_coordinates(w: jax.Array, params: Params) -> jax.Array:
                z, log_det = last.bijection.forward(params, w)
                return log_density(z) + log_det

            given = jax.tree.map(np.asarray, last.params)  # as a start has them: the same program
            self.density, self.ways = LogDensity(of_coordinates, guide._init_latent.dtype, given), ways(last)
        self.dim: int = guide.latent_dim

    def starts(self, n: int) -> int:
        """All of them: they are rows of one program."""
        return n

    def prior_draws(self, n: int, seed: int) -> np.ndarray | None:
        """Latent vectors, ``(n, dim)``; None where the model's prior cannot be drawn from."""
        maps = {name: biject_to(self._guide.prototype_trace[name]["fn"].support) for name in self._guide._init_locs}
        model = handlers.substitute(self._guide.model, self._params)

        def one(key: jax.Array) -> jax.Array:
            trace = handlers.trace(handlers.seed(model, key)).get_trace(*self._args, **self._kwargs)
            return jnp.concatenate([jnp.ravel(maps[name].inv(trace[name]["value"])) for name in maps])

        def rows(key: jax.Array) -> jax.Array:
            return jax.vmap(one)(jax.random.split(key, n))

        key = random_key(seed, PRIOR_STREAM)
        try:
            return np.asarray(compile_once(rows, key)(key), dtype=np.float64)
        except (NotImplementedError, jax.errors.JAXTypeError, jax.errors.JAXIndexError):
            return None


def _way_past_necks(
    guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: dict[str, Any]
) -> FlowTransform | None:
    """The map of an informed guide; of one that looked for none, that of the priors alone."""
    if guide.informed:
        whole = guide.get_transform(params, *args, **kwargs)
        return FlowTransform(whole.bijection.parts[-1], whole.params["informed"])
    if guide._wish == "auto" and guide._modes == 1 and guide.start in SEARCHED:  # the latent space was the better one
        return None
    found = guide_map(guide, args, kwargs)
    given = found.params_at(found.no_observations(), leaves(model_params(guide)))
    dtype = guide._init_latent.dtype
    return FlowTransform(found, jax.tree.map(lambda a: np.asarray(a, dtype), given)) if found.placed else None


def landscape_of(
    guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: dict[str, Any]
) -> NumPyroLandscape | None:
    """Of an ``AutoFlow``; None where the log density is no function of its latents alone."""
    with handlers.block(), numpyro.validation_enabled(False):
        return None if obstacle_of(guide, args, kwargs) else NumPyroLandscape(guide, args, kwargs, params)
