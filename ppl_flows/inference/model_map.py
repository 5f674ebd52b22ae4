"""``ModelMap``: latent sites placed by their priors, along the model's own order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple, Protocol

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.site_priors import Prior, Pseudo

POINTS, VARIANTS = 2, 3  # latent vectors, and other numbers of the model, that show what a prior depends on
CHANGED = 1e-6  # relative change of a prior that shows it
WRONG = 1e-4  # error of a chain's location, in units of its scale


NOTHING_TO_PLACE = (
    "AutoFlow: informed=True, but no latent site has a prior with a location and a scale that depend on earlier sites: "
    "priors may be written as factors, or non-centred; use informed='auto'."
)


class LatentSite(NamedTuple):
    """A site of the latent vector.

    Attributes:
        name: of the site.
        numbers: shape of its unconstrained value.
        first: its first number in the latent vector.
        kind: of its support, as ``read_prior`` asks.
        pseudo: its first number among the pseudo-observations; None: the site stays as it is.
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

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelWalk:
        """The same model with other arguments."""


@dataclass(frozen=True)
class ModelMap(Bijection):
    """Coordinates that know the model: the latent vector is made of them by one run of it.

    Site after site, in the model's order, the location and scale of the prior are known by then, and the site's
    coordinates are placed by them and by pseudo-observations (``site_priors``), whose precisions and values are
    trained. Sites without a location and scale that depend on earlier ones pass as they are.

    Args:
        dim: size of the latent vector.
        sites: all of it.
        walk: runs the model, with its arguments.
        model_params: the model's own parameters, and their shapes: copies of their values are among the params.
    """

    dim: int
    sites: tuple[LatentSite, ...]
    walk: ModelWalk
    model_params: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def placed(self) -> tuple[str, ...]:
        """Names of the sites that are placed."""
        return tuple(site.name for site in self.sites if site.pseudo is not None)

    @property
    def left_alone(self) -> tuple[int, ...]:
        """The numbers of the latent vector that are not placed."""
        return tuple(i for s in self.sites if s.pseudo is None for i in range(s.first, s.first + s.size))

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelMap:
        """The same map for other arguments of the model."""
        return replace(self, walk=self.walk.with_arguments(args, kwargs))

    @property
    def pseudo_size(self) -> int:
        """Number of pseudo-observations."""
        return sum(site.size for site in self.sites if site.pseudo is not None)

    def init(self, rng: np.random.Generator) -> Params:
        zeros = np.zeros(self.pseudo_size)
        state = {"precision": zeros, "value": zeros, "unit": zeros + 1}
        model = {f"{i}": np.zeros(shape) for i, (_, shape) in enumerate(self.model_params)}
        return {"log_precision": zeros, "value": zeros, **({"model": model} if model else {}), "state": state}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._run(params, x, forward=True)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._run(params, y, forward=False)

    def _run(self, params: Params, v: Array, *, forward: bool) -> tuple[Array, Array]:
        state = params["state"]
        precision = state["precision"] * namespace(v).exp(params["log_precision"])
        value = state["value"] + state["unit"] * params["value"]

        def step(site: LatentSite, prior: Prior, v: Array) -> tuple[Array, Array]:
            seen = Pseudo(*(a[site.pseudo_at].reshape(site.numbers) for a in (precision, value)))
            return (prior.place if forward else prior.unplace)(v, seen)

        model = {name: params["model"][f"{i}"] for i, (name, _) in enumerate(self.model_params)}
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


def find_map(
    sites: tuple[LatentSite, ...],
    walk: ModelWalk,
    read: Callable[[np.ndarray, int], Mapping[str, tuple[Prior, Any]]],
    init: np.ndarray,
    model_params: Params,
) -> ModelMap | None:
    """The map of a model; None where no site has a location and scale that depend on earlier ones.

    Args:
        read: the priors of sites at a latent vector, in NumPy, and how wrong they are in units of their scales; the
            other argument is of all else that the model draws, or sums over.
        init: a latent vector.
    """
    rng = np.random.default_rng(0)
    first, *elsewhere = [read(init + shift, 0) for shift in (0.0, *rng.uniform(-1, 1, (POINTS, len(init))))]
    otherwise = [read(init, i) for i in range(1, VARIANTS)]
    placed = {
        name
        for name, (prior, _) in first.items()
        if all(name in seen for seen in (*elsewhere, *otherwise))  # a model may branch
        and any(_differ(prior, seen[name][0]) for seen in elsewhere)
        and not any(_differ(prior, seen[name][0]) for seen in otherwise)
        and all(seen[name][1] < WRONG for seen in (first, *elsewhere))
    }
    shapes = tuple((name, tuple(np.shape(value))) for name, value in model_params.items())
    return place_sites(sites, placed, walk, shapes) if placed else None


def place_sites(
    sites: Iterable[LatentSite],
    placed: set[str],
    walk: ModelWalk,
    model_params: tuple[tuple[str, tuple[int, ...]], ...] = (),
) -> ModelMap:
    """The map that places some of these sites, one after the other in the latent vector."""
    made, first, pseudo = [], 0, 0
    for site in sites:
        moves = site.name in placed
        made.append(site._replace(first=first, pseudo=pseudo if moves else None))
        first, pseudo = first + site.size, pseudo + site.size * moves
    return ModelMap(first, tuple(made), walk, model_params)


def _differ(a: Prior, b: Prior) -> bool:
    return any(not np.allclose(x, y, rtol=CHANGED, atol=0, equal_nan=True) for x, y in zip(a, b, strict=True))


def warn_of_factors(latents: Mapping[str, Any], factors: list[str]) -> None:
    """Warns where vectors have flat priors, and factors may be what they are given instead.

    Args:
        latents: of a trace, with their distributions.
        factors: names of the trace's factors.
    """
    flat = [
        name
        for name, site in latents.items()
        if prod(site["value"].shape) > 1
        and any(c.__name__ == "ImproperUniform" for c in type(_inner(site["fn"])).mro())
    ]
    if flat and factors:
        warnings.warn(
            f"AutoFlow: {flat} have flat priors, and the model has the factors {factors}: if these are priors, write "
            "them as the distributions of their sites. A guide places sites by the location and scale of their priors, "
            "which keeps the tails of a hierarchy's scales, and does not see them in a factor. informed=False says "
            "nothing.",
            UserWarning,
            stacklevel=2,
        )


def _inner(fn: Any) -> Any:
    """The distribution below all wrappers, such as ``Independent``."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def loaded_map(placed: tuple[str, ...], found: ModelMap | None) -> ModelMap:
    """The map of a model for a fit that was trained with these sites placed.

    Raises:
        ValueError: the model has others to place.
    """
    now = () if found is None else found.placed
    if found is None or placed != now:
        raise ValueError(
            f"AutoFlow.load: the fit places the sites {[*placed]} by their priors, but in this model, with these "
            f"arguments, they are {[*now]}; give the model and arguments of the fit."
        )
    return found
