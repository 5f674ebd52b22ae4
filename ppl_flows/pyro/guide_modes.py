"""What an ``AutoFlow`` with several modes has of its own: one flow for each, under one mixture density."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch.distributions import biject_to

from ppl_flows.combinators.batched import Batched
from ppl_flows.core.params import map_params, merge, split
from ppl_flows.core.types import Params
from ppl_flows.inference.auto_flow import Quality, guide_bijection
from ppl_flows.inference.cover_modes import (
    SIZES,
    Mode,
    Regions,
    find_modes,
    mixture_params,
    one_transform,
    own_parameters,
    own_training,
    regions,
)
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.mixture_fit import Components
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.landscape import PyroLandscape
from ppl_flows.pyro.mixture import ApartFlows, MixtureFlow
from ppl_flows.pyro.params import MARK
from ppl_flows.pyro.transform import FlowTransform

QUANTILE_DRAWS = 10_000


class GuideOfModes:
    """The part of ``AutoFlow`` that is about several modes.

    Attributes:
        num_modes: that the guide has flows for, once it is set up.
    """

    num_modes: int = 1
    _gaussians: tuple[Gaussian, ...] = ()  # that the flows start at
    _regions: Regions | None = None  # of the flows, while each is trained by itself
    _in_fit = False
    _turns: Iterator[int] | None = None  # of the flows, where they are trained each by itself

    def _find_modes(self, wish: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Mode]:
        guide: Any = self
        if guide._saved is not None:
            raise ValueError(
                f"AutoFlow: modes={wish!r} does not go on from a state_dict; result.save(path) keeps a fit, and "
                "AutoFlow.load(path, model) gives it back."
            )
        with poutine.block(), torch.random.fork_rng():
            found = PyroLandscape(guide, args, kwargs)
            if obstacle := found.density.obstacle(found._like.double().cpu().numpy()):
                raise ValueError(f"AutoFlow: modes={wish!r} is not possible: {obstacle}; use modes=1.")
            if found.density.trains:
                raise own_parameters()
            return find_modes(found, wish, guide._seed)

    def _cover(self, modes: list[Mode], loc: torch.Tensor) -> FlowTransform:
        """One flow for each of these."""
        guide: Any = self
        part = guide_bijection(guide._recipe, guide.latent_dim, SIZES[guide.quality].flow_layers)
        gaussians, shares = zip(*modes, strict=True)
        self._gaussians, guide.start, self._regions = gaussians, "modes", regions(gaussians, shares)
        self._set_weights(np.full(len(gaussians), -np.log(len(gaussians))), loc)
        return self._flows(Batched(part, batch=(len(gaussians),)), mixture_params(part, gaussians, guide._seed), loc)

    def _flows(self, bijection: Any, params: Params, loc: torch.Tensor) -> FlowTransform:
        weights, state = split(params)
        trained = map_params(lambda _, a: torch.nn.Parameter(torch.tensor(a).to(loc)), weights)
        return FlowTransform(bijection, merge(trained, map_params(lambda _, a: torch.tensor(a).to(loc), state)))

    def _set_weights(self, log_weights: np.ndarray, loc: torch.Tensor) -> None:
        guide: Any = self
        self.num_modes = len(log_weights)
        guide.register_buffer("log_weights", torch.tensor(log_weights).to(loc))

    @property
    def weights_name(self) -> str:
        """What Pyro's store calls the log weights: they are state, which no optimiser sees."""
        guide: Any = self
        return f"{guide._pyro_name}{MARK}log_weights"

    @contextmanager
    def in_fit(self, *, apart: bool = False) -> Iterator[None]:
        """While ``fit`` trains it, its flows ``apart`` or not: the host's own SVI, which trains no mixture well, is
        refused."""
        self._in_fit, self._turns = True, count() if apart else None
        try:
            yield
        finally:
            self._in_fit, self._turns = False, None

    def _mixture(self, transform: FlowTransform) -> MixtureFlow | ApartFlows:
        guide: Any = self
        if not self._in_fit and any(isinstance(h, TraceMessenger) and h.param_only for h in _PYRO_STACK):
            raise own_training(self.num_modes)
        base = guide.get_base_dist().expand((self.num_modes,))
        flows = Flow(transform, base=base)
        own = guide.log_weights
        log_weights = pyro.get_param_store().setdefault(self.weights_name, lambda: own).detach()
        return MixtureFlow(flows, log_weights) if self._turns is None else ApartFlows(flows, self._regions, self._turns)

    @property
    def _size_of_modes(self) -> Quality:
        guide: Any = self
        size = SIZES[guide.quality]
        return size._replace(num_particles=size.num_particles * self.num_modes)

    def _check_one_transform(self) -> None:
        if self.num_modes > 1:
            raise one_transform(self.num_modes)

    def components(self, *args: Any, **kwargs: Any) -> Components:
        """The flows of the guide at these arguments, and their log weights; one, of weight 1, if ``modes=1``."""
        guide: Any = self
        if self.num_modes > 1:
            transform: Any = guide.transform
            log_weights: Any = guide.get_posterior().log_weights
            return Components(transform.bijection.part, transform.params, log_weights)
        one = guide.get_transform(*args, **kwargs)
        return Components(one.bijection, map_params(lambda _, a: a[None], one.params), torch.zeros(1))

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Median of each latent, ``{site: value}``, estimated from draws at these arguments of the model."""
        return self.quantiles(0.5, *args, **kwargs)

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Quantiles of each latent, ``{site: (len(quantiles), *shape)}``, or ``{site: shape}`` for a single level.

        Estimated from draws, the same at every call with the same arguments. As in the host's guides they are taken per
        unconstrained coordinate and then constrained.
        """
        guide: Any = self
        with torch.random.fork_rng():
            torch.manual_seed(guide._seed)
            draws = guide.get_posterior(*args, **kwargs).sample((QUANTILE_DRAWS,))
        levels = torch.as_tensor(quantiles, dtype=draws.dtype, device=draws.device)
        rows = torch.quantile(draws, torch.atleast_1d(levels), dim=0)
        sites = [
            {site["name"]: biject_to(site["fn"].support)(value) for site, value in guide._unpack_latent(row)}
            for row in rows
        ]
        return {name: torch.stack([site[name] for site in sites]) for name in sites[0]} if levels.ndim else sites[0]
