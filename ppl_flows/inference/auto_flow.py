"""What the guides of both shells share: their sizes, flows, first parameters, and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.bijections import Elementwise, TriangularAffine
from ppl_flows.combinators.chain import Chain, Frozen
from ppl_flows.core.bijection import Bijection, Params
from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import initial_params
from ppl_flows.inference.gaussian_start import FULL_RANK_DIM, Gaussian
from ppl_flows.recipes import guide_flow
from ppl_flows.transformers import Affine


class Quality(NamedTuple):
    """What a wish for a guide means: size of its flow, and effort of ``fit``."""

    flow_layers: int
    steps: int
    num_particles: int


QUALITIES = {
    "quick": Quality(flow_layers=12, steps=2_000, num_particles=16),
    "standard": Quality(flow_layers=16, steps=2_000, num_particles=64),
    "thorough": Quality(flow_layers=24, steps=8_000, num_particles=64),
}


def budget(guide: Any, steps: int | None, num_particles: int | None) -> tuple[int, int]:
    """Steps and particles of ``fit``: as given, or as the guide's quality says."""
    quality = QUALITIES[getattr(guide, "quality", "standard")]
    return (
        quality.steps if steps is None else steps,
        quality.num_particles if num_particles is None else num_particles,
    )


ATTEMPTS = 3  # at a point where the model can be run, after the guide's own


def check_guide(quality: str, start: str | Mapping[str, Any] | Gaussian, init_scale: float) -> None:
    """Raises ValueError for options that ``AutoFlow`` does not have."""
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}; got {quality!r}.")
    kinds = ("auto", "full_rank", "mean_field", "laplace", "init")
    if not isinstance(start, Mapping | Gaussian) and start not in kinds:
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
    params, xp = dict(initial_params(bijection, seed)), namespace(start.mean)
    if "theta" in params["1"]:
        affine = {"theta": xp.stack([start.mean, xp.asarray(np.log(start.diagonal))], axis=-1)}
    else:
        factor = np.diag(start.factor) if start.factor.ndim == 1 else start.factor
        affine = {"l": np.tril(factor, -1) + np.diag(np.log(start.diagonal)), "b": start.mean}
    return {**params, **({"2": {"state": affine}} if fixed else {"1": affine})}


def check_local(features: Any, start: str, init_scale: float) -> None:
    """Raises ValueError for options that ``AutoLocalFlow`` does not have."""
    if start not in ("auto", "init"):
        raise ValueError(f"AutoLocalFlow: start must be auto or init, got {start!r}.")
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


def identity(dim: int) -> Bijection:
    """A flow for a guide of which only the start is wanted."""
    return Elementwise(dim, Affine())


class LocalStart(NamedTuple):
    """Where an ``AutoLocalFlow`` starts: local latents given the globals z are normal around ``loc + z @ weight``."""

    loc: np.ndarray  # (rows, dim)
    log_scale: np.ndarray  # (rows, dim)
    weight: np.ndarray  # (global_dim, dim), the same for all rows
    globals_: str | Gaussian = "init"  # the ``start`` of their guide

    @classmethod
    def around(cls, loc: np.ndarray, scale: float, rows: int) -> LocalStart:
        """All rows alike, whatever the globals."""
        loc = np.tile(loc, (rows, 1))
        return cls(loc, np.full(loc.shape, np.log(scale)), np.zeros((0, loc.shape[1])))

    @classmethod
    def near(cls, gaussian: Gaussian, places: dict[str, np.ndarray], local: list[str]) -> LocalStart:
        """From a Gaussian of all latents, by the places of every site's elements in its vector, those in rows named."""
        locals_ = np.concatenate([places[n].reshape(len(places[n]), -1) for n in local], axis=-1)
        globals_ = np.concatenate(
            [np.ravel(p) for n, p in places.items() if n not in local] or [np.zeros(0, dtype=int)]
        )
        mean, factor = gaussian.mean, gaussian.factor
        if factor.ndim == 1:
            weight, scale = np.zeros((len(globals_), locals_.shape[1])), factor[locals_]
            own = factor[globals_]
        else:
            own = np.asarray(np.linalg.qr(factor[globals_].T, mode="r")).T
            own = own * np.sign(np.diag(own))  # a Cholesky factor of the globals' covariance
            covariances = np.einsum("gn,rln->grl", factor[globals_], factor[locals_]).mean(1)
            weight = np.linalg.solve(own @ own.T, covariances)
            scale = np.linalg.norm(factor[locals_] - np.einsum("gl,gn->ln", weight, factor[globals_]), axis=-1)
        loc = mean[locals_] - mean[globals_] @ weight
        return cls(loc, np.log(scale), weight, Gaussian(mean[globals_], own))


def local_params(bijection: Bijection, start: LocalStart, seed: int, *, free: bool) -> Params:
    """``{"flow": of local_bijection, "rows": (rows, 2 * dim)}``, started there.

    The numbers of a free row are added to location and log scale, and known to the flow. Without free rows, which
    start at their mean, there is no ``"rows"``.
    """
    flow, numbers = dict(initial_params(bijection, seed)), np.stack([start.loc, start.log_scale], axis=-1)
    numbers = numbers.reshape(len(numbers), -1)
    weight = np.zeros_like(flow["1"]["net"]["w0"])
    weight[: len(start.weight), ::2] = start.weight
    if free:
        weight[-numbers.shape[1] :] = np.eye(numbers.shape[1])
    flow["1"] = {"net": {"w0": weight, "b0": numbers.mean(0)}}
    return {"flow": flow, "rows": numbers - numbers.mean(0)} if free else {"flow": flow}


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


class Observations:
    """Data sets, ``{site: (n, *site shape)}``, as what networks take: vectors, or, for an encoder, the sites, scaled.

    Numbers of a vector are scaled each by itself, sites as a whole, which keeps what their elements have in common.
    """

    def __init__(self, data: dict[str, np.ndarray], *, encoder: bool) -> None:
        self._scalers = {n: Scaler.of(v.reshape(-1, 1) if encoder else _flat(v)) for n, v in data.items()}
        self._encoder = encoder

    def __call__(self, data: dict[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
        if self._encoder:
            return {name: scaler(data[name]) for name, scaler in self._scalers.items()}
        return np.concatenate([scaler(_flat(data[name])) for name, scaler in self._scalers.items()], axis=-1)


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)


ENCODED_ROWS = 1_024  # per call of an encoder, outside training


def check_encoded(shape: tuple[int, ...], trains: bool) -> None:
    """Raises ValueError unless an encoder that trains gave contexts of this shape for 2 rows."""
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"encoder: for 2 rows it must give shape (2, context_dim), but gave {tuple(shape)}.")
    if not trains:
        raise ValueError("encoder: it has no parameters to train; what a fixed function gives can be the data itself.")


def check_sites(data: list[str], latents: list[str]) -> None:
    """Raises ValueError unless a model for ``fit_amortized`` has both data and latents."""
    if not data or not latents:
        raise ValueError(
            f"fit_amortized: the model needs sites with obs, got {data}, and latent ones, got {latents}; give it data "
            "of the right shapes, whose values are not used."
        )


def check_simulations(z: np.ndarray, data: dict[str, np.ndarray]) -> None:
    """Raises ValueError unless there are enough simulations and all are finite."""
    if len(z) < 100:
        raise ValueError(f"fit_amortized: simulations must be at least 100, got {len(z)}.")
    bad = ~np.all([np.isfinite(_flat(v)).all(-1) for v in (z, *data.values())], axis=0)
    if bad.any():
        raise ValueError(
            f"fit_amortized: {bad.sum()} of {len(z)} simulations are not finite, on the unconstrained scale for the "
            "latents; narrow the priors, or let the model observe a transform of the data."
        )
