"""KL(guide || posterior) from importance weights: of the guide's own draws, and of draws from where it might not be.

Vectors u are the random numbers of a guide on the unconstrained scale, ``(n, dim)``; log p is the model's log density
of what the guide makes of them, as one of u, and log q the guide's. In nats, NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import gammaln, logsumexp

from ppl_flows.inference.gaussian_start import Gaussian
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

Array = np.ndarray

WIDE_DRAWS, FREEDOM = 500, 5.0  # from a Student-t: heavier tails than a posterior's, at little cost in many dimensions
MISSED = 10.0  # times that the guide's density is too small where it misses mass


class Estimate(NamedTuple):
    """Monte Carlo mean and its standard error."""

    mean: float
    se: float


class Scores(NamedTuple):
    """log p and log q of vectors, ``(n,)`` each."""

    log_p: Array
    log_q: Array


class WideCheck(NamedTuple):
    """What draws that are not the guide's own say of it.

    Attributes:
        kl: log evidence by importance sampling from the guide's draws and the wide ones together, minus the ELBO.
        log_z_se: standard error of that log evidence.
        missed: share of the posterior where its density is more than ten times the guide's.
    """

    kl: Estimate
    log_z_se: float
    missed: Estimate


def kl_of_own_draws(log_weights: Array) -> Estimate:
    """Log evidence by smoothed importance sampling from the guide, minus the ELBO.

    Infinite where a draw is impossible under the model, or its density is no number.
    """
    if not np.all(np.isfinite(log_weights)):
        return Estimate(np.inf, 0.0)
    smoothed = smoothed_log_weights(log_weights)[0]
    log_z = logsumexp(smoothed) - np.log(len(smoothed))
    influence = np.exp(smoothed - log_z) - log_weights
    return Estimate(float(log_z - log_weights.mean()), float(influence.std(ddof=1) / len(smoothed) ** 0.5))


def check_widely(
    vectors: Array, own: Scores, score: Callable[[Array], Scores], around: Gaussian, seed: int
) -> WideCheck:
    """Scores draws from a Student-t around a Gaussian, beside those of the guide at these vectors."""
    wide = student_t_draws(around, WIDE_DRAWS, np.random.default_rng(seed))
    there = score(wide)
    n, m = len(vectors), len(wide)
    share = n / (n + m)
    log_p, log_q = (np.concatenate(pair) for pair in zip(own, there, strict=True))
    log_p = np.where(np.isnan(log_p), -np.inf, log_p)  # where a model's distributions have no parameters
    log_t = student_t_log_density(around, np.concatenate([vectors, wide]))
    log_mixture = np.logaddexp(np.log(share) + log_q, np.log1p(-share) + log_t)
    log_z = logsumexp(log_p - log_mixture) - np.log(n + m)
    weights = np.exp(log_p - log_mixture - log_z)

    def standard_error(terms: Array) -> float:
        """Of the mean of terms over both kinds of draws, whose numbers are fixed."""
        return float(np.hypot(share * terms[:n].std() / n**0.5, (1 - share) * terms[n:].std() / m**0.5))

    elbo_terms = np.concatenate([(own.log_p - own.log_q) / share, np.zeros(m)])
    missed = weights * (log_p > log_q + log_z + np.log(MISSED))
    return WideCheck(
        Estimate(float(log_z - elbo_terms.mean()), standard_error(weights - elbo_terms)),
        standard_error(weights),
        Estimate(float(missed.mean()), standard_error(missed)),
    )


def student_t_draws(around: Gaussian, n: int, rng: np.random.Generator) -> Array:
    """Draws ``(n, dim)`` of the Student-t with this Gaussian's location and scale."""
    normal = rng.standard_normal((n, len(around.mean)))
    return around.draw(normal * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (n, 1))))


def student_t_log_density(around: Gaussian, u: Array) -> Array:
    """Log density of the same Student-t at vectors ``(n, dim)``."""
    dim, off = len(around.mean), u - around.mean
    z = off / around.factor if around.factor.ndim == 1 else solve_triangular(around.factor, off.T, lower=True).T
    constant = gammaln((FREEDOM + dim) / 2) - gammaln(FREEDOM / 2) - dim / 2 * np.log(FREEDOM * np.pi)
    log_density = constant - (FREEDOM + dim) / 2 * np.log1p((z**2).sum(1) / FREEDOM) - np.log(around.diagonal).sum()
    return np.asarray(log_density)
