"""A learned likelihood in no language: what its file holds, in NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_flows.inference.learned_likelihood import context_shape
from ppl_flows.inference.saved_fits import SavedDensity
from ppl_flows.inference.saved_sites import Arrays, SavedSite, site_from_file, sites_to_file


@dataclass(frozen=True, eq=False)
class SavedLikelihood:
    """What ``pf.load`` gives of a learned likelihood; ``load_likelihood(path)`` of either language makes a
    ``LikelihoodFit`` of it.

    Attributes:
        density: the conditional flow over the row's unconstrained numbers.
        sites: the latents that it is given, in the order of the context.
        row: the observed site, of one row.
        scalers: centre and scale of the latents' numbers, by site.
    """

    density: SavedDensity
    sites: tuple[SavedSite, ...]
    row: SavedSite
    scalers: dict[str, tuple[np.ndarray, np.ndarray]]

    def __repr__(self) -> str:
        given = ", ".join(site.name for site in self.sites)
        return f"SavedLikelihood({self.row.name} given {given}; trained in {self.density.language})"


def likelihood_to_file(fit: SavedLikelihood) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All but the density."""
    sites, arrays = sites_to_file((fit.row, *fit.sites))
    for i, (centre, scale) in enumerate(fit.scalers.values()):
        arrays |= {f"scalers.{i}.centre": centre, f"scalers.{i}.scale": scale}
    return {"needs": None, "sites": sites}, arrays


def likelihood_from_file(density: SavedDensity, document: dict[str, Any], arrays: Arrays) -> SavedLikelihood:
    """The inverse of ``likelihood_to_file``.

    Raises:
        ValueError: arrays and sites do not go together, or it needs what this version does not know.
        KeyError, TypeError: something is not there, or of another kind.
    """
    if document["needs"] is not None:
        raise ValueError(f"it needs {document['needs']!r:.100}; a newer ppl_flows may read it.")
    row, *sites = (site_from_file(site, arrays, i) for i, site in enumerate(document["sites"]))
    scalers = {s.name: (arrays[f"scalers.{i}.centre"], arrays[f"scalers.{i}.scale"]) for i, s in enumerate(sites)}
    sizes = {site.name: (math.prod(context_shape(site)),) for site in sites}
    flow, wanted = density.bijection, (math.prod(row.numbers),)
    if len(sizes) < len(sites) or flow.output_shape != wanted or flow.context_dim != sum(n for (n,) in sizes.values()):
        raise ValueError(
            f"a row takes {wanted} numbers and its latents {sizes}, but the flow has shape {flow.output_shape} and a "
            f"context of {flow.context_dim}."
        )
    if any(a.shape != sizes[name] for name, pair in scalers.items() for a in pair):
        raise ValueError(f"the scales of the latents should have the shapes {sizes}.")
    return SavedLikelihood(density, tuple(sites), row, scalers)
