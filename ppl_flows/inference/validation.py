"""The options of ``fit`` and ``fit_density``, checked alike in both shells."""

from __future__ import annotations

import math
from typing import Any

from ppl_flows.inference.gradient_estimators import ESTIMATORS

CLIP = 10.0  # of the own optimiser, unless it is told otherwise


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


def check_loss(
    loss: Any,
    elbo_class: type,
    no_elbos: tuple[type, ...],
    num_particles: int | None,
    estimator: str | None,
    anneal: float,
) -> None:
    """Raises TypeError for a loss that is no ELBO of the host, ValueError for options that do not go with one.

    ``no_elbos`` are those of the host's ELBO classes whose gradient is that of another divergence.
    """
    if loss is None:
        return
    module, name = elbo_class.__module__.partition(".")[0], type(loss).__name__
    if not isinstance(loss, elbo_class):
        got = f"the class {loss.__name__}: give an object, {loss.__name__}()" if isinstance(loss, type) else name
        raise TypeError(f"loss must be an ELBO object of {module}.infer, such as Trace_ELBO(), got {got}.")
    if num_particles is not None:
        raise ValueError(
            f"num_particles={num_particles} and loss=: the particles are the loss's own; "
            f"use loss={name}(num_particles={num_particles})."
        )
    if anneal < 1:
        raise ValueError(
            f"anneal={anneal} and loss=: it weighs the model's log density, which not every ELBO takes (an analytic KL "
            "would be weighed too); use anneal=1.0, or leave loss out."
        )
    if estimator == "path" and isinstance(loss, no_elbos):
        raise ValueError(
            f"estimator='path' and {name}: what path gradients leave out has mean 0 in an ELBO only, so that here they "
            "would be biased; use estimator='reparam'."
        )


def step_sizes(optimizer: Any, lr: float | None, clip: float | None, *, default_lr: float) -> tuple[float, float]:
    """Learning rate and bound on the gradient of the own optimiser, as given, or by default; no bound for another.

    Raises:
        ValueError: they are given, and so is another optimiser.
    """
    given = [f"{name}={value}" for name, value in (("lr", lr), ("clip", clip)) if value is not None]
    if optimizer is not None and given:
        raise ValueError(
            f"optimizer= and {' and '.join(given)}: rates, schedules and clipping are the optimiser's own; give them "
            "to it, or leave optimizer out."
        )
    if optimizer is not None:
        return default_lr, math.inf
    return default_lr if lr is None else lr, CLIP if clip is None else clip
