"""Parameters: nested dicts of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ppl_flows.core.namespace import namespace

if TYPE_CHECKING:
    from ppl_flows.core.types import Array, Params

# They are walked at every pass, so a level is one call, and not one per array: what is no dict and has a shape is an
# array. Other mappings than dicts become dicts where a pass begins (``precision.in_one_dtype``).


def is_group(value: Any) -> bool:
    """Whether it is nested params, and no array."""
    return isinstance(value, Mapping)


def first_weight(params: Params) -> Array | None:
    """The first array that is no state; None where there is none."""
    for key, value in params.items():
        weight = None if key == "state" else first_weight(value) if isinstance(value, dict) else value
        if weight is not None:
            return weight
    return None


def flatten(params: Params) -> Iterator[tuple[str, Array]]:
    """The arrays under dotted names."""
    found: list[tuple[str, Array]] = []
    _collect(params, "", found)
    return iter(found)


def _collect(params: Params, prefix: str, found: list[tuple[str, Array]]) -> None:
    for key, value in params.items():
        if isinstance(value, dict) or (not hasattr(value, "shape") and is_group(value)):
            _collect(value, f"{prefix}{key}.", found)
        else:
            found.append((f"{prefix}{key}", value))


def map_params(f: Callable[[str, Array], Any], params: Params, prefix: str = "") -> dict[str, Any]:
    """The same nesting with ``f(dotted name, array)`` in place of each array."""
    mapped = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, dict) or (not hasattr(value, "shape") and is_group(value))
        mapped[key] = map_params(f, value, f"{name}.") if nested else f(name, value)
    return mapped


def split(params: Params) -> tuple[Params, Params]:
    """What an optimiser trains, and what is below a key ``"state"``, such as running averages.

    Args:
        params: nested dict of arrays.

    Returns:
        ``(weights, state)``, nested likewise; ``merge`` puts them together.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> params = pf.BatchNorm(1).init(np.random.default_rng(0))
        >>> weights, state = pf.split(params)
        >>> sorted(weights), state
        (['log_scale', 'shift'], {'state': {'mean': array([0.]), 'var': array([1.])}})
    """
    weights: dict[str, Any] = {}
    state: dict[str, Any] = {}
    for key, value in params.items():
        if key == "state":
            state[key] = value
        elif isinstance(value, dict) or (not hasattr(value, "shape") and is_group(value)):
            weights[key], below = split(value)
            if below:
                state[key] = below
        else:
            weights[key] = value
    return weights, state


def merge(weights: Params, state: Params) -> Params:
    """The params that ``split`` took apart.

    Args:
        weights: the first that ``split`` gave, or as an optimiser has moved them.
        state: the second.

    Returns:
        The params, a nested dict.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> params = pf.BatchNorm(1).init(np.random.default_rng(0))
        >>> pf.merge(*pf.split(params)).keys() == params.keys()
        True
    """
    merged = {**weights, **state}
    for key in weights.keys() & state.keys():
        merged[key] = merge(weights[key], state[key])
    return merged


def stack(params: Sequence[Params]) -> dict[str, Any]:
    """Params of one structure, each array stacked along a new first axis."""
    stacked = {}
    for key, first in params[0].items():
        rows = [p[key] for p in params]
        stacked[key] = stack(rows) if isinstance(first, dict) else namespace(first).stack(rows, axis=0)
    return stacked


def unstack(params: Params, n: int) -> list[dict[str, Any]]:
    """The n params that ``stack`` put together."""
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for key, value in params.items():
        for row, part in zip(rows, unstack(value, n) if isinstance(value, dict) else value, strict=True):
            row[key] = part
    return rows
