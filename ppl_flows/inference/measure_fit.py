"""``measure_fit``: what fresh draws of a trained guide say of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from ppl_flows.inference.evidence import importance_evidence, withheld
from ppl_flows.inference.fitted import Fitted, WeightedDraws
from ppl_flows.inference.gaussian_start import Gaussian, gaussian_of_draws
from ppl_flows.inference.kl_estimate import Estimate, Scores, WideCheck, check_widely, kl_of_own_draws
from ppl_flows.inference.results import USABLE_KL, USABLE_MISSED, FitResult, Path
from ppl_flows.inference.schedule import Training
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

GOOD_MISSED = 0.01  # share of the posterior where the guide has next to no draws
SURE_LOG_Z = 0.1


Map = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Near(NamedTuple):
    """A Gaussian near the posterior, of the latent vector or of coordinates of it.

    Attributes:
        gaussian: of them.
        place: coordinates ``(n, dim)`` to latent vectors and log det, ``(n,)``; None: they are the same.
        unplace: the way back.
    """

    gaussian: Gaussian
    place: Map | None = None
    unplace: Map | None = None


def measure_fit(
    training: Training,
    fitted: Fitted,
    *,
    near: Near | None,
    num_draws: int,
    seed: int,
    write: Callable[[FitResult, Path], None],
) -> FitResult:
    """The result of a training, measured by so many fresh draws; ``near`` is near the posterior."""
    weighted = fitted.weigh(num_draws, seed)
    log_weights = weighted.log_weights
    with np.errstate(invalid="ignore"):  # of draws that are impossible under the model
        elbo = Estimate(float(log_weights.mean()), float(log_weights.std(ddof=1) / len(log_weights) ** 0.5))
    if fitted.subsampled:
        none = withheld("the likelihood is sub-sampled, and the weights carry the noise of its minibatches")
        return FitResult(*training, elbo, Estimate(np.nan, np.nan), np.nan, np.nan, none, 0.0, "", fitted, write)
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
    if kl.mean > USABLE_KL:
        evidence = withheld(f"KL {kl.mean:.3g} nats, above {USABLE_KL}")
    elif missed > USABLE_MISSED:
        evidence = withheld(doubt)
    else:
        evidence = importance_evidence(log_weights, kl.mean)
    return FitResult(*training, elbo, kl, khat, ess, evidence, missed, doubt, fitted, write)


def check_around(
    weighted: WeightedDraws, score: Callable[[np.ndarray], Scores], near: Near | None, seed: int
) -> WideCheck | None:
    """The check by wide draws, around a Gaussian or else around the guide; None where none can be made or scored."""
    if weighted.vectors is None:
        return None
    vectors, own, score_there = weighted.vectors, weighted.scores, score
    if near is None:
        try:
            near = Near(gaussian_of_draws(vectors))
        except ValueError:  # a number that does not vary, or that is a function of others
            return None
    if near.place and near.unplace:
        place, (vectors, log_det) = near.place, near.unplace(vectors)
        own = _moved(own, -log_det)

        def score_there(w: np.ndarray) -> Scores:
            u, log_det = place(w)
            return _moved(score(u), log_det)

    try:
        return check_widely(vectors, own, score_there, near.gaussian, seed)
    except NotImplementedError:  # a density without an inverse
        return None


def _moved(scores: Scores, log_det: np.ndarray) -> Scores:
    """As densities of coordinates, by the log det of the way from these."""
    return Scores(scores.log_p + log_det, scores.log_q + log_det)
