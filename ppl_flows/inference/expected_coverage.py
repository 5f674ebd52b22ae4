"""Expected coverage of posteriors over all coordinates at once: TARP."""

from __future__ import annotations

import numpy as np

from ppl_flows.inference.observations import Scaler


def coverage_ranks(
    truths: np.ndarray, draws: np.ndarray, references: np.ndarray, scaler: Scaler, rng: np.random.Generator
) -> np.ndarray:
    """How many draws lie nearer to a reference point than the truth: uniform from 0 to L if all posteriors are right.

    Any distance will do; coordinates are centred, scaled and compressed far out. Draws at the distance of the truth
    count at random.

    Args:
        truths: ``(n, dim)``.
        draws: ``(n, L, dim)``, of each posterior.
        references: ``(n, dim)``, which may depend on the data and on nothing else of the truth.
        scaler: of the coordinates.
        rng: for ties.

    Returns:
        ``(n,)``, whole numbers.

    Reference: Lemos et al. (2023), Sampling-Based Accuracy Testing of Posterior Estimators for General Inference,
    arXiv:2302.03026, algorithm 2.
    """
    centres = scaler(references)[:, None]
    far = np.linalg.norm(scaler(draws) - centres, axis=-1)
    return ranks_among(np.linalg.norm(scaler(truths)[:, None] - centres, axis=-1)[:, 0], far, rng)


def ranks_among(values: np.ndarray, draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How many of the draws, ``(n, L)``, lie below each value, ``(n,)``; ties count at random."""
    ties = np.sum(draws == values[:, None], axis=1)
    return np.asarray(np.sum(draws < values[:, None], axis=1) + rng.integers(0, ties + 1))


def nearest_rows(data: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of the other data sets is most similar to each: the truths of these are reference points.

    They depend on the data, as they should: with references that do not, draws from the prior pass as posteriors (Lemos
    et al., section 3). The others are simulations of their own, as ranks of data sets that are each other's neighbours
    would depend on each other.

    Args:
        data: of the simulations that are checked, ``(n, k)``.
        others: of further ones, ``(m, k)``.

    Returns:
        ``(n,)``, from 0 to m - 1.
    """
    scaler = Scaler.from_rows(others)
    scaled = scaler(others)
    return np.array([np.argmin(np.nan_to_num(np.sum((row - scaled) ** 2, axis=1), nan=np.inf)) for row in scaler(data)])
