"""The options of ``fit`` and ``fit_density``, checked alike in both shells."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ppl_flows.core.checks import POSITIVE, checked_seed, real_number, whole_number
from ppl_flows.inference.checkpoint import checked_place
from ppl_flows.inference.gradient_estimators import ESTIMATORS

CLIP = 10.0  # of the own optimiser, unless it is told otherwise


def check_steps(steps: int, num_particles: int) -> None:
    """Raises TypeError unless both are whole numbers, ValueError unless they are at least 1."""
    whole_number("fit", "steps", steps)
    whole_number("fit", "num_particles", num_particles)


def check_functions(model: Any, guide: Any, kwargs: dict[str, Any]) -> None:
    """Raises TypeError unless both can be called, the model with these arguments by name."""
    for name, f in (("model", model), ("guide", guide)):
        if not callable(f):
            raise TypeError(f"fit takes a model and a guide, functions of the same arguments, but {name} is {f!r}.")
    check_names(kwargs, model)


OTHER_NAMES = {  # of the hosts and other libraries, for our options
    "num_steps": "steps",
    "n_steps": "steps",
    "optim": "optimizer",
    "elbo": "loss",
    "learning_rate": "lr",
    "rng_key": "seed",
    "progress_bar": "progress",
    "num_samples": "draws",
}


def check_observed(site: str, value: np.ndarray, log_density: Callable[[], np.ndarray]) -> None:
    """Raises ValueError where observed values are not finite, and nor is their log density, as it is under a mask."""
    bad = np.flatnonzero(~np.isfinite(value))
    if len(bad) and not np.all(np.isfinite(log_density())):
        raise ValueError(
            f"{len(bad)} of the {value.size} observed values at site {site!r} are not finite (the first is number "
            f"{bad[0]}), and nor is their log density; drop them, or make what is missing a latent site."
        )


def check_names(kwargs: dict[str, Any], model: Callable[..., Any]) -> None:
    """Raises TypeError for arguments that ``fit`` would hand on to a model that does not take them."""
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):  # of what is written in C
        return
    taken = {p.name for p in parameters}
    if wrong := [] if any(p.kind is p.VAR_KEYWORD for p in parameters) else [k for k in kwargs if k not in taken]:
        name = wrong[0]
        way_out = f"did you mean {OTHER_NAMES[name]}=?" if name in OTHER_NAMES else "help(fit) lists its options."
        raise TypeError(f"fit has no option {name}=, and the model takes no such argument; {way_out}")


def check_fit(
    steps: int,
    num_particles: int,
    estimator: str | None,
    anneal: float,
    tolerance: float | None,
    draws: int | None,
) -> None:
    """Raises ValueError or TypeError for options that ``fit`` does not have."""
    check_steps(steps, num_particles)
    if not isinstance(anneal, int | float | np.floating):
        raise TypeError(f"fit: anneal must be a number, got {anneal!r}.")
    if tolerance is not None:
        real_number("fit", "tolerance", tolerance, *POSITIVE)
    if draws is not None:
        whole_number("fit", "draws", draws)
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be 'path', 'reparam' or None, got {estimator!r}.")
    if not 0 < anneal <= 1:
        raise ValueError(f"anneal must be above 0 and at most 1 (no annealing), got {anneal}.")
    if draws is not None and draws < 2:
        raise ValueError(f"draws must be at least 2, or there is no standard error, got {draws}.")


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


def check_callback(owner: str, callback: Any) -> None:
    """Raises TypeError unless it is None or can be called."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{owner}: callback must be a function of step, loss and params, or None, got {callback!r}.")


def check_training(
    owner: str,
    *,
    steps: Any,
    batch_size: Any,
    validation: Any,
    callback: Any,
    seed: Any,
    checkpoint: Any = None,
    checkpoint_every: float = 0.0,
) -> None:
    """Raises TypeError, ValueError or FileNotFoundError for options of a training that ``owner`` does not take."""
    whole_number(owner, "steps", steps)
    whole_number(owner, "batch_size", batch_size)
    if isinstance(validation, bool) or not isinstance(validation, int | float | np.floating):
        raise TypeError(
            f"{owner}: validation is the share of the rows to hold out, such as 0.1, and not the rows themselves; "
            f"got a {type(validation).__name__}."
        )
    if not 0 <= validation < 1:
        raise ValueError(f"{owner}: validation must be a share of the rows between 0 and 1, got {validation}.")
    check_callback(owner, callback)
    checked_seed(owner, seed)
    if checkpoint is not None:
        checked_place(checkpoint, checkpoint_every)


def check_recipe(owner: str, flow: Any) -> None:
    """Raises TypeError unless this can be called, as a recipe is."""
    if not callable(flow):
        raise TypeError(
            f"{owner}: flow must be a recipe, a function (dim, context_dim=...) -> Bijection such as pf.nsf, got "
            f"{flow!r}."
        )


def step_sizes(
    owner: str, optimizer: Any, lr: float | None, clip: float | None, *, default_lr: float
) -> tuple[float, float]:
    """Learning rate and bound on the gradient of the own optimiser, as given, or by default; no bound for another.

    Raises:
        TypeError, ValueError: they are no positive numbers.
        ValueError: they are given, and so is another optimiser.
    """
    if lr is not None:
        real_number(owner, "lr", lr, *POSITIVE)
    if clip is not None and clip != math.inf:
        real_number(owner, "clip", clip, *POSITIVE)
    given = [f"{name}={value}" for name, value in (("lr", lr), ("clip", clip)) if value is not None]
    if optimizer is not None and given:
        raise ValueError(
            f"optimizer= and {' and '.join(given)}: rates, schedules and clipping are the optimiser's own; give them "
            "to it, or leave optimizer out."
        )
    if optimizer is not None:
        return default_lr, math.inf
    return default_lr if lr is None else lr, CLIP if clip is None else clip
