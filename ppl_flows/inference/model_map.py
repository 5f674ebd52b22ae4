"""``ModelMap``: latent sites placed by their priors, along the model's own order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.conditional_gaussian import Conditional
from ppl_flows.inference.site_priors import Prior, Pseudo


class LatentSite(NamedTuple):
    """A site of the latent vector.

    Attributes:
        name: of the site.
        numbers: shape of its unconstrained value.
        first: its first number in the latent vector.
        kind: of its support, as ``read_prior`` asks.
        pseudo: its first number among the pseudo-observations; None: its prior does not place it.
    """

    name: str
    numbers: tuple[int, ...]
    first: int
    kind: str | None
    pseudo: int | None = None

    @property
    def size(self) -> int:
        return prod(self.numbers)

    @property
    def at(self) -> slice:
        return slice(self.first, self.first + self.size)

    @property
    def pseudo_at(self) -> slice:
        """Its pseudo-observations, if it is placed."""
        first = self.pseudo or 0
        return slice(first, first + self.size)


class Observations(NamedTuple):
    """What a map starts from.

    Attributes:
        precision, value: of its pseudo-observations.
        unit: that these values move in.
        reference: point of its block.
    """

    precision: np.ndarray
    value: np.ndarray
    unit: np.ndarray
    reference: np.ndarray


Step = Callable[[LatentSite, Prior, Array], tuple[Array, Array]]


class ModelWalk(Protocol):
    """Runs of a model, of a language, along which the latent vector is made of coordinates."""

    def __call__(self, sites: tuple[LatentSite, ...], step: Step, x: Array, params: Params, *, forward: bool) -> Any:
        """``(y, log_det)`` of rows x, ``(*batch, dim)``.

        Args:
            step: gives what becomes of a placed site's numbers, ``(*rows, *numbers)``, by its prior, and the log
                derivatives, of the same shape.
            params: values of the model's own parameters.
            forward: from coordinates to the latent vector; else back.
        """

    def curvature(self, sites: tuple[LatentSite, ...], block: tuple[str, ...], u: Array, params: Params) -> Any:
        """Gradient of the model's log density, and minus its second derivatives, at latent vectors, ``(*batch, dim)``.

        Args:
            block: names of the sites that these are of, n numbers in the order of the latent vector.

        Returns:
            ``(*batch, n)`` and ``(*batch, n, n)``.
        """

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelWalk:
        """The same model with other arguments."""


@dataclass(frozen=True)
class ModelMap(Bijection):
    """Coordinates that know the model: the latent vector is made of them by one run of it.

    Site after site, in the model's order, the location and scale of the prior are known by then, and the site's
    coordinates are placed by them and by pseudo-observations (``site_priors``), whose precisions and values are
    trained. Sites without a location and scale that depend on earlier ones pass as they are. Last, a block of sites may
    be placed by all the others: by the Gaussian that the model's log density says it is (``conditional_gaussian``). The
    priors of other sites see it at its reference point, which is among the params.

    Args:
        dim: size of the latent vector.
        sites: all of it.
        walk: runs the model, with its arguments.
        model_params: the model's own parameters, and their shapes: copies of their values are among the params.
        block: names of the sites that the log density places; their priors do not.
    """

    dim: int
    sites: tuple[LatentSite, ...]
    walk: ModelWalk
    model_params: tuple[tuple[str, tuple[int, ...]], ...] = ()
    block: tuple[str, ...] = ()

    @property
    def placed(self) -> tuple[str, ...]:
        """Names of the sites that are placed."""
        return tuple(site.name for site in self.sites if site.pseudo is not None or site.name in self.block)

    @property
    def left_alone(self) -> tuple[int, ...]:
        """The numbers of the latent vector that are not placed."""
        return tuple(i for s in self.sites if s.name not in self.placed for i in range(s.first, s.first + s.size))

    @property
    def block_at(self) -> np.ndarray:
        """The numbers of the latent vector that the log density places."""
        found = [i for s in self.sites if s.name in self.block for i in range(s.first, s.first + s.size)]
        return np.array(found, dtype=int)

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelMap:
        """The same map for other arguments of the model."""
        return replace(self, walk=self.walk.with_arguments(args, kwargs))

    def without_priors(self) -> ModelMap:
        """A map that places nothing."""
        return place_sites(self.sites, set(), self.walk, self.model_params)

    def with_block(self, names: Iterable[str]) -> ModelMap:
        """The same map with these sites as its block."""
        wanted = {*names}
        block = tuple(site.name for site in self.sites if site.name in wanted)
        return place_sites(self.sites, {*self.placed} - {*block}, self.walk, self.model_params, block)

    def with_block_at(self, numbers: Iterable[Any]) -> ModelMap:
        """The same map, whose block are these numbers of the latent vector, whole sites, if any."""
        at = {int(i) for i in numbers}
        return self.with_block(
            site.name for site in self.sites if at.issuperset(range(site.first, site.first + site.size))
        )

    @property
    def pseudo_size(self) -> int:
        """Number of pseudo-observations."""
        return sum(site.size for site in self.sites if site.pseudo is not None)

    def init(self, rng: np.random.Generator) -> Params:
        return self.params_at(self.no_observations(), {name: np.zeros(shape) for name, shape in self.model_params})

    def no_observations(self) -> Observations:
        """The non-centred form."""
        zeros = np.zeros(self.pseudo_size)
        return Observations(zeros, zeros, zeros + 1, np.zeros(len(self.block_at)))

    def params_at(self, seen: Observations, model: Params) -> Params:
        """Parameters before training, with these observations, and values of the model's own."""
        zeros, made, state = np.zeros(self.pseudo_size), dict[str, Any](), dict[str, Any]()
        if self.pseudo_size:
            made = {"log_precision": zeros, "value": zeros}
            state = {"precision": seen.precision, "value": seen.value, "unit": seen.unit}
        if self.block:  # where it is goes with it, for parameters that are loaded
            state |= {"reference": seen.reference, "block": self.block_at.astype(float)}
        if model:
            made["model"] = {f"{i}": value for i, value in enumerate(model.values())}
        return {**made, "state": state}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._run(params, x, forward=True)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._run(params, y, forward=False)

    def _run(self, params: Params, v: Array, *, forward: bool) -> tuple[Array, Array]:
        model = {name: params["model"][f"{i}"] for i, (name, _) in enumerate(self.model_params)}
        if not self.block:
            return self._by_priors(params, model, v, forward=forward)
        reference = params["state"]["reference"]
        at_reference = self._with_block(v, reference)
        y, log_det = self._by_priors(params, model, at_reference, forward=forward)
        u = y if forward else at_reference
        conditional = Conditional(reference, *self.walk.curvature(self.sites, self.block, u, model))
        own = namespace(v).concat([v[..., site.at] for site in self.sites if site.name in self.block], axis=-1)
        moved, own_log_det = (conditional.place if forward else conditional.unplace)(own)
        return self._with_block(y, moved), log_det + own_log_det

    def _with_block(self, v: Array, numbers: Array) -> Array:
        """v with these numbers in the place of the block's."""
        xp, parts, first = namespace(v), [], 0
        numbers = xp.broadcast_to(numbers, (*v.shape[:-1], numbers.shape[-1]))
        for site in self.sites:
            if site.name in self.block:
                parts.append(numbers[..., first : first + site.size])
                first += site.size
            else:
                parts.append(v[..., site.at])
        return xp.concat(parts, axis=-1)

    def _by_priors(self, params: Params, model: Params, v: Array, *, forward: bool) -> tuple[Array, Array]:
        if not self.pseudo_size:
            return v, v[..., 0] * 0
        state = params["state"]
        precision = state["precision"] * namespace(v).exp(params["log_precision"])
        value = state["value"] + state["unit"] * params["value"]

        def step(site: LatentSite, prior: Prior, v: Array) -> tuple[Array, Array]:
            seen = Pseudo(*(a[site.pseudo_at].reshape(site.numbers) for a in (precision, value)))
            return (prior.place if forward else prior.unplace)(v, seen)

        y, log_det = self.walk(self.sites, step, v, model, forward=forward)
        return y, log_det

    def __repr__(self) -> str:
        return f"ModelMap({', '.join(self.placed)})"


def same_arguments(a: tuple[tuple[Any, ...], dict[str, Any]], b: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Whether two calls have the very same arguments."""
    (first, named), (second, others) = a, b
    if len(first) != len(second) or named.keys() != others.keys():
        return False
    return all(x is y for x, y in [*zip(first, second, strict=True), *((named[n], others[n]) for n in named)])


def place_sites(
    sites: Iterable[LatentSite],
    placed: set[str],
    walk: ModelWalk,
    model_params: tuple[tuple[str, tuple[int, ...]], ...] = (),
    block: tuple[str, ...] = (),
) -> ModelMap:
    """The map whose priors place some of these sites, one after the other in the latent vector, and others a block."""
    made, first, pseudo = [], 0, 0
    for site in sites:
        moves = site.name in placed
        made.append(site._replace(first=first, pseudo=pseudo if moves else None))
        first, pseudo = first + site.size, pseudo + site.size * moves
    return ModelMap(first, tuple(made), walk, model_params, block)


def loaded_map(placed: tuple[str, ...], map_params: Mapping[str, Any], found: ModelMap) -> ModelMap:
    """The map of a model for a fit that was trained with these sites placed.

    Args:
        map_params: of the fit, under dotted names.
        found: what the model's priors place.

    Raises:
        ValueError: the model has others to place.
    """
    made = found.with_block_at(map_params.get("state.block", ()))
    if made.placed != placed:
        raise ValueError(
            f"AutoFlow.load: the fit places the sites {[*placed]} by their priors, but in this model, with these "
            f"arguments, they are {[*made.placed]}; give the model and arguments of the fit."
        )
    return made
