"""Diagnostics of importance weights. NumPy only."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax


def pareto_khat(log_weights: np.ndarray) -> float:
    """Shape k of a generalised Pareto distribution fitted to the upper tail of importance weights.

    Args:
        log_weights: ``log p(z, data) - log q(z)`` of draws z from q, ``(n,)``, in nats, up to a constant.

    Returns:
        k-hat; infinite if fewer than 5 tail draws differ from the cutoff, or a weight is not finite.

    Reference: Vehtari et al. (2024), Pareto Smoothed Importance Sampling, arXiv:1507.02646.
    """
    return smoothed_log_weights(log_weights)[1]


def pareto_log_mean(log_weights: np.ndarray) -> float:
    """Log of the mean weight, the largest weights taken to have the mean of the Pareto distribution fitted to them.

    Args:
        log_weights: as in ``pareto_khat``, finite or minus infinity.

    Returns:
        In nats; the plain log mean where the tail is too small to be fitted, or has no mean (k of 1 or more).
    """
    largest = log_weights.max()
    weights = np.exp(log_weights - largest)
    tail, cutoff = _tail(weights)
    if tail.size > 4:
        k, sigma = _generalised_pareto(weights[tail] - cutoff)
        if k < 1:
            weights[tail] = cutoff + sigma / (1 - k)
    return float(largest + np.log(weights.mean()))


def smoothed_log_weights(log_weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Log importance weights, the largest of which are replaced by quantiles of the Pareto distribution fitted to them.

    Args:
        log_weights: as in ``pareto_khat``.

    Returns:
        The log weights, ``(n,)``, not normalised: the log of their mean is the log evidence; and k-hat. Where k-hat is
        infinite nothing is smoothed; where a weight is infinite or nan they are all nan.

    Reference: Vehtari et al. (2024), arXiv:1507.02646, sec. 3.
    """
    smoothed = np.array(log_weights, dtype=np.float64)
    n = smoothed.size
    if not np.all(smoothed < np.inf):
        return np.full(n, np.nan), np.inf
    largest = smoothed.max()
    weights = np.exp(smoothed - largest)
    tail, cutoff = _tail(weights)
    if tail.size <= 4:
        return smoothed, np.inf
    k, sigma = _generalised_pareto(weights[tail] - cutoff)
    p = (np.arange(tail.size) + 0.5) / tail.size
    quantiles = -np.log1p(-p) if k == 0 else np.expm1(-k * np.log1p(-p)) / k
    # never beyond the largest weight that was seen
    smoothed[tail] = largest + np.log(np.minimum(cutoff + sigma * quantiles, 1.0))
    return smoothed, k


def _tail(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Where the largest weights are, the smallest first, and the largest of the others."""
    n, order = weights.size, np.argsort(weights)
    tail = order[-int(np.ceil(min(0.2 * n, 3 * np.sqrt(n)))) :]
    cutoff = max(weights[order[-len(tail) - 1]], np.finfo(float).tiny)
    return tail[weights[tail] > cutoff], cutoff


def _generalised_pareto(x: np.ndarray) -> tuple[float, float]:
    """Posterior-mean estimate of shape and scale from sorted exceedances x.

    Reference: Zhang & Stephens (2009), A new and efficient estimation method for the generalized Pareto
    distribution, Technometrics 51(3); with the prior of Vehtari et al. (2024), appendix C.
    """
    n = x.size
    m = 30 + int(n**0.5)
    theta = (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * x[int(n / 4 + 0.5) - 1]) + 1 / x[-1]
    k = np.mean(np.log1p(-theta[:, None] * x), axis=1)
    log_likelihood = n * (np.log(-theta / k) - k - 1)
    posterior = softmax(log_likelihood)
    theta_hat = np.sum(theta * posterior)
    shape = np.mean(np.log1p(-theta_hat * x))
    return float((n * shape + 10 * 0.5) / (n + 10)), float(-shape / theta_hat)
