"""What both shells share: the making of transform classes, and the shape of a guide."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import ppl_flows
from ppl_flows.bijections import Elementwise, TriangularAffine
from ppl_flows.core.bijection import Array, Bijection, Params
from ppl_flows.core.compose import Chain, Frozen
from ppl_flows.core.ops import namespace
from ppl_flows.core.params import initial_params
from ppl_flows.core.support import REAL, is_real
from ppl_flows.flows import guide_flow
from ppl_flows.transformers import Affine
from ppl_flows.warm_start import FULL_RANK_DIM, Gaussian

# of a density's data: for data-dependent starts (at most so many numbers), and for the last averages
START_ROWS, START_NUMBERS, SETTLE_ROWS = 1_024, 2**16, 16_384
_evaluating: ContextVar[bool] = ContextVar("evaluating", default=False)
_path: ContextVar[bool | None] = ContextVar("path", default=False)
ESTIMATORS = {"path": True, "reparam": False, None: None}  # of ``fit``, as ``path_gradients`` takes them


class Quality(NamedTuple):
    """What a wish for a guide means: size of its flow, and effort of ``fit``."""

    flow_layers: int
    steps: int
    num_particles: int


QUALITIES = {
    "quick": Quality(flow_layers=6, steps=2_000, num_particles=16),
    "standard": Quality(flow_layers=10, steps=2_000, num_particles=64),
    "thorough": Quality(flow_layers=16, steps=8_000, num_particles=64),
}


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


def check_guide(quality: str, start: str | Mapping[str, Any], init_scale: float) -> None:
    """Raises ValueError for options that ``AutoFlow`` does not have."""
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}; got {quality!r}.")
    kinds = ("auto", "full_rank", "mean_field", "laplace", "init")
    if not isinstance(start, Mapping) and start not in kinds:
        raise ValueError(f"start must be one of {', '.join(kinds)}, or draws as a dict of sites; got {start!r}.")
    if not init_scale > 0:
        raise ValueError(f"init_scale must be positive, got {init_scale}.")


def guide_bijection(recipe: Callable[[int], Bijection] | None, dim: int, quality: str) -> Bijection:
    """What ``AutoFlow`` trains: the recipe's flow, checked, a trainable affine map, and one that stays as it starts.

    Raises:
        TypeError: the recipe gives something else than a Bijection.
        ValueError: its flow has another event size, or wants a context.
    """
    flow: Any
    if recipe is None:
        flow = guide_flow(dim, flow_layers=QUALITIES[quality].flow_layers)
    else:
        flow = recipe(dim) if callable(recipe) else recipe
    if not (recipe is None or callable(recipe)) or not isinstance(flow, Bijection):
        raise TypeError(
            f"AutoFlow: flow must be a callable dim -> Bijection, such as pf.iaf, but it gave {type(flow).__name__}; "
            "a transform of the language would not train here."
        )
    if flow.event_shape != (dim,) or flow.output_shape != (dim,):
        raise ValueError(f"AutoFlow: the model has {dim} latent dimensions, but flow maps shape {flow.event_shape}.")
    if flow.context_dim:
        raise ValueError(f"AutoFlow: flow wants a context of size {flow.context_dim}; a guide has none to give.")
    affine = TriangularAffine(dim) if dim <= FULL_RANK_DIM else Elementwise(dim, Affine(max_log_scale=None))
    return Chain((flow, affine, Frozen(affine)))


def guide_params(bijection: Bijection, start: Gaussian, seed: int, *, fixed: bool) -> Params:
    """Initial parameters of ``guide_bijection(...)`` that start it at this Gaussian.

    The Gaussian is in the last map, which stays as it is, or, not fixed, in the trainable one.
    """
    params = dict(initial_params(bijection, seed))
    if "theta" in params["1"]:
        affine = {"theta": np.stack([start.mean, np.log(start.diagonal)], axis=-1)}
    else:
        factor = np.diag(start.factor) if start.factor.ndim == 1 else start.factor
        affine = {"l": np.tril(factor, -1) + np.diag(np.log(start.diagonal)), "b": start.mean}
    return {**params, **({"2": {"state": affine}} if fixed else {"1": affine})}


def check_local(features: Any, init_scale: float) -> None:
    """Raises ValueError for options that ``AutoLocalFlow`` does not have."""
    if features is not None and np.ndim(features) != 2:
        raise ValueError(f"AutoLocalFlow: features must have shape (rows, size), got {np.shape(features)}.")
    if not init_scale > 0:
        raise ValueError(f"init_scale must be positive, got {init_scale}.")


def local_sites(plate: str, stacks: dict[str, list[tuple[str, int]]], rows: int, features: Any) -> list[str]:
    """The latent sites in the plate; stacks are the plates ``(name, dim)`` around each latent site.

    Raises:
        ValueError: there are none, or they are not directly in the plate, or features have another number of rows.
    """
    found = [name for name, stack in stacks.items() if plate in [frame for frame, _ in stack]]
    if not found:
        raise ValueError(f"AutoLocalFlow: no latent site is in a plate named {plate!r}; their plates are {stacks}.")
    for name in found:
        if stacks[name] != [(plate, -1)]:
            raise ValueError(
                f"AutoLocalFlow: latent {name!r} must be in plate {plate!r} only, with dim=-1, got {stacks[name]}; "
                "write what lies in plates inside it as one vector with to_event."
            )
    if features is not None and len(features) != rows:
        raise ValueError(f"AutoLocalFlow: plate {plate!r} has {rows} rows, but features {len(features)}.")
    return found


def local_bijection(recipe: Callable[..., Bijection] | None, quality: str, dim: int, context_dim: int) -> Bijection:
    """The conditional flow of the local latents and, on the target side, an affine map linear in the context.

    Raises:
        ValueError: the recipe's flow has another event size, or another context.
    """
    make = partial(guide_flow, flow_layers=QUALITIES[quality].flow_layers) if recipe is None else recipe
    flow = make(dim, context_dim=context_dim)
    if (flow.event_shape, flow.output_shape, flow.context_dim) != ((dim,), (dim,), context_dim):
        raise ValueError(
            f"AutoLocalFlow: a row has {dim} latent dimensions and a context of {context_dim}, but local_flow maps "
            f"shape {flow.event_shape} with a context of {flow.context_dim}."
        )
    return Chain((flow, Elementwise(dim, Affine(max_log_scale=None), hidden=(), context_dim=context_dim)))


def local_params(bijection: Bijection, loc: np.ndarray, scale: float, free_rows: int, seed: int) -> Params:
    """``{"flow": of local_bijection, "rows": (free_rows, 2 * dim)}``, started at this location and scale.

    The numbers of a free row, which start at 0, are added to location and log scale, and known to the flow. Without
    free rows there is no ``"rows"``.
    """
    flow = dict(initial_params(bijection, seed))
    weight = np.zeros_like(flow["1"]["net"]["w0"])
    if free_rows:
        weight[-2 * len(loc) :] = np.eye(2 * len(loc))
    flow["1"] = {"net": {"w0": weight, "b0": np.stack([loc, np.full(len(loc), np.log(scale))], axis=-1).ravel()}}
    return {"flow": flow, "rows": np.zeros((free_rows, 2 * len(loc)))} if free_rows else {"flow": flow}


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


def budget(guide: Any, steps: int | None, num_particles: int | None) -> tuple[int, int]:
    """Steps and particles of ``fit``: as given, or as the guide's quality says."""
    quality = QUALITIES[getattr(guide, "quality", "standard")]
    return (
        quality.steps if steps is None else steps,
        quality.num_particles if num_particles is None else num_particles,
    )


def check_fit(steps: int, num_particles: int, estimator: str | None, anneal: float) -> None:
    """Raises ValueError for options that ``fit`` does not have."""
    check_steps(steps, num_particles)
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be 'path', 'reparam' or None, got {estimator!r}.")
    if not 0 < anneal <= 1:
        raise ValueError(f"anneal must be above 0 and at most 1 (no annealing), got {anneal}.")


LINEAR = 5.0  # absolute deviations up to which a Scaler is nearly linear


class Scaler(NamedTuple):
    """Data as a context for networks: centred, scaled, and compressed far out, so that heavy tails do no harm."""

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Scaler:
        """By the median and the median absolute deviation of rows; 1 where that is 0."""
        centre = np.median(rows, axis=0)
        scale = np.median(np.abs(rows - centre), axis=0)
        return cls(centre, np.where(scale > 0, scale, 1.0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return LINEAR * np.arcsinh((rows - self.centre) / (LINEAR * self.scale))


def check_sites(data: list[str], latents: list[str]) -> None:
    """Raises ValueError unless a model for ``fit_amortized`` has both data and latents."""
    if not data or not latents:
        raise ValueError(
            f"fit_amortized: the model needs sites with obs, got {data}, and latent ones, got {latents}; give it data "
            "of the right shapes, whose values are not used."
        )


def check_simulations(z: np.ndarray, x: np.ndarray) -> None:
    """Raises ValueError unless there are enough simulations and all are finite."""
    if len(z) < 100:
        raise ValueError(f"fit_amortized: simulations must be at least 100, got {len(z)}.")
    bad = ~(np.isfinite(z).all(-1) & np.isfinite(x).all(-1))
    if bad.any():
        raise ValueError(
            f"fit_amortized: {bad.sum()} of {len(z)} simulations are not finite, on the unconstrained scale for the "
            "latents; narrow the priors, or let the model observe a transform of the data."
        )
