"""The training of an ``AutoFlow`` with several modes, as ``train_mixture`` asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.mixture_fit import JOINT_RATE, JOINT_STEPS, joint_particles
from ppl_flows.inference.schedule import Training
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.compile_once import Program
from ppl_flows.numpyro.elbo import Choice
from ppl_flows.numpyro.guide import AutoFlow
from ppl_flows.numpyro.log_density import blocks_of_rows
from ppl_flows.numpyro.mixture import ComponentsELBO

ROWS = 1_024  # that are scored at once


@dataclass
class NumPyroMixture:
    """Of one fit.

    Attributes:
        loop: ``train``, but for what changes.
        make_fitted: the guide at parameters.
    """

    guide: AutoFlow
    loop: Callable[..., Training]
    make_fitted: Callable[[dict[str, Any]], Fitted]
    choice: Choice
    key: jax.Array
    steps: int
    lr: float
    tolerance: float | None
    init_params: dict[str, Any] | None

    def __post_init__(self) -> None:
        self.count, self._name = self.guide.num_modes, f"{self.guide.prefix}_flow"
        self._score = Program(lambda params, rows: self.guide._mixture(params).component_log_probs(rows), calls=10)

    def apart(self) -> Training:
        """Trains each flow by its own ELBO."""
        each = type(self.choice.elbo)(num_particles=max(1, self.choice.elbo.num_particles // self.count))
        elbo = ComponentsELBO(each, self._name, self.guide)
        with self.guide.in_fit():
            return self.loop(
                self.key, elbo, steps=self.steps, lr=self.lr, tolerance=self.tolerance, init_params=self.init_params
            )

    def together(self, trained: Training) -> Training:
        """Trains all from there by the ELBO of the mixture, by a few steps."""
        elbo, steps = type(self.choice.elbo)(num_particles=joint_particles(self.count)), min(self.steps, JOINT_STEPS)
        key = jax.random.fold_in(self.key, 1)
        with self.guide.in_fit():
            return self.loop(key, elbo, steps=steps, lr=JOINT_RATE * self.lr, init_params=trained.params)

    def with_weights(self, trained: Training, weights: np.ndarray) -> Training:
        """The same with these weights of the components."""
        own = trained.params[self._name]
        state = {"log_weights": to_array(np.log(weights).astype(own["state"]["log_weights"].dtype))}
        return trained._replace(params={**trained.params, self._name: {**own, "state": state}})

    def fitted(self, trained: Training) -> Fitted:
        """The guide at these parameters."""
        return self.make_fitted(trained.params)

    def component_log_probs(self, trained: Training, vectors: np.ndarray) -> np.ndarray:
        """log q of each component, ``(n, K)``."""
        blocks = blocks_of_rows(vectors.astype(jax.dtypes.canonicalize_dtype(float)), ROWS)
        rows = [np.asarray(self._score(trained.params[self._name], block), np.float64) for block in blocks]
        return np.concatenate(rows)[: len(vectors)]
