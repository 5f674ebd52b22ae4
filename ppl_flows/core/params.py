"""Parameters: nested dicts of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

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


@lru_cache(maxsize=16)
def initial_params(bijection: Bijection, seed: int) -> Params:
    """``bijection.init`` from a seed; the arrays are shared between calls and read-only."""
    params = bijection.init(np.random.default_rng(seed))
    for _, array in flatten(params):
        array.flags.writeable = False
    return params


def check_params(bijection: Bijection, params: Params) -> None:
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
def _shapes(bijection: Bijection) -> dict[str, tuple[int, ...]]:
    return {name: tuple(a.shape) for name, a in flatten(bijection.init(np.random.default_rng(0)))}
