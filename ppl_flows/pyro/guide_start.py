"""Where an ``AutoFlow`` starts: what it asks of its model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.distributions import biject_to

from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.params import flatten
from ppl_flows.inference.auto_flow import ENOUGH, QUALITIES, check_start, guide_bijection
from ppl_flows.inference.find_map import NOTHING_TO_PLACE, warn_of_factors
from ppl_flows.inference.find_start import Start, find_start
from ppl_flows.inference.gaussian import Gaussian, gaussian_of_draws
from ppl_flows.inference.gaussian_start import FULL_RANK_DIM
from ppl_flows.inference.model_map import ModelMap
from ppl_flows.pyro.informed import PyroCoordinates, model_map
from ppl_flows.pyro.log_density import LogDensity
from ppl_flows.torch.params import to_tensor


def first_start(
    guide: Any, informed: bool | str, loc: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Start:
    """Where a guide starts that is set up now; sets what its ``start`` is.

    Args:
        informed: as of ``AutoFlow``.
        loc: a latent vector.
    """
    init = loc.double().cpu().numpy()
    if isinstance(guide.start, Gaussian):
        gaussian, guide.start = guide.start, "given"
        return Start(gaussian)
    if isinstance(guide.start, Mapping):
        latents = {name: tuple(site["value"].shape) for name, site in guide.prototype_trace.iter_stochastic_nodes()}
        check_start(guide.start, latents, guide.prototype_trace.nodes)
        sites = [
            biject_to(site["fn"].support).inv(value := to_tensor(guide.start[name])).reshape(len(value), -1)
            for name, site in guide.prototype_trace.iter_stochastic_nodes()
        ]
        guide.start = "draws"
        return Start(gaussian_of_draws(torch.cat(sites, dim=-1).double().cpu().numpy()))
    density = _density(guide, loc, args, kwargs)
    obstacle = None if guide.start == "init" else density.obstacle(init)
    if obstacle and (informed is True or guide.start != "auto"):
        what = "informed=True" if informed is True else f"start={guide.start!r}"
        raise ValueError(f"AutoFlow: {what} is not possible: {obstacle}; use start='init'.")
    if guide.start == "auto":
        guide.start = "init" if obstacle else "full_rank" if guide.latent_dim <= FULL_RANK_DIM else "low_rank"
    if guide.start == "init":
        return Start(Gaussian(init, np.full(len(init), guide._init_scale)))
    if informed:
        warn_of_factors(dict(guide.prototype_trace.iter_stochastic_nodes()), density.factors)
    found = guide_map(guide, loc, args, kwargs, density) if informed else None
    if informed is True and not (found and found.placed):
        raise ValueError(NOTHING_TO_PLACE)
    coordinates = None if found is None else PyroCoordinates(found, density, loc)
    always, block = informed is True, not density.enumerates
    start = find_start(guide.start, density, coordinates, init, guide._seed, always=always, block=block)
    if guide.start == "full_rank" and start.gaussian.factor.ndim == 1:
        guide.start = "mean_field"  # of a hierarchy in many dimensions
    return start


def loaded_start(
    guide: Any, state: Mapping[str, torch.Tensor], loc: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Start, ModelMap | None, int]:
    """What stands for the start of a state that is loaded next, the map of the model, and the flow's layers."""
    guide.start, found, seen = "loaded", None, None
    if any(".informed." in name for name in state):
        at = next((value for name, value in state.items() if name.endswith(".informed.state.block")), ())
        found = guide_map(guide, loc, args, kwargs).with_block_at(at)
        seen = found.no_observations()
    shapes = {tuple(value.shape) for value in state.values()}
    sizes = [QUALITIES[guide.quality], *ENOUGH.values()]

    def fits(layers: int) -> bool:
        flow = guide_bijection(guide._recipe, guide.latent_dim, layers)
        return {tuple(a.shape) for _, a in flatten(initial_params(flow, 0))} <= shapes

    layers = next((size.flow_layers for size in sizes if fits(size.flow_layers)), sizes[0].flow_layers)
    return Start(Gaussian(loc.double().cpu().numpy(), np.ones(len(loc))), found, seen), found, layers


def guide_map(
    guide: Any, loc: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], density: LogDensity | None = None
) -> ModelMap:
    """The map of the guide's model; ``density`` is its log density, if that is there."""
    latents, density = (
        dict(guide.prototype_trace.iter_stochastic_nodes()),
        density or _density(guide, loc, args, kwargs),
    )
    return model_map(guide._bare[0], args, kwargs, latents=latents, init=loc, density=density)


def _density(guide: Any, loc: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LogDensity:
    return LogDensity(partial(guide._bare[0], *args, **kwargs), guide._unpack_latent, loc)
