"""What ``AmortizedFit.correct`` of both shells shares: an amortised posterior at one data set as a guide's flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.bijections import Elementwise, Permute, TriangularAffine
from ppl_flows.combinators.at_context import AtContext
from ppl_flows.combinators.chain import Chain
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import POSITIVE, checked_seed, real_number, whole_number
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.types import Params
from ppl_flows.inference.gaussian_start import FULL_RANK_DIM
from ppl_flows.transformers import Affine

START = "amortised"  # what such a guide says of its start
ADVICE = "try correct with more steps, fit_amortized with more simulations, or fit with AutoFlow(model)"


class Correction(NamedTuple):
    """The options of ``AmortizedFit.correct``."""

    steps: int
    num_particles: int
    lr: float
    draws: int
    check_modes: bool
    seed: int
    progress: bool

    def check(self) -> None:
        """Raises TypeError or ValueError for those out of their range."""
        whole_number("correct", "steps", self.steps, 0)
        whole_number("correct", "num_particles", self.num_particles)
        real_number("correct", "lr", self.lr, *POSITIVE)
        whole_number("correct", "draws", self.draws, 2)
        checked_seed("correct", self.seed)


class Conditioned(NamedTuple):
    """An amortised posterior at one data set.

    Attributes:
        bijection, params: conditional, from a standard normal to the unconstrained latents; in NumPy.
        context: ``(context_dim,)``.
        sizes: of the latent sites, in the order of the bijection's vector: how many unconstrained numbers they take.
    """

    bijection: Bijection
    params: Params
    context: np.ndarray
    sizes: dict[str, int]

    def guide_flow(self, sites: Sequence[str]) -> tuple[Chain, Params]:
        """The flow of a guide whose latent vector has its sites in this order, and its first parameters.

        After the flow at its context comes an affine map, at the identity, that trains. Above ``FULL_RANK_DIM``
        dimensions it is a location and scale of each.

        Raises:
            ValueError: the sites are others.
        """
        if {*sites} != self.sizes.keys():
            raise ValueError(f"correct: the fit is of the latents {[*self.sizes]}, but the model has {[*sites]}.")
        dim = sum(self.sizes.values())
        affine = TriangularAffine(dim) if dim <= FULL_RANK_DIM else Elementwise(dim, Affine(max_log_scale=None))
        parts: dict[str, Bijection] = {"flow": AtContext(self.bijection)}
        if [*sites] != [*self.sizes]:
            ends = dict(zip(self.sizes, np.cumsum([*self.sizes.values()]), strict=True))
            order = [i for name in sites for i in range(ends[name] - self.sizes[name], ends[name])]
            parts["order"] = Permute(dim, order=tuple(map(int, order)))
        bijection = Chain({**parts, "affine": affine})
        first = {"part": self.params, "state": {"context": self.context}}
        return bijection, {**initial_params(bijection, 0), "flow": first}


def no_density(site: str, fn: Any) -> ValueError:
    """The error of a model without a likelihood."""
    return ValueError(
        f"correct: the data {site!r} come from a {type(fn).__name__}, which has no log_prob: such a model only "
        "simulates. Use sample, or learn its likelihood by fit_likelihood(model, ...)."
    )
