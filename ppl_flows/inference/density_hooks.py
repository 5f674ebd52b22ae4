"""What ``fit_amortized`` adds to the training of a density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.density import density_start


class DensityHooks(NamedTuple):
    """None, each: as ``fit_density`` has it.

    Attributes:
        start: from rows of the data and their contexts to what trains, and its first parameters.
        patience: after how many blocks without a smaller validation loss the training ends.
        vary: of the contexts of a step's rows, by as many uniform random numbers: others to train on.
        fresh: so many new rows and contexts, by the language's random key, for every step; the data given are then only
            what the training starts from.
    """

    start: Callable[[np.ndarray, np.ndarray | None], tuple[Bijection, Params]] | None = None
    patience: int | None = None
    vary: Callable[[Array, Array], Array] | None = None
    fresh: Callable[[int, Any], tuple[Array, Any]] | None = None


PLAIN = DensityHooks()


def first_params(
    hooks: DensityHooks,
    bijection: Bijection,
    data: np.ndarray,
    context: np.ndarray | None,
    *,
    standardize: bool | None,
    levels: int | None,
    seed: int,
) -> tuple[Bijection, Params]:
    """By the hook, or as ``density_start``."""
    if hooks.start is not None:
        return hooks.start(data, context)
    return density_start(bijection, data, context, standardize=standardize, levels=levels, seed=seed)
