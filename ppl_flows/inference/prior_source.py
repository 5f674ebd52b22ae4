"""What a trained guide of a language gives to make a ``JointPrior`` of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.joint_prior import Priors
from ppl_flows.inference.neutral_supports import NeutralSupports
from ppl_flows.inference.saved_sites import SavedSite


class OwnFlow(NamedTuple):
    """The flow that an ``AutoFlow`` is: its latents, in the order of the vector; and its parameters, in NumPy."""

    latents: list[str]
    bijection: Bijection
    params: Params


@dataclass(frozen=True)
class PriorLanguage:
    """Of one language.

    Attributes:
        supports: to neutral words and back.
        fit_density: its own.
        prior: makes its ``JointPrior`` of a ``SavedPrior``.
        versions: of its packages.
    """

    supports: NeutralSupports
    fit_density: Callable[..., Any]
    prior: Callable[..., Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class PriorSource:
    """A guide's latents, as sites of a prior.

    Attributes:
        supports: of the model's latents.
        priors: of those that a ``JointPrior`` draws, the sites that they are made of.
        own_flow: None of guides that are no ``AutoFlow``.
        language: of the guide.
    """

    supports: dict[str, Any]
    priors: Priors
    own_flow: OwnFlow | None
    language: PriorLanguage

    @property
    def latents(self) -> dict[str, str]:
        """By every continuous site that a prior can have, the latent that it comes from."""
        found: dict[str, str] = {}
        for latent, support in self.supports.items():
            if not support.is_discrete:
                found |= (
                    {site.name: latent for site in self.priors[latent]} if latent in self.priors else {latent: latent}
                )
        return found

    @property
    def discrete(self) -> list[str]:
        """Names of the discrete latents."""
        return [name for name, support in self.supports.items() if support.is_discrete]

    def sites_of(self, latent: str, draws: Array) -> Iterator[tuple[SavedSite, np.ndarray]]:
        """Of draws of a latent, ``(n, *shape)``: the sites it is made of, and their unconstrained numbers, ``(n, k)``.

        Raises:
            ValueError: a support without neutral words, draws that have no unconstrained numbers, or a ``JointPrior``
                that is called in a plate.
        """
        supports = self.language.supports
        if latent not in self.priors:
            support = self.supports[latent]
            way_out = "name the sites to keep in as_prior(sites), without this one"
            site = supports.site_on(latent, support, tuple(draws.shape[1:]), draws[0], way_out)
            yield site, _finite(latent, supports.to_numpy(supports.biject_to(support).inv(draws)))
            return
        vectors = supports.to_numpy(draws)
        sizes = [math.prod(site.numbers) for site in self.priors[latent]]
        if vectors.shape[1:] != (sum(sizes),):
            raise ValueError(
                f"as_prior: the model draws {latent!r} by a prior that is called in a plate, so many at once; call it "
                "before the plates."
            )
        parts = np.split(vectors, np.cumsum(sizes)[:-1], axis=1)
        for site, part in zip(self.priors[latent], parts, strict=True):
            yield site, _finite(site.name, part)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
    rows = values.reshape(len(values), -1)
    bad = np.count_nonzero(~np.isfinite(rows).all(axis=1))
    if bad:
        raise ValueError(
            f"as_prior: {bad} of {len(rows)} draws of {name!r} are at the edge of its support, where rounding has put "
            "them; fit in float64."
        )
    return rows
