"""What a fit returns, and what it raises; the same in both languages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.schedule import Training
from ppl_flows.numerics.pareto_smoothing import smoothed_weights

MAX_SKIPPED = 20  # steps running that are not finite before a fit gives up
GOOD_KHAT, USABLE_KHAT = 0.5, 0.7  # Vehtari et al. (2024), arXiv:1507.02646, sec. 3.2.4
SAME_WEIGHTS = 0.1  # nats of spread below which weights are so nearly constant that their tail says nothing


class Elbo(NamedTuple):
    """Evidence lower bound in nats: Monte Carlo mean and its standard error."""

    mean: float
    se: float


class WeightedDraws(NamedTuple):
    """Draws of a guide, ``{site: (n, *site shape)}``, and ``log p(z, data) - log q(z)`` of each, ``(n,)``, in nats."""

    draws: dict[str, Array]
    log_weights: np.ndarray


@dataclass(frozen=True)
class FitResult:
    """A trained guide.

    Attributes:
        losses: negative ELBO estimate of every step taken, in nats; fewer than ``steps`` where the fit had converged.
        skipped: number of steps whose loss or gradient was not finite; they moved nothing.
        params: the trained parameters, as the language names them.
        elbo: of the trained guide, from fresh draws.
        khat: Pareto k-hat of the importance weights of the same draws. Above 0.7 the guide is a poor proposal and
            its posterior should not be trusted; below 0.5 it is good. nan where a plate is sub-sampled, as the
            weights then carry the noise of the minibatches too.
        ess: effective sample size of these weights, as a share of the draws, between 0 and 1; nan as for khat.
    """

    losses: np.ndarray
    skipped: int
    params: dict[str, Any]
    elbo: Elbo
    khat: float
    ess: float
    _spread: float  # standard deviation of the log weights, in nats
    _draw: Callable[[int, int], dict[str, Array]]
    _weigh: Callable[[int, int], WeightedDraws]
    _complete: Callable[[dict[str, Array]], dict[str, Array]]  # draws, and the model's deterministic sites

    @property
    def verdict(self) -> str:
        """Whether the posterior can be trusted, in one sentence."""
        if np.isnan(self.khat):
            return "not judged: importance weights of a sub-sampled likelihood carry the noise of its minibatches"
        seen = f"k-hat {self.khat:.2f}, effective sample size {self.ess:.0%} of the draws"
        if self.khat < GOOD_KHAT or self._spread < SAME_WEIGHTS:
            return f"good: {seen}"
        if self.khat < USABLE_KHAT:
            return f"usable with importance weights, result.reweighted(n): {seen}"
        return f"do not trust: {seen}; try quality='thorough', another flow, or another form of the model"

    def sample(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Posterior draws, ``{site: (num_samples, *site shape)}``, on each site's own support.

        The model's deterministic sites are among them, computed in one more run of the model; not where a plate is
        sub-sampled, or where the model draws what the guide does not, such as enumerated sites.

        Raises:
            TypeError, ValueError: a number of draws below 1, or a seed that is no whole number.
        """
        whole_number("sample", "num_samples", num_samples)
        return self._draw(num_samples, checked_seed("sample", seed))

    def reweighted(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Draws corrected by importance weights: resampled, with replacement, from four times as many of the guide's.

        The weights are Pareto-smoothed. Sites as in ``sample``.

        Raises:
            TypeError, ValueError: as in ``sample``.
            ValueError: a plate is sub-sampled, so that no weight is known exactly.
        """
        if np.isnan(self.khat):
            raise ValueError("reweighted: the likelihood is sub-sampled, so the weights are noisy; use sample.")
        whole_number("reweighted", "num_samples", num_samples)
        draws, log_weights = self._weigh(4 * num_samples, checked_seed("reweighted", seed))
        rows = np.random.default_rng(seed).choice(
            len(log_weights), size=num_samples, p=smoothed_weights(log_weights)[0]
        )
        return self._complete({name: value[rows] for name, value in draws.items()})

    def __repr__(self) -> str:
        elbo = f"elbo={self.elbo.mean:.3f} ± {self.elbo.se:.3f} nats after {len(self.losses):,} steps"
        return f"FitResult({elbo}; {self.verdict})"


def measure_fit(
    training: Training,
    draw: Callable[[int, int], dict[str, Array]],
    weigh: Callable[[int, int], WeightedDraws],
    complete: Callable[[dict[str, Array]], dict[str, Array]],
    *,
    num_draws: int,
    seed: int,
    subsampled: bool,
) -> FitResult:
    """The result of a training, measured by so many fresh draws."""
    log_weights = weigh(num_draws, seed).log_weights
    elbo = Elbo(float(log_weights.mean()), float(log_weights.std(ddof=1) / len(log_weights) ** 0.5))
    khat = ess = np.nan
    if not subsampled:
        weights, khat = smoothed_weights(log_weights)
        ess = float(1 / np.sum(weights**2) / len(weights))
    return FitResult(*training, elbo, khat, ess, float(log_weights.std()), draw, weigh, complete)


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
        encoder: from the rows of ``context`` to the flow's context, as trained; None if none was given.
        validation_losses: negative mean log-likelihood of the held-out rows after every twentieth of the steps, in nats
            per row; the parameters are those of the smallest. None if no rows were held out.
    """

    losses: np.ndarray
    skipped: int
    bijection: Bijection
    params: Params
    flow: Any
    base: Base | None = None
    base_params: Params | None = None
    encoder: Callable[[Any], Array] | None = None
    validation_losses: np.ndarray | None = None

    def __repr__(self) -> str:
        loss = f"loss={self.losses[-len(self.losses) // 10 :].mean():.3f}"
        if self.validation_losses is not None:
            loss += f", validation loss={self.validation_losses.min():.3f}"
        return f"DensityFit({self.bijection}, {loss} nats per row)"


@dataclass(frozen=True)
class AmortizedFit:
    """A posterior for every data set of a model.

    Attributes:
        density: the conditional flow over the unconstrained latents, and its training.
    """

    density: DensityFit
    _draw: Callable[[int, int, tuple[Any, ...], dict[str, Any]], dict[str, Array]]

    def sample(self, num_samples: int, *args: Any, seed: int = 1, **kwargs: Any) -> dict[str, Array]:
        """Posterior draws given the data in the model's arguments, ``{site: (num_samples, *site shape)}``."""
        whole_number("sample", "num_samples", num_samples)
        return self._draw(num_samples, checked_seed("sample", seed), args, kwargs)

    def __repr__(self) -> str:
        loss = self.density.losses[-len(self.density.losses) // 10 :].mean()
        return f"AmortizedFit({self.density.bijection}, loss={loss:.3f} nats per data set)"


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
