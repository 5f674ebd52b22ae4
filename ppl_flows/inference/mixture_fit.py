"""The training of a guide with several modes: each flow by itself, then their weights, then, if it pays, together."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from ppl_flows.inference.cover_modes import TOGETHER, mixture_weights
from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.kl_estimate import kl_of_own_draws
from ppl_flows.inference.schedule import Training

WEIGHING = 8_192  # draws that the weights are found by, or more where there are many modes
DRAWS_EACH = 256
JOINT_STEPS, JOINT_PARTICLES, JOINT_PARTICLES_EACH = 500, 64, 8
JOINT_RATE = 0.3  # of the learning rate


def joint_particles(count: int) -> int:
    """Draws of the mixture at each of the steps that train all of its flows together."""
    return max(JOINT_PARTICLES, JOINT_PARTICLES_EACH * count)


class Components(NamedTuple):
    """The flows of a guide.

    Attributes:
        bijection: of each, from a standard normal to the latent vector.
        params: every array has the components in front.
        log_weights: of them, ``(K,)``, in nats.
    """

    bijection: Any
    params: Any
    log_weights: Any


class MixtureTraining(Protocol):
    """What the training of a guide with several modes asks of a language."""

    count: int  # of modes

    def apart(self) -> Training:
        """Trains each flow by its own ELBO."""

    def together(self, trained: Training) -> Training:
        """Trains all from there by the ELBO of the mixture, by a few steps."""

    def with_weights(self, trained: Training, weights: np.ndarray) -> Training:
        """The same with these weights of the components."""

    def fitted(self, trained: Training) -> Fitted:
        """The guide at these parameters."""

    def component_log_probs(self, trained: Training, vectors: np.ndarray) -> np.ndarray:
        """log q of each component, ``(n, K)``."""


def train_mixture(training: MixtureTraining, seed: int) -> Training:
    """The training of all of it; its losses are those of the flows by themselves."""
    trained = _weighed(training, training.apart(), seed)
    before = _log_weights(training, trained, seed)
    if kl_of_own_draws(before).mean < TOGETHER or trained.interrupted:
        return trained
    other = _weighed(training, training.together(trained), seed)
    after = _log_weights(training, other, seed)
    if not after.mean() > before.mean():
        return trained
    return Training(trained.losses, trained.skipped + other.skipped, other.params, other.interrupted)


def _weighed(training: MixtureTraining, trained: Training, seed: int) -> Training:
    """With the weights that suit the flows."""
    k = training.count
    even = training.with_weights(trained, np.full(k, 1 / k))
    drawn = training.fitted(even).weigh(max(WEIGHING, DRAWS_EACH * k), seed + 1)
    log_p = np.where(np.isnan(drawn.scores.log_p), -np.inf, drawn.scores.log_p)
    log_q = np.nan_to_num(training.component_log_probs(trained, np.asarray(drawn.vectors)), nan=-np.inf)
    return training.with_weights(trained, mixture_weights(log_p, log_q))


def _log_weights(training: MixtureTraining, trained: Training, seed: int) -> np.ndarray:
    """Of draws of the mixture."""
    found = training.fitted(trained).weigh(WEIGHING, seed + 2).log_weights
    return np.where(np.isnan(found), -np.inf, found)


def check_mixture_options(guide: Any, **options: Any) -> None:
    """Raises ValueError for options of ``fit`` that a guide with several modes does not have."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name}= is not for a guide with {guide.num_modes} modes, whose training has parts of its own; leave "
                "it out, or use AutoFlow(model, modes=1)."
            )
