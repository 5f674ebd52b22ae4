"""The coordinates of an informed guide, for a NumPyro model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.transforms import biject_to

from ppl_flows.core.types import Params
from ppl_flows.inference.find_map import find_map
from ppl_flows.inference.gaussian_start import Density
from ppl_flows.inference.measure_fit import Map
from ppl_flows.inference.model_map import LatentSite, ModelMap, Observations
from ppl_flows.inference.read_prior import kind_of
from ppl_flows.inference.saved_fits import probe
from ppl_flows.inference.site_priors import Prior
from ppl_flows.numpyro.log_density import LogDensity
from ppl_flows.numpyro.model_walk import NumPyroWalk, leaves
from ppl_flows.numpyro.transform import FlowTransform


def model_map(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    latents: dict[str, Any],
    init: np.ndarray,
    params: Params,
) -> ModelMap:
    """The map of a model; it places nothing where no site has a location and scale that depend on earlier ones.

    Args:
        latents: of a trace, in the order of the latent vector.
        init: a latent vector.
        params: values of the model's own.
    """
    sites: list[LatentSite] = []
    for name, site in latents.items():
        transform = biject_to(site["fn"].support)
        numbers = tuple(transform.inverse_shape(jnp.shape(site["value"])))
        sites.append(LatentSite(name, numbers, sum(s.size for s in sites), kind_of(transform, probe(numbers))))
    every, walk, values = tuple(sites), NumPyroWalk(model, args, kwargs, latents, params), leaves(params)
    program = jax.jit(lambda u, variant: walk.read(every, u, values, variant))

    def read(u: np.ndarray, variant: int) -> dict[str, tuple[Prior, Any]]:
        return {n: (_to_numpy(p), error) for n, (p, error) in program(jnp.asarray(u), jnp.asarray(variant)).items()}

    return find_map(every, walk, read, init, values)


class NumPyroCoordinates:
    """Those of a map, as a start asks for them.

    Args:
        log_density: of a latent vector.
        params: values of the model's own.
    """

    def __init__(
        self, informed: ModelMap, log_density: Callable[[jax.Array], jax.Array], dtype: Any, params: Params
    ) -> None:
        self.informed = informed
        self._log_density, self._dtype, self._params = log_density, dtype, params
        model = leaves(params)

        def of_coordinates(w: jax.Array, params: Params) -> jax.Array:
            u, log_det = informed.forward(params, w)
            return log_density(u) + log_det

        walk: Any = informed.walk
        self._density = LogDensity(of_coordinates, dtype)
        self._forward = jax.jit(lambda params, w: informed.forward(params, w)[0])
        self._inverse = jax.jit(lambda params, u: informed.inverse(params, u)[0])
        self._priors = jax.jit(jax.vmap(lambda u: walk.read(informed.sites, u, model, 0)))
        self._curvature = jax.jit(lambda u: walk.curvature(informed.sites, informed.block, u, model))

    def of(self, informed: ModelMap) -> NumPyroCoordinates:
        return NumPyroCoordinates(informed, self._log_density, self._dtype, self._params)

    def density(self, seen: Observations) -> Density:
        return self._density.at(self._params_at(seen))

    def to_latents(self, seen: Observations, w: np.ndarray) -> np.ndarray:
        return np.asarray(self._forward(self._params_at(seen), jnp.asarray(w, self._dtype)), np.float64)

    def to_coordinates(self, seen: Observations, u: np.ndarray) -> np.ndarray:
        return np.asarray(self._inverse(self._params_at(seen), jnp.asarray(u, self._dtype)), np.float64)

    def priors(self, u: np.ndarray) -> dict[str, Prior]:
        return {n: _to_numpy(p) for n, (p, _) in self._priors(jnp.asarray(u, self._dtype)).items()}

    def curvature(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient, precision = self._curvature(jnp.asarray(u, self._dtype))
        return np.asarray(gradient, np.float64), np.asarray(precision, np.float64)

    def _params_at(self, seen: Observations) -> Params:
        made = self.informed.params_at(seen, leaves(self._params))
        params: Params = jax.tree.map(lambda a: jnp.asarray(a, self._dtype), made)
        return params


def ways(last: FlowTransform) -> tuple[Map, Map]:
    """From coordinates to latent vectors, and back, by the map of a model with its parameters."""
    dtype = jax.tree.leaves(last.params)[0].dtype

    def as_numpy(run: Callable[..., tuple[jax.Array, jax.Array]], v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved, log_det = run(jnp.asarray(v, dtype))
        return np.asarray(moved, np.float64), np.asarray(log_det, np.float64)

    return partial(as_numpy, last.call_with_intermediates), partial(as_numpy, last.inverse_and_log_det)


def _to_numpy(prior: Prior) -> Prior:
    return type(prior)(*(np.asarray(a, np.float64) for a in prior))
