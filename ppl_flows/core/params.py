"""Parameters: nested dicts of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppl_flows.core.namespace import namespace

if TYPE_CHECKING:
    from ppl_flows.core.types import Array, Params


def flatten(params: Params, prefix: str = "") -> Iterator[tuple[str, Array]]:
    """The arrays under dotted names."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def map_params(f: Callable[[str, Array], Any], params: Params, prefix: str = "") -> dict[str, Any]:
    """The same nesting with ``f(dotted name, array)`` in place of each array."""
    return {
        key: map_params(f, value, f"{prefix}{key}.") if isinstance(value, Mapping) else f(f"{prefix}{key}", value)
        for key, value in params.items()
    }


def split(params: Params) -> tuple[Params, Params]:
    """``(weights, state)``: what an optimiser trains, and what is below a key ``"state"``, such as running averages."""
    weights: dict[str, Any] = {}
    state: dict[str, Any] = {}
    for key, value in params.items():
        if key == "state":
            state[key] = value
        elif isinstance(value, Mapping):
            weights[key], below = split(value)
            if below:
                state[key] = below
        else:
            weights[key] = value
    return weights, state


def merge(weights: Params, state: Params) -> Params:
    """The params that ``split`` took apart."""
    both = {key: merge(weights[key], state[key]) for key in weights.keys() & state.keys()}
    return {**weights, **state, **both}


def stack(params: Sequence[Params]) -> Params:
    """Params of one structure, each array stacked along a new first axis."""
    first = params[0]
    return {
        key: stack([p[key] for p in params])
        if isinstance(first[key], Mapping)
        else namespace(first[key]).stack([p[key] for p in params], axis=0)
        for key in first
    }


def unstack(params: Params, n: int) -> Sequence[Params]:
    """The n params that ``stack`` put together."""
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for key, value in params.items():
        parts = unstack(value, n) if isinstance(value, Mapping) else namespace(value).unstack(value, axis=0)
        for row, part in zip(rows, parts, strict=True):
            row[key] = part
    return rows
