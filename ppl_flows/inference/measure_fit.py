"""``measure_fit``: what fresh draws of a trained guide say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import softmax

from ppl_flows.inference.evidence import importance_evidence, withheld
from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.kl_estimate import NOT_LOOKED, Estimate, Near, kl_of_own_draws
from ppl_flows.inference.local_gaussians import Landscape
from ppl_flows.inference.look_around import GOOD_MISSED, look_around
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.schedule import Training
from ppl_flows.inference.verdict import USABLE_KL, USABLE_MISSED
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

EVALUATION_DRAWS = 10_000  # of the final ELBO, unless it is told otherwise
SURE_LOG_Z = 0.1


def measure_fit(
    training: Training,
    fitted: Fitted,
    *,
    near: Sequence[Near],
    landscape: Landscape | None,
    num_draws: int,
    seed: int,
    write: Callable[[FitResult, Path], None],
) -> FitResult:
    """The result of a training, measured by so many fresh draws.

    Args:
        near: Gaussians near the posterior; none: that of the guide's draws.
        landscape: where other modes are looked for; None: they are not.
    """
    weighted = fitted.weigh(num_draws, seed)
    log_weights = weighted.log_weights
    with np.errstate(invalid="ignore"):  # of draws that are impossible under the model
        elbo = Estimate(float(log_weights.mean()), float(log_weights.std(ddof=1) / len(log_weights) ** 0.5))
    if fitted.subsampled:
        none = withheld("the likelihood is sub-sampled, and the weights carry the noise of its minibatches")
        unknown = Estimate(np.nan, np.nan), np.nan, np.nan
        return FitResult(*training, elbo, *unknown, none, 0.0, "", NOT_LOOKED, fitted, write)
    smoothed, khat = smoothed_log_weights(np.where(np.isnan(log_weights), -np.inf, log_weights))
    ess = float(1 / np.sum(softmax(smoothed) ** 2) / len(smoothed))
    points = [name for name, value in weighted.draws.items() if bool((value == value[:1]).all())]
    kl, missed, doubt = kl_of_own_draws(log_weights), 0.0, ""
    seen = None if points or np.isinf(kl.mean) else look_around(weighted, fitted, near, landscape, seed)
    modes = NOT_LOOKED if seen is None else seen.modes
    if points:
        kl, doubt = Estimate(np.inf, 0.0), f"the guide has but one point for {', '.join(points)}"
    elif np.isinf(kl.mean):
        doubt = "the guide makes draws that are impossible under the model"
    elif seen is None:
        doubt = "the guide can be scored at its own draws only, and not where it might have none"
    else:
        kl, missed = max(kl, seen.kl), seen.missed
        if modes.missed or modes.unclear:
            doubt = modes.words
        elif missed > GOOD_MISSED:
            doubt = f"{missed:.1%} of the posterior, or more, lie where the guide has next to no draws"
        elif seen.log_z_se > SURE_LOG_Z:
            doubt = f"draws beyond the guide's own leave the KL uncertain by {seen.log_z_se:.2f} nats"
    if kl.mean > USABLE_KL:
        evidence = withheld(f"KL {kl.mean:.3g} nats, above {USABLE_KL}")
    elif missed > USABLE_MISSED or modes.missed:
        evidence = withheld(doubt)
    else:
        evidence = importance_evidence(log_weights, kl.mean)
    return FitResult(*training, elbo, kl, khat, ess, evidence, missed, doubt, modes, fitted, write)
