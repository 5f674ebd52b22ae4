"""Whether Markov chains agree, and how many independent draws they are worth. NumPy only."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

Array = np.ndarray


def rank_rhat(draws: Array) -> Array:
    """R-hat of chains, as the larger of that of ranks and that of ranks of distances from the median.

    Args:
        draws: ``(chains, n, *shape)``, n at least 4.

    Returns:
        ``(*shape)``: near 1 where the chains agree, nan where a number does not vary.

    Reference: Vehtari et al. (2021), Rank-normalization, folding, and localization, arXiv:1903.08008, eqs. 3, 4 and 14.
    """
    halves = _halves(draws)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.asarray(np.maximum(_rhat(_rank_normal(halves)), _rhat(_rank_normal(folded))))


def bulk_ess(draws: Array) -> Array:
    """Effective number of draws for what is in the bulk of a distribution.

    Args:
        draws: ``(chains, n, *shape)``, n at least 8.

    Returns:
        ``(*shape)``; nan where a number does not vary.

    Reference: the same, sections 3.2 and 4.1; Geyer (1992), Practical Markov chain Monte Carlo, for where to stop.
    """
    return effective_sample_size(_rank_normal(_halves(draws)))


def effective_sample_size(draws: Array) -> Array:
    """Effective number of draws for the mean, ``(*shape)``, of chains ``(chains, n, *shape)``; as they are, not split.

    Reference: as of ``bulk_ess``, eqs. 10 to 13.
    """
    chains, n = draws.shape[:2]
    covariance = _autocovariance(draws).mean(0)
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (draws.mean(1).var(0, ddof=1) if chains > 1 else 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    even = rho[: 2 * ((n - 1) // 2)].reshape(-1, 2, *draws.shape[2:])  # Geyer's pairs
    pairs = even.sum(1)
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    positive[0] = True
    last = positive.sum(0)  # the pair where the sum stops
    after = np.take_along_axis(even[:, 0], np.minimum(last, len(even) - 1)[None], axis=0)[0]
    tau = -1 + 2 * np.where(positive, np.minimum.accumulate(pairs, axis=0), 0.0).sum(0) + np.maximum(after, 0.0)
    return np.asarray(chains * n / np.maximum(tau, 1 / np.log10(chains * n)))


def _halves(draws: Array) -> Array:
    """Each chain as two, without the draw in the middle of an odd number."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def _rank_normal(draws: Array) -> Array:
    """Normal scores of the ranks among all chains; nan where all draws are one number, or one of them is nan."""
    from scipy.stats import rankdata  # which takes half a second to import

    rows = draws.reshape(-1, *draws.shape[2:])
    scores = ndtri((rankdata(rows, axis=0) - 0.375) / (len(rows) + 0.25))
    return np.where(np.ptp(rows, axis=0) > 0, scores, np.nan).reshape(draws.shape)


def _rhat(draws: Array) -> Array:
    n = draws.shape[1]
    within = draws.var(1, ddof=1).mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((n - 1) / n + draws.mean(1).var(0, ddof=1) / within))


def _autocovariance(draws: Array) -> Array:
    """Of each chain at all lags, divided by n, by a Fourier transform of the chain and as many zeros."""
    n = draws.shape[1]
    off = draws - draws.mean(1, keepdims=True)
    spectrum = np.fft.rfft(off, n=2 * n, axis=1)
    return np.asarray(np.fft.irfft(np.abs(spectrum) ** 2, n=2 * n, axis=1)[:, :n] / n)
