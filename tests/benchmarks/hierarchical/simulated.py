"""Simulated data of the hierarchical models: arguments of the models, by size and seed. NumPy only."""

from __future__ import annotations

import numpy as np

Arrays = dict[str, np.ndarray]  # by name of argument


def eight_schools() -> Arrays:
    """Not simulated: Rubin (1981), Estimation in parallel randomized experiments."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    return {"y": y, "sigma": np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])}


def radon(groups: int, rows: int, seed: int) -> Arrays:
    """Groups of unequal size, from one row to more than a tenth of all; x is 0 or 1, and constant in some."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(groups, 0.6))
    group = np.concatenate([np.arange(groups), rng.choice(groups, rows - groups, p=shares)])
    x = (rng.random(rows) < 0.17).astype(np.float64)
    a, b = 1.4 + 0.3 * rng.standard_normal(groups), -0.65 + 0.35 * rng.standard_normal(groups)
    return {"group": group, "x": x, "y": a[group] + b[group] * x + 0.75 * rng.standard_normal(rows)}


def volatility(steps: int, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    s = np.cumsum(0.12 * rng.standard_normal(steps))
    return {"returns": np.exp(s) * rng.standard_t(8.0, steps)}


def item_response(persons: int, items: int, seed: int) -> Arrays:
    """Every person answers every item; ``correct`` is ``(persons, items)``."""
    rng = np.random.default_rng(seed)
    ability = rng.standard_normal(persons)
    discrimination, difficulty = np.exp(0.35 * rng.standard_normal(items)), 1.1 * rng.standard_normal(items) - 0.3
    logits = discrimination * (ability[:, None] - difficulty)
    return {"correct": (rng.random((persons, items)) < 1 / (1 + np.exp(-logits))).astype(np.float64)}


def sparse_regression(rows: int, coefficients: int, seed: int) -> Arrays:
    """Five coefficients are not zero, two of them small."""
    rng = np.random.default_rng(seed)
    X, beta = rng.standard_normal((rows, coefficients)), np.zeros(coefficients)
    beta[:5] = 2.0, -1.5, 1.0, 0.4, -0.3
    return {"X": X, "y": 0.5 + X @ beta + rng.standard_normal(rows)}


def capture_recapture(animals: int, augmented: int, occasions: int, seed: int) -> Arrays:
    """Counts of captures of the animals seen, and zeros up to ``augmented``."""
    rng = np.random.default_rng(seed)
    logits = -0.6 + 0.9 * rng.standard_normal(animals)
    seen = rng.binomial(occasions, 1 / (1 + np.exp(-logits)))
    counts = np.zeros(augmented)
    counts[: (seen > 0).sum()] = seen[seen > 0]
    return {"counts": counts, "occasions": np.array(float(occasions))}
