"""What a fit returns, and what it raises; the same in both languages."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.special import softmax

from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.fitted import Fitted, WeightedDraws
from ppl_flows.inference.gaussian_start import Gaussian, gaussian_of_draws
from ppl_flows.inference.kl_estimate import Estimate, Scores, WideCheck, check_widely, kl_of_own_draws
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.pickling import PicklesOrSaysHow
from ppl_flows.inference.schedule import Training
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

Path: TypeAlias = str | os.PathLike[str]

MAX_SKIPPED = 20  # steps running that are not finite before a fit gives up
GOOD_KL, USABLE_KL = 0.05, 0.2  # nats
GOOD_MISSED, USABLE_MISSED = 0.01, 0.1  # share of the posterior where the guide has next to no draws
SURE_LOG_Z, USABLE_ESS = 0.1, 0.1


@dataclass(frozen=True)
class FitResult(PicklesOrSaysHow):
    """A trained guide.

    Attributes:
        losses: negative ELBO estimate of every step taken, in nats; fewer than ``steps`` where the fit had converged.
        skipped: number of steps whose loss or gradient was not finite; they moved nothing.
        params: the trained parameters, as the language names them.
        interrupted: whether Ctrl-C ended the training; the parameters are those of the last steps.
        elbo: of the trained guide, from fresh draws, in nats.
        kl: estimate of ``KL(guide || posterior)``, in nats: log evidence by importance sampling from these draws, or
            from these and some hundred wider ones, whichever is larger, minus the ELBO. It sees what the guide misses
            near where it is; a mode where none of these draws lands it does not see. nan where a plate is sub-sampled,
            as the weights then carry the noise of the minibatches too.
        khat: Pareto k-hat of the importance weights; above 0.7 ``reweighted`` is unreliable. nan as for kl. It says
            little about the KL.
        ess: effective sample size of these weights, as a share of the draws, between 0 and 1; nan as for kl.
    """

    way_out = "result.save(path) keeps the fit in a file, and AutoFlow.load(path, model) gives it back"

    losses: np.ndarray
    skipped: int
    params: dict[str, Any]
    interrupted: bool
    elbo: Estimate
    kl: Estimate
    khat: float
    ess: float
    _missed: float  # at least so much of the posterior lies where the guide has next to no draws
    _doubt: str  # why the guide cannot be called good, whatever its KL; empty: nothing
    _fitted: Fitted
    _write: Callable[[FitResult, Path], None]

    @property
    def verdict(self) -> str:
        """Whether the posterior can be trusted, and what to do next, in one sentence.

        "good" below a KL of 0.05 nats, where draws wider than the guide's agree; "usable after reweighting" below 0.2
        with an effective sample size of at least a tenth of the draws; else "do not trust".
        """
        if np.isnan(self.kl.mean):
            return "not judged: importance weights of a sub-sampled likelihood carry the noise of its minibatches"
        seen = f"KL {self.kl.mean:.3f} ± {self.kl.se:.3f} nats, effective sample size {self.ess:.0%} of the draws"
        if self.kl.mean < GOOD_KL and not self._doubt:
            return f"good: {seen}"
        seen += f"; {self._doubt}" if self._doubt else ""
        if self.kl.mean < USABLE_KL and self.ess >= USABLE_ESS and self._missed <= USABLE_MISSED:
            return f"usable after reweighting, result.reweighted(n): {seen}"
        return f"do not trust: {seen}; try quality='thorough', another flow, or another form of the model"

    @one_at_a_time
    def sample(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Posterior draws, ``{site: (num_samples, *site shape)}``, on each site's own support.

        The model's deterministic sites are among them, computed in one more run of the model; not where a plate is
        sub-sampled, or where the model draws what the guide does not, such as enumerated sites.

        Raises:
            TypeError, ValueError: a number of draws below 1, or a seed that is no whole number.
        """
        whole_number("sample", "num_samples", num_samples)
        return self._fitted.draw(num_samples, checked_seed("sample", seed))

    @one_at_a_time
    def reweighted(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Draws corrected by importance weights: resampled, with replacement, from four times as many of the guide's.

        The weights are Pareto-smoothed. Sites as in ``sample``.

        Raises:
            TypeError, ValueError: as in ``sample``.
            ValueError: a plate is sub-sampled, so that no weight is known exactly.
        """
        if np.isnan(self.kl.mean):
            raise ValueError("reweighted: the likelihood is sub-sampled, so the weights are noisy; use sample.")
        whole_number("reweighted", "num_samples", num_samples)
        weighted = self._fitted.weigh(4 * num_samples, checked_seed("reweighted", seed))
        weights = softmax(smoothed_log_weights(weighted.log_weights)[0])
        rows = np.random.default_rng(seed).choice(len(weights), size=num_samples, p=weights)
        return self._fitted.complete({name: value[rows] for name, value in weighted.draws.items()})

    @one_at_a_time
    def infer_discrete(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Joint posterior draws of all latents, ``{site: (num_samples, *site shape)}``, enumerated sites among them.

        The continuous ones are those of ``sample``; given each of them the enumerated sites are drawn from their exact
        conditional, by the language's own ``infer_discrete``.

        Raises:
            ValueError: the model has no enumerated sites, or a plate is sub-sampled.
        """
        if not self._fitted.enumerates:
            raise ValueError(
                'infer_discrete: the model has no latent that is marked infer={"enumerate": "parallel"} and that the '
                "guide leaves out; use sample."
            )
        if np.isnan(self.khat):
            raise ValueError("infer_discrete: a plate is sub-sampled, so the sites of most rows are unknown.")
        draws = self.sample(num_samples, seed=seed)
        return draws | self._fitted.draw_discrete(draws, seed)

    def save(self, path: Path) -> None:
        """Writes the fit to one file: the flow, the sites, the losses and the verdict, neither the model nor its data.

        ``AutoFlow.load(path, model)``, of either language, gives the guide and the result; ``pf.load(path)`` what is in
        the file, without a language.

        Raises:
            TypeError: the guide is no ``AutoFlow``.
            ValueError: a site whose support the other language has no word for, or a flow with a class that is not
                registered.
            OSError: what the system refuses, such as a full disk; an old file is kept.
        """
        self._write(self, path)

    def __repr__(self) -> str:
        elbo = f"elbo={self.elbo.mean:.3f} ± {self.elbo.se:.3f} nats after {len(self.losses):,} steps"
        elbo += ", interrupted" if self.interrupted else ""
        return f"FitResult({elbo}; {self.verdict})"


def measure_fit(
    training: Training,
    fitted: Fitted,
    *,
    near: Gaussian | None,
    num_draws: int,
    seed: int,
    write: Callable[[FitResult, Path], None],
) -> FitResult:
    """The result of a training, measured by so many fresh draws; ``near`` is a Gaussian near the posterior."""
    weighted = fitted.weigh(num_draws, seed)
    log_weights = weighted.log_weights
    with np.errstate(invalid="ignore"):  # of draws that are impossible under the model
        elbo = Estimate(float(log_weights.mean()), float(log_weights.std(ddof=1) / len(log_weights) ** 0.5))
    if fitted.subsampled:
        return FitResult(*training, elbo, Estimate(np.nan, np.nan), np.nan, np.nan, 0.0, "", fitted, write)
    smoothed, khat = smoothed_log_weights(np.where(np.isnan(log_weights), -np.inf, log_weights))
    ess = float(1 / np.sum(softmax(smoothed) ** 2) / len(smoothed))
    points = [name for name, value in weighted.draws.items() if bool((value == value[:1]).all())]
    kl, missed, doubt = kl_of_own_draws(log_weights), 0.0, ""
    wide = None if points or np.isinf(kl.mean) else check_around(weighted, fitted.score, near, seed)
    if points:
        kl, doubt = Estimate(np.inf, 0.0), f"the guide has but one point for {', '.join(points)}"
    elif np.isinf(kl.mean):
        doubt = "the guide makes draws that are impossible under the model"
    elif wide is None:
        doubt = "the guide can be scored at its own draws only, and not where it might have none"
    else:
        kl, missed = max(kl, wide.kl), wide.missed.mean - 2 * wide.missed.se
        if missed > GOOD_MISSED:
            doubt = f"{wide.missed.mean:.1%} of the posterior lie where the guide has next to no draws"
        elif wide.log_z_se > SURE_LOG_Z:
            doubt = f"draws beyond the guide's own leave the KL uncertain by {wide.log_z_se:.2f} nats"
    return FitResult(*training, elbo, kl, khat, ess, missed, doubt, fitted, write)


def check_around(
    weighted: WeightedDraws, score: Callable[[np.ndarray], Scores], near: Gaussian | None, seed: int
) -> WideCheck | None:
    """The check by wide draws, around a Gaussian or else around the guide; None where none can be made or scored."""
    if weighted.vectors is None:
        return None
    if near is None:
        try:
            near = gaussian_of_draws(weighted.vectors)
        except ValueError:  # a number that does not vary, or that is a function of others
            return None
    try:
        return check_widely(weighted.vectors, weighted.scores, score, near, seed)
    except NotImplementedError:  # a density without an inverse
        return None


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

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.losses, self.params)
