"""What both shells share: the making of transform classes, and the shape of a guide."""

from __future__ import annotations

from ppl_flows.inference.gradient_estimators import ESTIMATORS


def check_steps(steps: int, num_particles: int) -> None:
    """Raises ValueError unless both are at least 1."""
    if steps < 1 or num_particles < 1:
        raise ValueError(f"steps and num_particles must be at least 1, got {steps} and {num_particles}.")


def check_fit(
    steps: int,
    num_particles: int,
    estimator: str | None,
    anneal: float,
    tolerance: float | None,
    draws: int | None,
) -> None:
    """Raises ValueError for options that ``fit`` does not have."""
    check_steps(steps, num_particles)
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be 'path', 'reparam' or None, got {estimator!r}.")
    if not 0 < anneal <= 1:
        raise ValueError(f"anneal must be above 0 and at most 1 (no annealing), got {anneal}.")
    if draws is not None and draws < 2:
        raise ValueError(f"draws must be at least 2, or there is no standard error, got {draws}.")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance must be positive, or None for no early end, got {tolerance}.")
