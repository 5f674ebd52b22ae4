"""The coordinates of an informed guide, for a NumPyro model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions.transforms import ExpTransform, IdentityTransform, biject_to

from ppl_flows.core.types import Params
from ppl_flows.inference.find_map import find_map
from ppl_flows.inference.gaussian_start import Density
from ppl_flows.inference.kl_estimate import Map
from ppl_flows.inference.model_map import LatentSite, ModelMap, Observations
from ppl_flows.inference.site_priors import Prior
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.compile_once import Program
from ppl_flows.numpyro.log_density import LogDensity, blocks_of_rows
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
    maps = {name: biject_to(site["fn"].support) for name, site in latents.items()}
    shapes = {name: tuple(maps[name].inverse_shape(jnp.shape(site["value"]))) for name, site in latents.items()}
    sites: list[LatentSite] = []
    for name, numbers in shapes.items():
        sites.append(LatentSite(name, numbers, sum(s.size for s in sites), _kind(maps[name])))
    every, walk, values = tuple(sites), NumPyroWalk(model, args, kwargs, latents, params), leaves(params)
    return find_map(every, walk, reader(walk, every, values), init, values)


def reader(
    walk: Any, sites: tuple[LatentSite, ...], params: Params
) -> Callable[[np.ndarray, int], dict[str, tuple[Prior, float]]]:
    """Gives the priors of sites at a latent vector, and how wrong they are, as ``NumPyroWalk.read``."""
    program = Program(lambda u, variant: walk.read(sites, u, params, variant), calls=100)

    def read(u: np.ndarray, variant: int) -> dict[str, tuple[Prior, float]]:
        found = program(to_array(u), to_array(variant))
        return {n: (type(p)(*(np.asarray(a, np.float64) for a in p)), float(error)) for n, (p, error) in found.items()}

    return read


class MapRuns:
    """Runs of the map of a model on rows in NumPy, so many at a time."""

    ROWS = 64

    def __init__(self, informed: ModelMap, dtype: Any) -> None:
        self._forward = Program(informed.forward, calls=100)
        self._inverse = Program(informed.inverse, calls=100)
        self._dtype = dtype

    def forward(self, params: Params, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latent vectors of coordinates, ``(n, dim)``, and the log det, ``(n,)``."""
        return self._run(self._forward, params, w)

    def inverse(self, params: Params, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The way back."""
        return self._run(self._inverse, params, u)

    def _run(self, program: Program, params: Params, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks = [program(params, block.astype(self._dtype)) for block in blocks_of_rows(v, self.ROWS)]
        moved, log_det = (np.concatenate(arrays)[: len(v)] for arrays in zip(*blocks, strict=True))
        return moved.astype(np.float64), log_det.astype(np.float64)


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
        self._density, self._runs = LogDensity(of_coordinates, dtype), MapRuns(informed, dtype)
        self._prior = reader(walk, informed.sites, model)
        self._curvature = Program(lambda u: walk.curvature(informed.sites, informed.block, u, model), calls=10)

    def of(self, informed: ModelMap) -> NumPyroCoordinates:
        return NumPyroCoordinates(informed, self._log_density, self._dtype, self._params)

    def density(self, seen: Observations) -> Density:
        return self._density.at(self._params_at(seen))

    def to_latents(self, seen: Observations, w: np.ndarray) -> np.ndarray:
        return self._runs.forward(self._params_at(seen), w)[0]

    def to_coordinates(self, seen: Observations, u: np.ndarray) -> np.ndarray:
        return self._runs.inverse(self._params_at(seen), u)[0]

    def priors(self, u: np.ndarray) -> dict[str, Prior]:
        rows = [self._prior(row.astype(self._dtype), 0) for row in u]
        return {n: _stacked([row[n][0] for row in rows]) for n in rows[0]}

    def curvature(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        gradient, precision = self._curvature(u.astype(self._dtype))
        return np.asarray(gradient, np.float64), np.asarray(precision, np.float64)

    def _params_at(self, seen: Observations) -> Params:
        made = self.informed.params_at(seen, leaves(self._params))
        params: Params = jax.tree.map(lambda a: np.asarray(a, self._dtype), made)
        return params


def ways(last: FlowTransform) -> tuple[Map, Map]:
    """From coordinates to latent vectors, and back, by the map of a model with its parameters."""
    params = jax.tree.map(np.asarray, last.params)  # as a start has them: the same programs
    informed: Any = last.bijection
    runs = MapRuns(informed, jax.tree.leaves(params)[0].dtype)
    return partial(runs.forward, params), partial(runs.inverse, params)


def _kind(transform: Any) -> str | None:
    """How it leads from real numbers to a support, as ``read_prior`` asks: its ``kind``, or None."""
    while hasattr(transform, "base_transform"):
        transform = transform.base_transform
    return "real" if transform == IdentityTransform() else "log" if transform == ExpTransform() else None


def _stacked(priors: list[Prior]) -> Prior:
    return type(priors[0])(*map(np.stack, zip(*priors, strict=True)))
