"""Where a guide starts: which coordinates it has, and which Gaussian in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppl_flows.inference.block_start import block_start
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.gaussian_start import Density
from ppl_flows.inference.informed_start import Coordinates, informed_start
from ppl_flows.inference.low_rank import find_gaussian
from ppl_flows.inference.model_map import ModelMap, Observations

GAIN = 0.5  # nats that a Gaussian may lack, not to look for another one
REST = 2 / 3  # of what a Gaussian lacks, that one with a block may still lack: its steps cost several times as much


class Start(NamedTuple):
    """What a search finds.

    Attributes:
        gaussian: of the latent vector, or, where there is a map, of its coordinates.
        informed: the map.
        observations: what that starts from.
    """

    gaussian: Gaussian
    informed: ModelMap | None = None
    observations: Observations | None = None


def find_start(
    kind: str,
    density: Density,
    coordinates: Coordinates | None,
    init: np.ndarray,
    seed: int,
    *,
    always: bool,
    block: bool,
) -> Start:
    """The best of the spaces, by the ELBO of the Gaussian found there.

    The latent space is not looked at where it could gain little beside the coordinates that the priors make; nor are
    those with a block, which the log density places, beside these two. These must leave less over by a third, too.

    Args:
        coordinates: None: there is no other space than the latent one.
        always: the coordinates that the priors make, whatever the ELBO.
        block: whether there may be one.
    """
    if coordinates is None:
        return Start(find_gaussian(kind, density, init, seed))
    informed = coordinates.informed
    found = Start(Gaussian(init, np.ones(len(init))))  # worse than all others
    if informed.placed:
        gaussian, seen = informed_start(kind, coordinates, density, init, seed)
        found = Start(gaussian, informed, seen)
        if always or gaussian.kl < GAIN:
            return found
    plain = find_gaussian(kind, density, init, seed)
    if not found.gaussian.elbo > plain.elbo:
        found = Start(plain)
    if not block or kind == "laplace" or found.gaussian.kl < GAIN:
        return found
    base = coordinates.of(found.informed or informed.without_priors())
    seen = base.informed.no_observations() if found.observations is None else found.observations
    better = block_start(base, found.gaussian, seen, seed, gain=GAIN)
    if (
        better is None
        or not better.gaussian.elbo > found.gaussian.elbo
        or better.gaussian.kl > REST * found.gaussian.kl
    ):
        return found
    return Start(better.gaussian, better.informed, better.observations)
