"""What an ``AutoFlow`` with several modes has of its own: one flow for each, under one mixture density."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import lax
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.primitives import _PYRO_STACK

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
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.guide_start import model_params, obstacle_of
from ppl_flows.numpyro.landscape import NumPyroLandscape
from ppl_flows.numpyro.mixture import MixtureFlow, RegionFlow, one_of

QUANTILE_DRAWS = 10_000


class GuideOfModes:
    """The part of ``AutoFlow`` that is about several modes.

    Attributes:
        num_modes: that the guide has flows for, once it is set up.
    """

    num_modes: int = 1
    _gaussians: tuple[Gaussian, ...] = ()  # that the flows start at
    _regions: Regions | None = None  # of the flows, while each is trained by itself
    _component: Any = None
    _in_fit = False
    _bijection: Any
    _start: Any

    def _find_modes(self, wish: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Mode]:
        guide: Any = self
        with handlers.block(), numpyro.validation_enabled(False):
            if obstacle := obstacle_of(guide, args, kwargs):
                raise ValueError(f"AutoFlow: modes={wish!r} is not possible: {obstacle}; use modes=1.")
            if model_params(guide):
                raise own_parameters()
            return find_modes(NumPyroLandscape(guide, args, kwargs, {}), wish, guide._seed)

    def _cover(self, modes: list[Mode]) -> None:
        """The guide has a flow for each of these."""
        guide: Any = self
        part = guide_bijection(guide._recipe, guide.latent_dim, SIZES[guide.quality].flow_layers)
        gaussians, shares = zip(*modes, strict=True)
        self._gaussians, guide.start, self._regions = gaussians, "modes", regions(gaussians, shares)
        k, params = len(gaussians), mixture_params(part, gaussians, guide._seed)
        self._set_flows(Batched(part, batch=(k,)), params, np.full(k, -np.log(k)))

    def _set_flows(self, bijection: Any, params: Params, log_weights: np.ndarray | None) -> None:
        """One flow, or, with weights, several."""
        self._bijection, self._start = bijection, params
        if log_weights is not None:
            self.num_modes = len(log_weights)
            self._start = {"components": params, "state": {"log_weights": log_weights}}

    @contextmanager
    def in_fit(self) -> Iterator[None]:
        """While ``fit`` trains it: the host's own SVI, which trains no mixture well, is refused."""
        self._in_fit = True
        try:
            yield
        finally:
            self._in_fit = False

    @contextmanager
    def as_component(self, component: jax.Array) -> Iterator[None]:
        """While one of its flows, number ``component``, is trained by itself."""
        self._component = component
        try:
            yield
        finally:
            self._component = None

    def _first_params(self) -> Params:
        if self.num_modes > 1 and not self._in_fit and any(isinstance(h, handlers.trace) for h in _PYRO_STACK):
            raise own_training(self.num_modes)
        return map_params(lambda _, a: to_array(a), self._start)

    def _mixture(self, params: Params) -> Flow | MixtureFlow | RegionFlow:
        """At parameters of the guide; or one flow, where they are of one."""
        guide: Any = self
        weights, state = split(params)
        params = merge(weights, jax.tree.map(lax.stop_gradient, state))
        if one_of(params):
            one = Flow(self._bijection.part, params["components"], base=guide.get_base_dist())
            return one if self._regions is None else RegionFlow(one, self._regions, self._component)
        base = guide.get_base_dist().expand((self.num_modes,))
        return MixtureFlow(Flow(self._bijection, params["components"], base=base), params["state"]["log_weights"])

    @property
    def _size_of_modes(self) -> Quality:
        guide: Any = self
        size = SIZES[guide.quality]
        return size._replace(num_particles=size.num_particles * self.num_modes)

    def _check_one_transform(self) -> None:
        if self.num_modes > 1:
            raise one_transform(self.num_modes)

    def components(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> Components:
        """The flows of the guide at ``params`` and these arguments, and their log weights; one, of weight 1, if
        ``modes=1``."""
        guide: Any = self
        if self.num_modes > 1:
            own = params[f"{guide.prefix}_flow"]
            return Components(self._bijection.part, own["components"], own["state"]["log_weights"])
        one = guide.get_transform(params, *args, **kwargs)
        return Components(one.bijection, jax.tree.map(lambda a: a[None], one.params), jnp.zeros(1))

    def median(self, params: dict[str, Any]) -> dict[str, jax.Array]:
        """Median of each latent, ``{site: value}``, estimated from draws at trained ``params``."""
        return self.quantiles(params, 0.5)

    def quantiles(self, params: dict[str, Any], quantiles: Any) -> dict[str, jax.Array]:
        """Quantiles of each latent, ``{site: (len(quantiles), *shape)}``, or ``{site: shape}`` for a single level.

        At trained ``params``, from draws; as in the host's guides, per unconstrained coordinate, and then constrained.
        """
        guide: Any = self
        draws = guide.get_posterior(params).sample(jax.random.key(guide._seed), (QUANTILE_DRAWS,))
        levels = jnp.asarray(quantiles)
        rows = jnp.quantile(draws, jnp.atleast_1d(levels), axis=0)
        values = {
            name: biject_to(guide.prototype_trace[name]["fn"].support)(unconstrained)
            for name, unconstrained in jax.vmap(guide._unpack_latent)(rows).items()
        }
        return values if levels.ndim else {name: value[0] for name, value in values.items()}
