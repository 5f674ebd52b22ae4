"""Whether ranks are uniform: bands that hold a whole empirical distribution function, and a p-value of one.

Own code, as ArviZ has the bands since 1.x alone, and no p-value.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.special import bdtr

THRESHOLDS = 100  # at most, of the distribution function
SIMULATIONS = 4_000  # of samples of true ranks


def rank_thresholds(num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """At most 100 ranks, and the share of uniform ranks that is at most each; not the last rank, as all are."""
    thresholds = thinned(np.arange(num_draws))
    return thresholds, (thresholds + 1) / (num_draws + 1)


def thinned(thresholds: np.ndarray) -> np.ndarray:
    """At most 100 of them, as evenly as can be."""
    kept = np.linspace(0, len(thresholds) - 1, THRESHOLDS).round().astype(int)
    return np.asarray(thresholds[np.unique(kept)])


def simultaneous_band(expected: np.ndarray, size: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Between which an empirical distribution function lies at all points at once, with such a probability.

    Args:
        expected: of the true one at the points, ``(k,)``, increasing, between 0 and 1.
        size: of the sample.
        level: the probability; by simulation, to about 1 %.

    Returns:
        Lower and upper ends, ``(k,)`` each, as shares.

    Reference: Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete uniformity, arXiv:2103.10522.
    """
    from scipy.stats import binom

    extreme = _smallest_p_values(tuple(expected.tolist()), size)
    tail = np.quantile(extreme, 1 - level) / 2 * (1 - 1e-6)  # curves that come as far as that are within, and many do
    return binom.ppf(tail, size, expected) / size, binom.ppf(1 - tail, size, expected) / size


def uniformity_p_value(ranks: np.ndarray, num_draws: int) -> float:
    """Share of samples of uniform ranks whose distribution function strays as far from the true one, at some point.

    By 4,000 simulated samples, or, for what strays further than all of these, by Bonferroni's bound. Below 0.05 where
    the 95 % band does not hold the curve.

    Args:
        ranks: ``(n,)``, whole numbers from 0 to ``num_draws``.
        num_draws: of each posterior.
    """
    thresholds, expected = rank_thresholds(num_draws)
    size = len(ranks)
    counts, at = np.sum(ranks[:, None] <= thresholds, axis=0), tuple(expected.tolist())
    own = _p_values(at, size)[counts, np.arange(len(at))].min()
    simulated = _smallest_p_values(at, size)
    return float(min((1 + np.sum(simulated <= own * (1 + 1e-9))) / (1 + len(simulated)), own * len(expected)))


@lru_cache(maxsize=4)  # each is as large as the sample
def _p_values(expected: tuple[float, ...], size: int) -> np.ndarray:
    """Two-sided, of each count, ``(size + 1, k)``."""
    counts = np.arange(size + 1.0)[:, None]
    below, above = bdtr(counts, size, expected), 1 - bdtr(counts - 1, size, expected)
    above[0] = 1.0  # bdtr(-1, …) is nan
    return np.asarray(2 * np.minimum(below, above))


@lru_cache(maxsize=32)
def _smallest_p_values(expected: tuple[float, ...], size: int) -> np.ndarray:
    """Eq. 4 of Säilynoja et al.: of simulated samples of uniform ranks the smallest p-value of the curve."""
    cells = np.diff(expected, prepend=0.0, append=1.0)
    counts = np.random.default_rng(0).multinomial(size, cells, size=SIMULATIONS).cumsum(1)[:, :-1]
    return np.asarray(_p_values(expected, size)[counts, np.arange(len(expected))].min(1))
