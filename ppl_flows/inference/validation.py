"""What both shells share: the making of transform classes, and the shape of a guide."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

import ppl_flows
from ppl_flows.bijections import Elementwise
from ppl_flows.combinators.chain import Chain
from ppl_flows.core.bijection import Array, Bijection, Params
from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import initial_params
from ppl_flows.core.support import REAL, is_real
from ppl_flows.transformers import Affine

# of a density's data: for data-dependent starts (at most so many numbers), and for the last averages
START_ROWS, START_NUMBERS, SETTLE_ROWS = 1_024, 2**16, 16_384
_evaluating: ContextVar[bool] = ContextVar("evaluating", default=False)
_path: ContextVar[bool | None] = ContextVar("path", default=False)
ESTIMATORS = {"path": True, "reparam": False, None: None}  # of ``fit``, as ``path_gradients`` takes them


@contextmanager
def evaluation() -> Iterator[None]:
    """No flow made inside is in training mode: what a trained model and guide are measured in."""
    token = _evaluating.set(True)
    try:
        yield
    finally:
        _evaluating.reset(token)


@contextmanager
def path_gradients(on: bool | None) -> Iterator[None]:
    """Flows made inside score draws with parameters that pass no gradient; None: those that started near a posterior.

    The gradient of the ELBO then flows through the draws only ("sticking the landing"): it has the same mean, and no
    variance where the flow is the posterior. Far from it, and for splines, it can have more.

    Reference: Roeder et al. (2017), Sticking the Landing, arXiv:1703.09194.
    """
    token = _path.set(on)
    try:
        yield
    finally:
        _path.reset(token)


def on_the_path(*, near: bool = False) -> bool:
    """Whether a flow made now, near the posterior or not, takes part in path gradients."""
    wish = _path.get()
    return near if wish is None else wish


def in_training(training: bool) -> bool:
    """Whether a flow that asks for training mode gets it."""
    return training and not _evaluating.get()


def transform_classes(flow_transform: type, module: str) -> dict[str, type]:
    """One subclass of a host's ``FlowTransform`` per public bijection, with the bijection's signature and docstring."""
    public = {name: getattr(ppl_flows, name) for name in ppl_flows.__all__}
    return {
        name: _transform_class(flow_transform, c, module)
        for name, c in public.items()
        if isinstance(c, type) and issubclass(c, Bijection) and not inspect.isabstract(c)
    }


def _transform_class(flow_transform: Any, bijection: type[Bijection], module: str) -> type:
    fields = inspect.signature(bijection).parameters

    def init(self: Any, *args: Any, params: Any = None, context: Any = None, seed: int = 0, **kwargs: Any) -> None:
        if "seed" in fields:  # of a random mask or permutation: one seed serves it and the parameters
            kwargs["seed"] = seed
        flow_transform.__init__(self, bijection(*args, **kwargs), params, context=context, seed=seed)

    own = [p for name, p in inspect.signature(flow_transform).parameters.items() if name not in ("bijection", *fields)]
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    body = {"__init__": init, "__doc__": bijection.__doc__, "__module__": module}
    made: Any = type(bijection.__name__, (flow_transform,), body)
    made.__signature__ = inspect.Signature([*fields.values(), *keywords])
    return made


def located(bijection: Bijection) -> Bijection:
    """The bijection and, on the target side, a trainable location and scale per coordinate."""
    return Chain((bijection, Elementwise(bijection.output_shape[0], Affine(max_log_scale=None))))


def located_params(bijection: Bijection, loc: Array, scale: Array | float, seed: int) -> Params:
    """Initial parameters of ``located(...)`` that start it at this location and scale."""
    xp = namespace(loc)
    log_scale = xp.log(xp.zeros_like(loc) + scale)
    return {**initial_params(bijection, seed), "1": {"theta": xp.stack([loc, log_scale], axis=-1)}}


def density_start(
    bijection: Bijection,
    data: np.ndarray,
    context: np.ndarray | None,
    *,
    standardize: bool | None,
    levels: int | None,
    seed: int,
) -> tuple[Bijection, Params]:
    """What ``fit_density`` trains, and its initial parameters, for which some of the rows have passed through."""
    vectors = len(bijection.output_shape) == 1
    if standardize and not (vectors and is_real(bijection.codomain)):
        raise ValueError(
            "fit_density: standardize=True puts a location and scale after the bijection, which needs real vectors, "
            f"but its values have shape {bijection.output_shape} and range {bijection.codomain or 'real'}; pass "
            "standardize=False."
        )
    if levels is not None:
        data = (data + np.random.default_rng(seed).random(data.shape)) / levels
    params = initial_params(bijection, seed)
    if vectors and standardize is not False and is_real(bijection.codomain):
        bijection = located(bijection)
        params = located_params(bijection, data.mean(0), data.std(0) + 1e-12, seed)
    rows = some_rows(len(data), max(2, min(START_ROWS, START_NUMBERS // data[0].size)), seed)
    given = None if context is None else context[rows]
    return bijection, bijection.observe(params, data[rows], given, stage="start")[0]


def some_rows(n: int, at_most: int, seed: int) -> np.ndarray:
    """Indices of so many of n rows, without replacement."""
    return np.random.default_rng(seed).permutation(n)[:at_most]


def held_out(n: int, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of n rows, in no order: of those to train on, and of the share to validate by.

    Raises:
        ValueError: the share is not in [0, 1), or leaves fewer than 2 rows to train on or none to validate by.
    """
    held = round(validation * n)
    if not (0 <= validation < 1 and n - held >= 2 and (held > 0 or validation == 0)):
        raise ValueError(
            f"validation must be a share of the rows between 0 and 1 that leaves some for both uses, got {validation} "
            f"of {n} rows."
        )
    rows = some_rows(n, n, seed) if held else np.arange(n)
    return rows[held:], rows[:held]


def check_rows(bijection: Bijection, data: np.ndarray, context: np.ndarray | None, levels: int | None) -> None:
    """Raises ValueError unless data are finite rows in the bijection's range and context goes with them."""
    if data.shape[1:] != bijection.output_shape or len(data) < 2:
        raise ValueError(
            f"data must have shape (rows, {', '.join(map(str, bijection.output_shape))}) with at least 2 rows, "
            f"got {data.shape}."
        )
    given = None if context is None else context.shape
    wanted = (len(data), bijection.context_dim) if bijection.context_dim else None
    if given != wanted:
        raise ValueError(f"context must have shape {wanted} for this bijection and these data, got {given}.")
    for name, array in (("data", data), ("context", context)):
        if array is not None and not np.all(np.isfinite(array)):
            bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=-1))
            raise ValueError(
                f"{name} must be finite, but {len(bad)} of {len(array)} rows are not (the first is row {bad[0]}); "
                "drop or impute them."
            )
    if levels is not None and not np.all((data == np.floor(data)) & (data >= 0) & (data < levels)):
        raise ValueError(
            f"levels={levels}: data must be whole numbers 0, ..., {levels - 1}, got values from {data.min()} to "
            f"{data.max()}."
        )
    if not is_real(bijection.codomain):
        low, high = np.array([i or REAL for i in bijection.codomain or ()]).T
        rows = data.reshape(len(data), -1) if levels is None else np.array([[0.5], [levels - 0.5]]) / levels
        outside = np.flatnonzero(((rows <= low) | (rows >= high)).any(axis=-1))
        if len(outside):
            raise ValueError(
                f"{len(outside)} of {len(data)} rows of data are not inside the bijection's range "
                f"{sorted({i or REAL for i in bijection.codomain or ()})} (the first is row {outside[0]})."
            )


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
