"""The training of an ``AutoFlow`` with several modes, as ``train_mixture`` asks for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch

from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.mixture_fit import JOINT_RATE, JOINT_STEPS, joint_particles
from ppl_flows.inference.schedule import Training
from ppl_flows.pyro.guide import AutoFlow
from ppl_flows.pyro.importance import store_at

ROWS = 1_024  # that are scored at once


@dataclass
class PyroMixture:
    """Of one fit.

    Attributes:
        loop: ``train``, but for what changes.
        make_fitted: the guide at parameters.
        elbo: that ``fit`` chose.
    """

    guide: AutoFlow
    loop: Callable[..., Training]
    make_fitted: Callable[[dict[str, Any]], Fitted]
    elbo: Any
    num_particles: int
    steps: int
    lr: float
    tolerance: float | None

    def __post_init__(self) -> None:
        self.count = self.guide.num_modes

    def _elbo(self, num_particles: int) -> Any:
        elbo = copy.copy(self.elbo)
        elbo.num_particles = num_particles
        return elbo

    def apart(self) -> Training:
        """Trains each flow by its own ELBO."""
        elbo = self._elbo(max(1, self.num_particles // self.count) * self.count)
        with self.guide.in_fit(apart=True):
            trained = self.loop(elbo, steps=self.steps, lr=self.lr, tolerance=self.tolerance)
        return trained._replace(params={**trained.params, self.guide.weights_name: self.guide.log_weights.clone()})

    def together(self, trained: Training) -> Training:
        """Trains all from there by the ELBO of the mixture, by a few steps."""
        self._set(trained)
        with self.guide.in_fit():
            return self.loop(
                self._elbo(joint_particles(self.count)), steps=min(self.steps, JOINT_STEPS), lr=JOINT_RATE * self.lr
            )

    def with_weights(self, trained: Training, weights: np.ndarray) -> Training:
        """The same with these weights of the components."""
        log_weights = torch.as_tensor(np.log(weights)).to(self.guide.log_weights)
        return trained._replace(params={**trained.params, self.guide.weights_name: log_weights})

    def fitted(self, trained: Training) -> Fitted:
        """The guide at these parameters."""
        return self.make_fitted(trained.params)

    @torch.no_grad()
    def component_log_probs(self, trained: Training, vectors: np.ndarray) -> np.ndarray:
        """log q of each component, ``(n, K)``."""
        with store_at(trained.params, pyro.get_param_store().get_state()):
            mixture: Any = self.guide.get_posterior()
            rows = torch.as_tensor(vectors).to(self.guide.log_weights).split(ROWS)
            return np.concatenate([mixture.component_log_probs(block).double().cpu().numpy() for block in rows])

    def settle(self, trained: Training) -> None:
        """Guide and store are at these parameters."""
        self._set(trained)

    def _set(self, trained: Training) -> None:
        store = pyro.get_param_store()
        with torch.no_grad():
            for name, value in trained.params.items():
                store[name].detach().copy_(value)  # in place, as the guide owns them
            self.guide.log_weights.copy_(trained.params[self.guide.weights_name])
