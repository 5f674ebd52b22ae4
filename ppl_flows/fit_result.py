"""What a fit returns, and what it raises; the same in both languages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.core.base import Base
from ppl_flows.core.bijection import Array, Bijection, Params

MAX_SKIPPED = 20  # steps running that are not finite before a fit gives up


class Training(NamedTuple):
    """What the optimiser's loop returns: as in ``FitResult``."""

    losses: np.ndarray
    skipped: int
    params: dict[str, Any]


class Elbo(NamedTuple):
    """Evidence lower bound in nats: Monte Carlo mean and its standard error."""

    mean: float
    se: float


@dataclass(frozen=True)
class FitResult:
    """A trained guide.

    Attributes:
        losses: negative ELBO estimate of every step, ``(steps,)``, in nats.
        skipped: number of steps whose loss or gradient was not finite; they moved nothing.
        params: the trained parameters, as the language names them.
        elbo: of the trained guide, from fresh draws.
        khat: Pareto k-hat of the importance weights of the same draws. Above 0.7 the guide is a poor proposal and
            its posterior should not be trusted; below 0.5 it is good. nan where a plate is sub-sampled, as the
            weights then carry the noise of the minibatches too.
    """

    losses: np.ndarray
    skipped: int
    params: dict[str, Any]
    elbo: Elbo
    khat: float
    _draw: Callable[[int, int], dict[str, Array]]

    def sample(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Posterior draws, ``{site: (num_samples, *site shape)}``, on each site's own support."""
        return self._draw(num_samples, seed)

    def __repr__(self) -> str:
        return f"FitResult(elbo={self.elbo.mean:.3f} ± {self.elbo.se:.3f} nats, khat={self.khat:.2f})"


@dataclass(frozen=True)
class DensityFit:
    """A density model trained by maximum likelihood.

    Attributes:
        losses: negative mean log-likelihood of every step's batch, ``(steps,)``, in nats per row.
        skipped: number of steps whose loss or gradient was not finite; they moved nothing.
        bijection: what was fitted: the given bijection and, on the data side, the scaling of the columns.
        params: its trained parameters; ``pf.save(path, fit.bijection, fit.params)`` keeps both.
        flow: the distribution they make, of the language, with parameters that no longer train.
        base, base_params: the base that was fitted with it, and its trained parameters; None and None if it was no
            ppl_flows Base. ``pf.save`` keeps them in a file of their own.
    """

    losses: np.ndarray
    skipped: int
    bijection: Bijection
    params: Params
    flow: Any
    base: Base | None = None
    base_params: Params | None = None

    def __repr__(self) -> str:
        return f"DensityFit(loss={self.losses[-len(self.losses) // 10 :].mean():.3f} nats per row)"


class FitError(RuntimeError):
    """The loss or its gradient was not finite for ``MAX_SKIPPED`` steps running.

    Attributes:
        step: the first of these steps, counted from 0.
        losses: of all steps so far.
        params: the last finite parameters.
    """

    def __init__(self, step: int, losses: np.ndarray, params: dict[str, Any]) -> None:
        super().__init__(
            f"the loss or its gradient is not finite since step {step}; the parameters before that step are in "
            "`.params` of this error. Look for NaN in the data and for draws at which the model's log density is not "
            "finite; or try a smaller lr or another init_loc_fn."
        )
        self.step, self.losses, self.params = step, losses, params


def learning_rate(step: Any, steps: int, xp: Any) -> Any:
    """Share of the learning rate at a step: up over the first 5 %, then a cosine to 0."""
    return xp.minimum(1.0, (step + 1) / max(0.05 * steps, 1.0)) * 0.5 * (1 + xp.cos(np.pi * step / steps))
