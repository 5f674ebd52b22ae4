"""What guides of both shells check alike, and what ``fit`` checks of any guide."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import dropwhile
from typing import Any

RUNS = 5  # of model and guide that must all differ before a guide is refused: sites may vary from run to run

Shape = tuple[int, ...]


@contextmanager
def all_or_nothing(guide: Any) -> Iterator[None]:
    """Leaves the guide as it was before, whatever is raised inside."""
    before = {name: copy.copy(v) if isinstance(v, dict | set) else v for name, v in vars(guide).items()}
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            vars(guide).clear()
            vars(guide).update(before)


def check_set_up(guide: Any, way: str) -> None:
    """Raises RuntimeError unless the guide has seen its model; ``way`` is how it sees it."""
    if guide.prototype_trace is None:
        raise RuntimeError(
            f"{type(guide).__name__}: this guide is not set up yet, as it has not seen its model; fit it, or {way}."
        )


def refuse_discrete(name: str, *, enumerable: bool) -> None:
    """Raises ValueError for a discrete latent that no one sums over."""
    way = (
        'mark it infer={"enumerate": "parallel"}, and it is summed over'
        if enumerable
        else "it has too many values to sum over, so hide it with a block and give it a guide of its own"
    )
    raise ValueError(f"a flow cannot draw the discrete latent {name!r}; {way}.")


@dataclass(frozen=True)
class Sites:
    """The sample sites of one run of a model or guide.

    Attributes:
        latents: their shapes.
        optional: the latents that the other side need not have: auxiliary, enumerated or masked ones.
        discrete: the latents that could be enumerated.
        observed: names of what it observes, factors and deterministics not among them.
    """

    latents: dict[str, Shape] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)
    discrete: set[str] = field(default_factory=set)
    observed: set[str] = field(default_factory=set)


def check_not_swapped(model: Any, kind: type) -> None:
    """Raises ValueError for a guide in the model's place; ``kind`` is the language's class of automatic guides."""
    if isinstance(model, kind):
        raise ValueError(f"fit: the model is a guide, {type(model).__name__}; the order is fit(model, guide, ...).")


def check_same_sites(runs: Iterable[tuple[Sites, Sites]]) -> None:
    """Compares runs of a model and a guide; the second is only taken if the first differ, and so on.

    Raises:
        ValueError: in every one of them, the same sites of one are missing in the other, or have another shape.
    """
    differences: set[tuple[str, str]] | None = None
    for model, guide in runs:
        if guide.observed and not model.observed:
            raise ValueError(
                f"fit: the guide observes {sorted(guide.observed)} and the model nothing: are they swapped? "
                "The order is fit(model, guide, ...)."
            )
        found = _differences(model, guide)
        differences = found if differences is None else differences & found
        if not differences:
            return
    if differences:
        lines = "; ".join(f"{site!r} {what}" for site, what in sorted(differences))
        raise ValueError(
            f"fit: the guide is not one of this model: {lines}. Make the guide from the model that is fitted, and mark "
            "what only one of the two should draw infer={'is_auxiliary': True}."
        )


def _differences(model: Sites, guide: Sites) -> set[tuple[str, str]]:
    found = set()
    for name in model.latents.keys() - guide.latents.keys() - model.optional:
        mark = ', and could be summed over, marked infer={"enumerate": "parallel"}' if name in model.discrete else ""
        found.add((name, f"is a latent of the model only{mark}"))
    for name in guide.latents.keys() - model.latents.keys() - guide.optional:
        where = "observed by" if name in model.observed else "not in"
        found.add((name, f"is drawn by the guide, but {where} the model"))
    for name in model.latents.keys() & guide.latents.keys():
        ours, theirs = guide.latents[name], model.latents[name]
        if _without_leading_ones(ours) != _without_leading_ones(theirs):
            found.add((name, f"has shape {theirs} in the model and {ours} in the guide"))
    return found


def _without_leading_ones(shape: Shape) -> Shape:
    return tuple(dropwhile(lambda size: size == 1, shape))
