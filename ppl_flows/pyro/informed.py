"""The coordinates of an informed guide, for a Pyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch.distributions import biject_to

from ppl_flows.core.params import flatten, map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.find_map import find_map
from ppl_flows.inference.gaussian_start import Density
from ppl_flows.inference.kl_estimate import Map
from ppl_flows.inference.model_map import LatentSite, ModelMap, Observations
from ppl_flows.inference.read_prior import kind_of
from ppl_flows.inference.saved_sites import probe
from ppl_flows.inference.site_priors import Prior
from ppl_flows.pyro.log_density import LogDensity
from ppl_flows.pyro.model_walk import PyroWalk


def model_map(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    latents: Mapping[str, Any],
    init: torch.Tensor,
    density: LogDensity,
) -> ModelMap:
    """The map of a model; it places nothing where no site has a location and scale that depend on earlier ones.

    Args:
        latents: of a trace, in the order of the latent vector.
        init: a latent vector.
        density: of these.
    """
    sites: list[LatentSite] = []
    for name, site in latents.items():
        transform = biject_to(site["fn"].support)
        numbers = tuple(transform.inv(site["value"]).shape)
        kind = kind_of(_to_numpy(transform(torch.as_tensor(probe(numbers)).to(init))), probe(numbers))
        sites.append(LatentSite(name, numbers, sum(s.size for s in sites), kind))
    every, walk = tuple(sites), PyroWalk(model, args, kwargs, latents, density)

    def read(u: np.ndarray, variant: int) -> dict[str, tuple[Prior, Any]]:
        return {n: (p, 0.0) for n, p in _read(walk, every, torch.as_tensor(u).to(init)[None], variant).items()}

    found = find_map(every, walk, read, init.double().cpu().numpy(), {})
    if found.placed:
        walk.vectorizes = _runs_together(found, walk, init)
    return found


def _runs_together(found: ModelMap, walk: PyroWalk, init: torch.Tensor) -> bool:
    """Whether the model, run once for two rows, gives what it gives in two runs."""
    rows = init + torch.tensor([[0.0], [0.1]]).to(init)
    params = map_params(lambda _, a: torch.as_tensor(a).to(init), found.init(np.random.default_rng(0)))
    with torch.no_grad():
        apart = found.forward(params, rows)
        walk.vectorizes = True
        try:
            together = found.forward(params, rows)
        except (RuntimeError, ValueError, IndexError):  # what operations on unexpected shapes raise
            return False
    rounding = 10 * torch.finfo(init.dtype).eps  # of sums that cancel
    pairs = zip(apart, together, strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=rounding, equal_nan=True) for a, b in pairs)


class PyroCoordinates:
    """Those of a map, as a start asks for them; ``density`` is of the latent vector."""

    def __init__(self, informed: ModelMap, density: LogDensity, like: torch.Tensor) -> None:
        self.informed, self._density, self._like = informed, density, like

    def of(self, informed: ModelMap) -> PyroCoordinates:
        return PyroCoordinates(informed, self._density, self._like)

    def density(self, seen: Observations) -> Density:
        params = self._params(seen)
        return self._density.through(lambda w: self.informed.forward(params, w))

    def to_latents(self, seen: Observations, w: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return _to_numpy(self.informed.forward(self._params(seen), torch.as_tensor(w).to(self._like))[0])

    def to_coordinates(self, seen: Observations, u: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return _to_numpy(self.informed.inverse(self._params(seen), torch.as_tensor(u).to(self._like))[0])

    def priors(self, u: np.ndarray) -> dict[str, Prior]:
        walk: Any = self.informed.walk
        return _read(walk, self.informed.sites, torch.as_tensor(u).to(self._like), 0)

    def curvature(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = torch.as_tensor(u).to(self._like)
        with torch.no_grad():
            found = self.informed.walk.curvature(self.informed.sites, self.informed.block, rows, {})
        return _to_numpy(found[0]), _to_numpy(found[1])

    def _params(self, seen: Observations) -> Params:
        return map_params(lambda _, a: torch.as_tensor(a).to(self._like), self.informed.params_at(seen, {}))


def ways(last: ModelMap, params: Params) -> tuple[Map, Map]:
    """From coordinates to latent vectors, and back."""
    like = next(array for _, array in flatten(params))

    def as_numpy(run: Callable[..., tuple[torch.Tensor, torch.Tensor]], v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.no_grad():
            moved, log_det = run(params, torch.as_tensor(v).to(like))
        return _to_numpy(moved), _to_numpy(log_det)

    return partial(as_numpy, last.forward), partial(as_numpy, last.inverse)


def _read(walk: PyroWalk, sites: tuple[LatentSite, ...], u: torch.Tensor, variant: int) -> dict[str, Prior]:
    with poutine.block():
        found = walk.read(sites, u, variant)
    return {n: type(p)(*(_to_numpy(a) for a in p)) for n, p in found.items()}


def _to_numpy(a: torch.Tensor) -> np.ndarray:
    return a.detach().double().cpu().numpy()
