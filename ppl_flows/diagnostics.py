"""Diagnostics of importance weights. NumPy only."""

from __future__ import annotations

import numpy as np


def pareto_khat(log_weights: np.ndarray) -> float:
    """Shape k of a generalised Pareto distribution fitted to the upper tail of importance weights.

    Args:
        log_weights: ``log p(z, data) - log q(z)`` of draws z from q, ``(n,)``, in nats, up to a constant.

    Returns:
        k-hat; infinite if fewer than 5 tail draws differ from the cutoff, or a weight is not finite.

    Reference: Vehtari et al. (2024), Pareto Smoothed Importance Sampling, arXiv:1507.02646.
    """
    log_weights = np.asarray(log_weights, dtype=np.float64)
    n = log_weights.size
    if not np.all(log_weights < np.inf):
        return np.inf
    tail = int(np.ceil(min(0.2 * n, 3 * np.sqrt(n))))
    weights = np.exp(np.sort(log_weights - log_weights.max()))
    cutoff = max(weights[-tail - 1], np.finfo(float).tiny)
    exceedances = weights[weights > cutoff] - cutoff
    if exceedances.size <= 4:
        return np.inf
    return _generalised_pareto_shape(exceedances)


def _generalised_pareto_shape(x: np.ndarray) -> float:
    """Posterior-mean estimate of the shape from sorted exceedances x.

    Reference: Zhang & Stephens (2009), A new and efficient estimation method for the generalized Pareto
    distribution, Technometrics 51(3); with the prior of Vehtari et al. (2024), appendix C.
    """
    n = x.size
    m = 30 + int(n**0.5)
    theta = (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * x[int(n / 4 + 0.5) - 1]) + 1 / x[-1]
    k = np.mean(np.log1p(-theta[:, None] * x), axis=1)
    log_likelihood = n * (np.log(-theta / k) - k - 1)
    posterior = 1 / np.sum(np.exp(log_likelihood - log_likelihood[:, None]), axis=1)
    theta_hat = np.sum(theta * posterior / np.sum(posterior))
    shape = np.mean(np.log1p(-theta_hat * x))
    return float((n * shape + 10 * 0.5) / (n + 10))
