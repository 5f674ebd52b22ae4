"""What the guides of both shells share: their sizes, flows, first parameters, and checks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.bijections import Elementwise, Householder, TriangularAffine
from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.frozen import Frozen
from ppl_flows.combinators.inverse import Inverse
from ppl_flows.combinators.partial import Partial
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import POSITIVE, real_number
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Params
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.gaussian_start import FULL_RANK_DIM, MATCHED_DIM
from ppl_flows.inference.low_rank import RANK, reflections
from ppl_flows.inference.model_map import ModelMap, Observations
from ppl_flows.inference.schedule import BLOCKS
from ppl_flows.recipes import guide_flow
from ppl_flows.transformers import Affine


class Quality(NamedTuple):
    """What a wish for a guide means: size of its flow, and effort of ``fit``; ``look`` steps may be enough."""

    flow_layers: int
    steps: int
    num_particles: int
    look: int | None = None


QUALITIES = {
    "quick": Quality(flow_layers=12, steps=2_000, num_particles=16),
    "standard": Quality(flow_layers=16, steps=2_000, num_particles=64),
    "thorough": Quality(flow_layers=24, steps=8_000, num_particles=64),
}
# by the nats that a start leaves over; the steps are those of a first look
TRIFLE = 0.25
ENOUGH = {
    0.01: Quality(flow_layers=4, steps=500, num_particles=32),
    TRIFLE: Quality(flow_layers=16, steps=1_000, num_particles=64),
}


def sized(quality: str, kl: float, dim: int, informed: ModelMap | None) -> Quality:
    """What a wish for a guide means after a start whose KL to the posterior is about so many nats.

    Above ``MATCHED_DIM`` dimensions there are fewer draws, as many as keep the cost of all steps from growing. An
    informed guide has twice the steps, as it learns the tails of scales last; one with a block has half the draws, as
    each costs several times as much. Where the start left a trifle, a first look may end the training long before.
    """
    full = QUALITIES[quality]
    if informed and informed.block:
        full = full._replace(num_particles=full.num_particles // 2)
    elif informed:
        full = full._replace(steps=2 * full.steps)
    if dim > MATCHED_DIM:
        share = (MATCHED_DIM / dim) ** 0.5
        steps, particles = round(full.steps * share), round(full.num_particles * share)
        full = full._replace(steps=max(steps, 1), num_particles=max(particles, 1))
    for bound, enough in ENOUGH.items():
        if kl < bound:
            block = max(1, full.steps // BLOCKS)
            return Quality(
                min(full.flow_layers, enough.flow_layers),
                full.steps,
                min(full.num_particles, enough.num_particles),
                max(block, enough.steps // block * block) if enough.steps < full.steps else None,
            )
    return full


def fit_budget(guide: Any, steps: int | None, num_particles: int | None) -> tuple[int, int]:
    """Steps and particles of ``fit``: as given, or as the guide's quality and start say."""
    size = _size(guide)
    return (
        size.steps if steps is None else steps,
        size.num_particles if num_particles is None else num_particles,
    )


def first_look(guide: Any, steps: int | None) -> int | None:
    """After how many steps a training may be enough, as the guide's start says; None: none, or steps are given."""
    return _size(guide).look if steps is None else None


def _size(guide: Any) -> Quality:
    size = getattr(guide, "size", None)
    return size if isinstance(size, Quality) else QUALITIES[getattr(guide, "quality", "standard")]


SEARCHED = (
    "auto",
    "full_rank",
    "low_rank",
    "mean_field",
    "laplace",
)  # starts in which a guide may find its coordinates
ATTEMPTS = 3  # at a point where the model can be run, after the guide's own


def check_guide(
    quality: str, start: str | Mapping[str, Any] | Gaussian, init_scale: float, informed: bool | str = False
) -> None:
    """Raises ValueError, or TypeError for those of the wrong kind, for options that ``AutoFlow`` does not have."""
    if not isinstance(informed, bool) and informed != "auto":
        raise ValueError(f"informed must be 'auto', True or False; got {informed!r}.")
    if informed is True and start not in SEARCHED:
        raise ValueError(
            f"informed=True goes with a start that is searched for, {', '.join(SEARCHED)}; got start={start!r:.100}."
        )
    if quality not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}; got {quality!r}.")
    kinds = (*SEARCHED, "init")
    if not isinstance(start, Mapping | Gaussian) and not (isinstance(start, str) and start in kinds):
        raise ValueError(f"start must be one of {', '.join(kinds)}, or draws as a dict of sites; got {start!r}.")
    real_number("AutoFlow", "init_scale", init_scale, *POSITIVE)


def check_start(draws: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], others: Collection[str]) -> None:
    """Raises ValueError unless draws are of all latent sites, of these shapes, and of no others than sites at all."""
    if missing := [name for name in shapes if name not in draws]:
        raise ValueError(
            f"AutoFlow: start has no draws of {missing}, latent sites of the model; it must have those of all of them, "
            f"{[*shapes]}, and has {[*draws]}."
        )
    if unknown := [name for name in draws if name not in shapes and name not in others]:
        raise ValueError(f"AutoFlow: start has draws of {unknown}, but the model's latent sites are {[*shapes]}.")
    n = np.shape(draws[next(iter(shapes))])[:1]
    for name, shape in shapes.items():
        value = to_numpy(draws[name], f"start[{name!r}]")
        if value.shape != (*n, *shape):
            raise ValueError(
                f"AutoFlow: start[{name!r}] must have shape (draws, *site shape), {(*n, *shape)}, got {value.shape}."
            )
        if not np.all(np.isfinite(value)):
            raise ValueError(f"AutoFlow: start[{name!r}] must be finite; drop the draws that are not.")


def guide_bijection(
    recipe: Callable[[int], Bijection] | None, dim: int, flow_layers: int, informed: ModelMap | None = None
) -> Chain:
    """What ``AutoFlow`` trains: the recipe's flow, checked, a trainable affine map, one that stays as it starts, and
    the map of the model, if it has any.

    Raises:
        TypeError: the recipe gives something else than a Bijection.
        ValueError: its flow has another event size, or wants a context.
    """
    make: Any = partial(guide_flow, flow_layers=flow_layers) if recipe is None else recipe
    flow = make(dim) if callable(make) else make
    if not (recipe is None or callable(recipe)) or not isinstance(flow, Bijection):
        raise TypeError(
            f"AutoFlow: flow must be a callable dim -> Bijection, such as pf.iaf, but it gave {type(flow).__name__}; "
            "a transform of the language would not train here."
        )
    if flow.event_shape != (dim,) or flow.output_shape != (dim,):
        raise ValueError(f"AutoFlow: the model has {dim} latent dimensions, but flow maps shape {flow.event_shape}.")
    if flow.context_dim:
        raise ValueError(f"AutoFlow: flow wants a context of size {flow.context_dim}; a guide has none to give.")
    each = Elementwise(dim, Affine(max_log_scale=None))
    affine = TriangularAffine(dim) if dim <= MATCHED_DIM else each  # more numbers than that train slowly
    start = TriangularAffine(dim) if dim <= FULL_RANK_DIM else Chain({"stretch": stretch_of(dim), "affine": each})
    parts: dict[str, Bijection] = {"flow": flow, "affine": affine, "start": Frozen(start)}
    if dim > MATCHED_DIM and informed is not None and 1 < len(informed.left_alone) <= MATCHED_DIM:
        block = TriangularAffine(len(informed.left_alone))
        parts = {"flow": flow, "left_alone": Partial(block, dim=dim, index=informed.left_alone), **parts}
    return Chain(parts if informed is None else {**parts, "informed": informed})


def stretch_of(dim: int) -> Chain:
    """Scales along orthogonal directions."""
    turn, scales = Householder(dim, reflections=RANK), Elementwise(RANK, Affine(max_log_scale=None))
    return Chain(
        {"turn_back": Inverse(turn), "scales": Partial(scales, dim=dim, index=tuple(range(RANK))), "turn": turn}
    )


def with_map(bijection: Any, informed: ModelMap) -> Chain:
    """What ``guide_bijection`` has made, with another map of the model."""
    return Chain({**dict(zip(bijection.names or (), bijection.parts, strict=True)), "informed": informed})


def without_map(bijection: Chain) -> Chain:
    """What ``guide_bijection`` has made, up to the coordinates that the map of the model starts from."""
    return Chain(bijection.parts[:-1], names=(bijection.names or ())[:-1])


def guide_params(
    bijection: Any, start: Gaussian, seed: int, *, fixed: bool, seen: Observations | None = None
) -> Params:
    """Initial parameters of ``guide_bijection(...)`` that start it at this Gaussian.

    The Gaussian is in the last affine map, which stays as it is, or, not fixed, in the trainable one.

    Args:
        seen: what the map of the model starts from.
    """
    params, xp = dict(initial_params(bijection, seed)), namespace(start.mean)
    each: Params = {"theta": xp.stack([start.mean, xp.asarray(np.log(start.diagonal))], axis=-1)}
    whole, first = params["affine"], params["start"]["state"]
    if fixed:
        first = _triangle(start) if "l" in first else {"stretch": _stretch(start, first["stretch"]), "affine": each}
    else:
        whole = _triangle(start) if "l" in whole else each
    placed = {} if seen is None else {"informed": bijection.parts[-1].params_at(seen, {})}
    return {**params, "affine": whole, "start": {"state": first}, **placed}


def _triangle(start: Gaussian) -> Params:
    factor = start.triangle()
    return {"l": np.tril(factor, -1) + np.diag(np.log(np.diag(factor))), "b": start.mean}


def _stretch(start: Gaussian, nothing: Params) -> Params:
    if start.stretch is None:
        return nothing
    turn = {"v": reflections(start.stretch.directions)}
    scales = {"theta": np.stack([np.zeros(RANK), np.log(start.stretch.scales)], axis=-1)}
    return {"turn_back": turn, "scales": scales, "turn": turn}
