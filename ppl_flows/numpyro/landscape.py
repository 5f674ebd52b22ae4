"""The log density of a NumPyro model, and where one may start on it, as looking for modes asks for them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from ppl_flows.numpyro.compile_once import compile_once, random_key
from ppl_flows.numpyro.guide_start import model_params, obstacle_of, potential_of
from ppl_flows.numpyro.log_density import LogDensity

PRIOR_STREAM = 7  # of keys of a seed


class NumPyroLandscape:
    """Of an ``AutoFlow``'s latent vector.

    Args:
        params: of the model, and others.
    """

    def __init__(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: dict[str, Any]) -> None:
        self._guide, self._args, self._kwargs = guide, args, kwargs
        self._params = {name: params[name] for name in model_params(guide) if name in params}
        potential = potential_of(guide, args, kwargs, self._params)

        def log_density(z: jax.Array, _: Any = None) -> jax.Array:
            return -potential(guide._unpack_latent(z))

        self.density = LogDensity(log_density, guide._init_latent.dtype)
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


def landscape_of(
    guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], params: dict[str, Any]
) -> NumPyroLandscape | None:
    """Of an ``AutoFlow``; None where the log density is no function of its latents alone."""
    with handlers.block(), numpyro.validation_enabled(False):
        return None if obstacle_of(guide, args, kwargs) else NumPyroLandscape(guide, args, kwargs, params)
