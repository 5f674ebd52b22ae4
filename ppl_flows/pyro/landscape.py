"""The log density of a Pyro model, and where one may start on it, as looking for modes asks for them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch.distributions import biject_to

from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.auto_flow import SEARCHED
from ppl_flows.inference.model_map import ModelMap
from ppl_flows.pyro.guide_start import guide_map
from ppl_flows.pyro.informed import ways
from ppl_flows.pyro.lazy_guide import hide_enumerated
from ppl_flows.pyro.log_density import LogDensity

ONE_BY_ONE = 8  # starts, where the model does not run for many points at once


class PyroLandscape:
    """Of an ``AutoFlow``'s latent vector; in a hierarchy, of coordinates that its priors place.

    It is at the parameters in Pyro's store.
    """

    def __init__(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._guide, self._model = guide, partial(guide._bare[0], *args, **kwargs)
        self._like = guide._init_loc().detach()
        self.density, self.ways = LogDensity(self._model, guide._unpack_latent, self._like), None
        if found := _way_past_necks(guide, args, kwargs, self.density, self._like):
            last, params = found
            self.density, self.ways = self.density.through(partial(last.forward, params)), ways(last, params)
        self.dim: int = guide.latent_dim

    def starts(self, n: int) -> int:
        """All of them, where they are one run of the model."""
        return n if self.density.vectorizes else min(n, ONE_BY_ONE)

    def prior_draws(self, n: int, seed: int) -> np.ndarray | None:
        """Latent vectors, ``(n, dim)``; None where the model's prior cannot be drawn from."""
        model, sites = hide_enumerated(self._model), [*self._guide.prototype_trace.iter_stochastic_nodes()]

        def one() -> torch.Tensor:
            nodes: dict[str, Any] = poutine.trace(model).get_trace().nodes
            return torch.cat([biject_to(s["fn"].support).inv(nodes[name]["value"]).reshape(-1) for name, s in sites])

        with poutine.block(), torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
            torch.manual_seed(seed)
            try:
                return torch.stack([one() for _ in range(n)]).double().cpu().numpy()
            except NotImplementedError:
                return None


def _way_past_necks(
    guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], density: LogDensity, like: torch.Tensor
) -> tuple[ModelMap, Params] | None:
    """The map of an informed guide; of one that looked for none, that of the priors alone."""
    if guide.informed:
        whole = guide.get_transform(*args, **kwargs)
        return whole.bijection.parts[-1], map_params(lambda _, a: a.detach(), whole.params["informed"])
    if guide._wish == "auto" and guide._modes == 1 and guide.start in SEARCHED:  # the latent space was the better one
        return None
    found = guide_map(guide, like, args, kwargs, density)
    given = found.params_at(found.no_observations(), {})
    return (found, map_params(lambda _, a: torch.as_tensor(a).to(like), given)) if found.placed else None


def landscape_of(guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PyroLandscape | None:
    """Of an ``AutoFlow``; None where the log density is no function of its latents alone."""
    with poutine.block(), torch.random.fork_rng():
        found = PyroLandscape(guide, args, kwargs)
        return None if found.density.obstacle(found._like.double().cpu().numpy()) else found
