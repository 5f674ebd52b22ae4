"""``JointPrior``: the posterior of one model as a prior of the next, as far as both languages share it."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias

import numpy as np

from ppl_flows.core.types import Array
from ppl_flows.inference.neutral_supports import NeutralSupports
from ppl_flows.inference.saved_priors import SavedPrior
from ppl_flows.inference.saved_sites import SavedSite

Priors: TypeAlias = dict[str, tuple[SavedSite, ...]]  # by a latent that a JointPrior draws


def priors_of(latents: Mapping[str, Any]) -> Priors:
    """Of the latent sites of a trace, those that a ``JointPrior`` draws, and the sites that they are made of."""
    found = {name: _prior_sites(site["fn"]) for name, site in latents.items()}
    return {name: sites for name, sites in found.items() if sites}


def _prior_sites(distribution: Any) -> tuple[SavedSite, ...]:
    """Of a ``PriorFlow``, below what a host has wrapped it in."""
    while not hasattr(distribution, "prior_sites") and hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return getattr(distribution, "prior_sites", ())


class SitesPrior(abc.ABC):
    """What ``JointPrior`` of both languages is.

    Attributes:
        saved: it, in no language.
        flow: the distribution of the sites' unconstrained numbers, ``(dim,)``; its parameters do not train.
    """

    supports: ClassVar[NeutralSupports]
    flow: Any

    def __init__(self, saved: SavedPrior) -> None:
        if not isinstance(saved, SavedPrior):
            raise TypeError(
                f"{type(self).__name__} takes a SavedPrior, which pf.load gives, got a {type(saved).__name__}; "
                "result.as_prior() makes one of a fit, and JointPrior.load(path) of a file."
            )
        self.saved = saved
        self._maps = [self.supports.transform(site) for site in saved.sites]
        self.flow = self._make_flow()

    @property
    def sites(self) -> dict[str, tuple[int, ...]]:
        """The sites, and the shape of each."""
        return {site.name: site.shape for site in self.saved.sites}

    def __call__(self, name: str) -> dict[str, Array]:
        """Inside a model: draws the sites jointly, and gives their values, ``{site: value}``.

        The model has one latent site more, ``name``, of their unconstrained numbers, and each site under its own name,
        on its own support, as a deterministic one. To be called outside of plates.

        Raises:
            ValueError: the name is that of one of the sites; the call is inside a plate.
        """
        if name in self.sites:
            raise ValueError(
                f"JointPrior: {name!r} is one of its sites, which it registers under their own names; give the latent "
                "site that they are made of another one, such as 'yesterday'."
            )
        vector = self._sample(name)
        return {site: self._register(site, value) for site, value in self._values(name, vector)}

    def constrain(self, vectors: Array) -> dict[str, Array]:
        """The sites that unconstrained vectors, ``(*batch, dim)``, stand for: ``{site: (*batch, *site shape)}``.

        Raises:
            ValueError: vectors of another size.
        """
        dim = sum(math.prod(site.numbers) for site in self.saved.sites)
        if tuple(vectors.shape[-1:]) != (dim,):
            raise ValueError(
                f"{type(self).__name__}: constrain takes vectors of shape (*batch, {dim}), got {tuple(vectors.shape)}."
            )
        parts = self._parts(vectors)
        return {
            site.name: transform(part.reshape((*vectors.shape[:-1], *site.numbers)))
            for site, transform, part in zip(self.saved.sites, self._maps, parts, strict=True)
        }

    def _values(self, name: str, vector: Array) -> Iterator[tuple[str, Array]]:
        """Sites whose axes of plates are where the host has those of plates, right of the axes of its particles."""
        batch = tuple(vector.shape[:-1])
        for site, transform, part in zip(self.saved.sites, self._maps, self._parts(vector), strict=True):
            plates = len(site.numbers) - transform.domain.event_dim
            outer, inner = batch[: max(0, len(batch) - plates)], batch[max(0, len(batch) - plates) :]
            if any(size != 1 for size in inner):
                raise ValueError(
                    f"JointPrior: {name!r} is drawn in a plate, where {site.name!r} of shape {site.shape} has no "
                    "place; call the prior before the plates, and use its values in them."
                )
            yield site.name, transform(part.reshape((*outer, *site.numbers)))

    def _parts(self, vectors: Array) -> list[Array]:
        ends = np.cumsum([0, *(math.prod(site.numbers) for site in self.saved.sites)])
        return [vectors[..., a:b] for a, b in pairwise(ends)]

    @abc.abstractmethod
    def _make_flow(self) -> Any: ...

    @abc.abstractmethod
    def _sample(self, name: str) -> Array: ...

    @abc.abstractmethod
    def _register(self, name: str, value: Array) -> Array: ...

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.saved,)

    def __repr__(self) -> str:
        made = f"fitted to {self.saved.draws:,} draws" if self.saved.draws else "the guide's own flow"
        sites = ", ".join(f"{name} {shape}" if shape else name for name, shape in self.sites.items())
        return f"{type(self).__name__}({sites}; {made}; {self.saved.verdict})"
