"""A trained guide, as the results of fits ask for it."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from ppl_flows.core.types import Array
from ppl_flows.inference.kl_estimate import Scores


class WeightedDraws(NamedTuple):
    """Draws of a guide, ``{site: (n, *site shape)}``, and what ``kl_estimate`` calls their vectors and scores.

    The vectors, ``(n, dim)``, are None where they do not say all: for discrete numbers, or more than the model has.
    """

    draws: dict[str, Array]
    scores: Scores
    vectors: np.ndarray | None

    @property
    def log_weights(self) -> np.ndarray:
        """``log p(z, data) - log q(z)`` of each draw, ``(n,)``."""
        return np.asarray(self.scores.log_p - self.scores.log_q)


class Fitted(Protocol):
    """A trained guide, of a language."""

    @property
    def subsampled(self) -> bool:
        """Whether a plate draws a minibatch."""

    @property
    def enumerates(self) -> bool:
        """Whether sites are summed over."""

    def draw(self, num_samples: int, seed: int) -> dict[str, Array]:
        """Draws of the guide, and the model's deterministic sites."""

    def complete(self, draws: dict[str, Array]) -> dict[str, Array]:
        """Draws, and the model's deterministic sites."""

    def weigh(self, num_samples: int, seed: int) -> WeightedDraws:
        """Draws of the guide, scored."""

    def score(self, vectors: np.ndarray) -> Scores:
        """Of what the guide makes of unconstrained vectors."""

    def draw_discrete(self, draws: dict[str, Array], seed: int) -> dict[str, Array]:
        """Enumerated sites, given draws of the guide."""
