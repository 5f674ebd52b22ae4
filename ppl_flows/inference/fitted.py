"""A trained guide, as the results of fits ask for it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.special import softmax

from ppl_flows.core.checks import whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.flow_chains import BaseSpace
from ppl_flows.inference.kl_estimate import Scores
from ppl_flows.inference.model_runs import ModelRuns
from ppl_flows.inference.prior_source import PriorSource
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights


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

    def shares(self) -> np.ndarray:
        """Their smoothed weights, which sum to 1, ``(n,)``.

        Raises:
            ValueError: all of them are impossible under the model, or a density is infinite.
        """
        log_weights = np.where(np.isnan(self.log_weights), -np.inf, self.log_weights)
        shares: np.ndarray = softmax(smoothed_log_weights(log_weights)[0])
        if not np.all(np.isfinite(shares)):
            raise ValueError("no draw of the guide has a finite weight under the model; train it longer, or another.")
        return shares

    def resample(self, num_samples: int, seed: int) -> WeightedDraws:
        """So many of them, with replacement, by their ``shares``; errors as of these."""
        shares = self.shares()
        rows = np.random.default_rng(seed).choice(len(shares), size=num_samples, p=shares)
        return WeightedDraws(
            {name: value[rows] for name, value in self.draws.items()},
            Scores(self.scores.log_p[rows], self.scores.log_q[rows]),
            None if self.vectors is None else self.vectors[rows],
        )


class Fitted(Protocol):
    """A trained guide, of a language."""

    @property
    def subsampled(self) -> bool:
        """Whether a plate draws a minibatch."""

    @property
    def enumerates(self) -> bool:
        """Whether sites are summed over."""

    @property
    def latents(self) -> Collection[str]:
        """Names of the model's latent sites."""

    def draw(self, num_samples: int, seed: int) -> dict[str, Array]:
        """Draws of the guide, and the model's deterministic sites."""

    def complete(self, draws: dict[str, Array]) -> dict[str, Array]:
        """Draws, and the model's deterministic sites."""

    def weigh(self, num_samples: int, seed: int) -> WeightedDraws:
        """Draws of the guide, scored."""

    def score(self, vectors: np.ndarray) -> Scores:
        """Of what the guide makes of unconstrained vectors."""

    def place(self, vectors: np.ndarray) -> WeightedDraws:
        """What the guide makes of unconstrained vectors, scored."""

    def base_space(self) -> AbstractContextManager[BaseSpace]:
        """The posterior in the base space of the guide's flow.

        Raises:
            TypeError: the guide is no ``AutoFlow``.
            ValueError: a plate is sub-sampled.
        """

    @property
    def has_model(self) -> bool:
        """Whether it has its model and arguments: without them it draws, and no more."""

    def draw_with_log_q(self, num_samples: int, seed: int) -> tuple[dict[str, Array], np.ndarray]:
        """Draws of the guide alone, and its log density, as of their vectors; without the model."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the model, by name."""

    @property
    def words(self) -> dict[str, str]:
        """What guide it is, and the versions of its language."""

    def run_model(self, draws: dict[str, Array], seed: int, *, predictive: bool, log_likelihood: bool) -> ModelRuns:
        """Of the model at draws of all its latents."""

    def draw_prior(self, num_samples: int, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
        """Draws of the model itself: latents and deterministic sites, and observed sites."""

    @property
    def prior_source(self) -> PriorSource:
        """What a ``JointPrior`` can be made of."""

    def draw_discrete(self, draws: dict[str, Array], seed: int) -> dict[str, Array]:
        """Enumerated sites, given draws of the guide."""


def draw_in_batches(fitted: Fitted, num_samples: int, batch_size: int | None, seed: int) -> dict[str, Array]:
    """Draws of the guide, so many at a time, and then in NumPy; None: all at once.

    Raises:
        TypeError, ValueError: ``batch_size`` is no number of draws.
    """
    if batch_size is None:
        return fitted.draw(num_samples, seed)
    whole_number("sample", "batch_size", batch_size)
    seeds = map(int, np.random.SeedSequence(seed).generate_state(-(-num_samples // batch_size)))
    blocks = [{name: to_numpy(a) for name, a in fitted.draw(batch_size, own).items()} for own in seeds]
    return {name: np.concatenate([block[name] for block in blocks])[:num_samples] for name in blocks[0]}


def check_base_space(guide: Any, is_flow: bool, subsampled: bool) -> None:
    """Raises TypeError or ValueError where the posterior has no form in the base space of a guide's flow."""
    if not is_flow:
        raise TypeError(
            f"exact draws start from the base space of an AutoFlow, and the guide is {type(guide).__name__}; fit "
            "AutoFlow(model)."
        )
    if subsampled:
        raise ValueError("exact: a plate is sub-sampled, so the posterior's density is not known; run it at full size.")
