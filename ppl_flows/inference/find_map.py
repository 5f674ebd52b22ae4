"""Which sites of a model have priors that place them, and what is said where none have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from ppl_flows.core.types import Params
from ppl_flows.inference.model_map import LatentSite, ModelMap, ModelWalk, place_sites
from ppl_flows.inference.site_priors import Prior
from ppl_flows.inference.warn_user import warn_user

POINTS, VARIANTS = 2, 3  # latent vectors, and other numbers of the model, that show what a prior depends on
CHANGED = 1e-6  # relative change of a prior that shows it
WRONG = 1e-4  # error of a chain's location, in units of its scale


NOTHING_TO_PLACE = (
    "AutoFlow: informed=True, but no latent site has a prior with a location and a scale that depend on earlier sites: "
    "priors may be written as factors, or non-centred; use informed='auto'."
)


def find_map(
    sites: tuple[LatentSite, ...],
    walk: ModelWalk,
    read: Callable[[np.ndarray, int], Mapping[str, tuple[Prior, Any]]],
    init: np.ndarray,
    model_params: Params,
) -> ModelMap:
    """The map of a model; it places nothing where no site has a location and scale that depend on earlier ones.

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
    return place_sites(sites, placed, walk, shapes)


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
        warn_user(
            f"AutoFlow: {flat} have flat priors, and the model has the factors {factors}: if these are priors, write "
            "them as the distributions of their sites. A guide places sites by the location and scale of their priors, "
            "which keeps the tails of a hierarchy's scales, and does not see them in a factor. informed=False says "
            "nothing.",
        )


def _inner(fn: Any) -> Any:
    """The distribution below all wrappers, such as ``Independent``."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn
