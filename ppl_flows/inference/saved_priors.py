"""A posterior that is the next model's prior, in no language: what its file holds, in NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.types import Params
from ppl_flows.inference.saved_sites import Arrays, SavedSite, site_from_file, sites_to_file


@dataclass(frozen=True, eq=False)
class SavedPrior:
    """What ``pf.load`` gives of a ``JointPrior``; ``JointPrior.load(path)`` of either language makes one of it.

    Attributes:
        bijection, params: from a standard normal to the unconstrained numbers of the sites, one after the other.
        sites: in that order.
        verdict: on the fit that it was made of.
        draws: of the posterior, that the flow was fitted to; 0: it is the guide's own flow.
        language: of that fit.
        versions: of ppl_flows, and of the language's packages.

    Raises:
        ValueError: the sites take another number of numbers than the flow gives, or two have one name.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow, fit
        >>> pyro.clear_param_store()
        >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> guide = AutoFlow(model, pf.TriangularAffine, start="init")
        >>> prior = fit(model, guide, steps=2, draws=100, progress=False).as_prior(reweighted=False)
        >>> prior.saved.sites
        (SavedSite('z', (), real),)
    """

    bijection: Bijection
    params: Params
    sites: tuple[SavedSite, ...]
    verdict: str
    draws: int
    language: str
    versions: dict[str, str]

    def __post_init__(self) -> None:
        size = sum(math.prod(site.numbers) for site in self.sites)
        flow = self.bijection
        if flow.event_shape != (size,) or flow.output_shape != (size,) or flow.context_dim:
            raise ValueError(f"the sites take {size} numbers, but the flow is {flow}.")
        if len({site.name for site in self.sites}) < max(1, len(self.sites)):
            raise ValueError(f"a prior has sites of different names, got {[site.name for site in self.sites]}.")

    def __repr__(self) -> str:
        return f"SavedPrior({', '.join(site.name for site in self.sites)}; made in {self.language}; {self.verdict})"


def prior_to_file(prior: SavedPrior) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All but bijection and params: what JSON takes, and arrays."""
    sites, arrays = sites_to_file(prior.sites)
    plain = {name: getattr(prior, name) for name in ("verdict", "draws", "language", "versions")}
    return {"needs": None, "sites": sites, **plain}, arrays


def prior_from_file(bijection: Bijection, params: Params, document: dict[str, Any], arrays: Arrays) -> SavedPrior:
    """The inverse of ``prior_to_file``.

    Raises:
        ValueError: arrays and sites do not go together, or the prior needs what this version does not know.
        KeyError, TypeError: something is not there, or of another kind.
    """
    if document["needs"] is not None:
        raise ValueError(f"it needs {document['needs']!r} to draw; a newer ppl_flows may read it.")
    draws = document["draws"]
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 0:
        raise ValueError(f"draws should be a number of draws, got {draws!r:.100}.")
    return SavedPrior(
        bijection,
        params,
        tuple(site_from_file(site, arrays, i) for i, site in enumerate(document["sites"])),
        str(document["verdict"]),
        draws,
        str(document["language"]),
        {str(k): str(v) for k, v in document["versions"].items()},
    )
