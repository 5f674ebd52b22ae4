"""Parameters: nested dicts of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_flows.core.namespace import namespace

if TYPE_CHECKING:
    from ppl_flows.core.base_distribution import Base
    from ppl_flows.core.bijection import Array, Bijection, Params


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


@lru_cache(maxsize=1024)
def is_stateful(bijection: Bijection) -> bool:
    """Whether some of its params are state."""
    return bool(split(bijection.init(np.random.default_rng(0)))[1])


@lru_cache(maxsize=128)
def initial_params(bijection: Bijection | Base, seed: int) -> Params:
    """``bijection.init`` from a seed; the arrays are shared between calls and read-only."""
    params = bijection.init(np.random.default_rng(seed))
    for _, array in flatten(params):
        array.flags.writeable = False
    return params


def check_params(bijection: Bijection | Base, params: Params) -> None:
    """Raises ValueError unless params have the names and shapes of ``bijection.init``."""
    expected = _shapes(bijection)
    got = {name: tuple(a.shape) for name, a in flatten(params)}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            raise ValueError(
                f"params do not fit {type(bijection).__name__}: {name!r} should have shape {expected.get(name)}, "
                f"got {got.get(name)} (None: absent); make them with bijection.init or pf.load."
            )


@lru_cache(maxsize=1024)
def _shapes(bijection: Bijection | Base) -> dict[str, tuple[int, ...]]:
    return {name: tuple(a.shape) for name, a in flatten(bijection.init(np.random.default_rng(0)))}
