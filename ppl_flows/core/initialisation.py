"""The parameters that a bijection or a base starts with, and what they must look like."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache
from math import prod
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from ppl_flows.core.checks import checked_seed
from ppl_flows.core.metered_generator import MeteredGenerator
from ppl_flows.core.namespace import library
from ppl_flows.core.params import flatten, is_group, map_params, split, stack

if TYPE_CHECKING:
    from ppl_flows.core.base_distribution import Base
    from ppl_flows.core.bijection import Bijection
    from ppl_flows.core.types import Array, Params

KEPT, KEPT_BYTES = 128, 2**24  # sets of initial parameters, and their size
_recent: OrderedDict[tuple[Bijection | Base, int], tuple[Params, int]] = OrderedDict()
_lock = Lock()


@lru_cache(maxsize=1024)
def is_stateful(bijection: Bijection) -> bool:
    """Whether some of its params are state."""
    return bool(split(bijection.init(np.random.default_rng(0)))[1])


def initial_params(bijection: Bijection | Base, seed: int) -> Params:
    """``bijection.init`` from a seed; the arrays are shared between calls and read-only.

    A model asks for them at every run. The latest are kept, up to a size, and the last set whatever its size.

    Raises:
        TypeError, ValueError: as in ``checked_seed``.
    """
    return _initial_params(bijection, checked_seed(type(bijection).__name__, seed))


def _initial_params(bijection: Bijection | Base, seed: int) -> Params:
    with _lock:
        if (bijection, seed) in _recent:
            _recent.move_to_end((bijection, seed))
            return _recent[bijection, seed][0]
    params = bijection.init(np.random.default_rng(seed))
    for _, array in flatten(params):
        array.flags.writeable = False
    with _lock:
        _recent[bijection, seed] = params, sum(array.nbytes for _, array in flatten(params))
        while len(_recent) > 1 and (len(_recent) > KEPT or sum(size for _, size in _recent.values()) > KEPT_BYTES):
            _recent.popitem(last=False)
    return params


def check_params(bijection: Bijection | Base, params: Params, *, more: bool = False) -> None:
    """Raises ValueError unless params have the names and shapes of ``bijection.init``; ``more``: other names too."""
    try:
        shapes = _shapes(bijection)
    except TypeError:  # no hash
        shapes = _shapes.__wrapped__(bijection)
    _check(bijection, shapes, params, more)


def check_shapes(bijection: Bijection | Base, shapes: Params, params: Params) -> None:
    """As ``check_params``, against the shapes that ``shapes_within`` gives."""
    _check(bijection, dict(flatten(shapes)), params, more=False)


def _check(bijection: Bijection | Base, expected: dict[str, tuple[int, ...]], params: Params, more: bool) -> None:
    name = type(bijection).__name__
    way_out = "make them with bijection.init or pf.load"
    if not is_group(params):
        raise ValueError(f"params do not fit {name}: they must be a nested dict, got {params!r}; {way_out}.")
    got = dict(flatten(params))
    if wrong := [leaf for leaf, value in got.items() if not hasattr(value, "shape")]:
        kind = type(got[wrong[0]]).__name__
        raise ValueError(f"params do not fit {name}: {wrong[0]!r} should be an array, got a {kind}; {way_out}.")
    shapes = {leaf: tuple(value.shape) for leaf, value in got.items()}
    for leaf in sorted(expected.keys() if more else expected.keys() | shapes.keys()):
        if expected.get(leaf) != shapes.get(leaf):
            raise ValueError(
                f"params do not fit {name}: {leaf!r} should have shape {expected.get(leaf)}, got {shapes.get(leaf)} "
                f"(None: absent); {way_out}."
            )


def check_one_library(bijection: Bijection, params: Params, v: Array, context: Array | None) -> None:
    """Raises TypeError unless params, value and context are arrays of one library."""
    own = library(v)
    for name, a in (*flatten(params), *([] if context is None else [("context", context)])):
        if library(a) not in (own, "numpy" if own == "jax" else own):  # which takes NumPy's arrays as its own
            raise TypeError(
                f"{type(bijection).__name__} got x as an array of {own}, but {name!r} as one of {library(a)}; convert "
                "one of them."
            )


@lru_cache(maxsize=1024)
def _shapes(bijection: Bijection | Base) -> dict[str, tuple[int, ...]]:
    return {name: tuple(a.shape) for name, a in flatten(bijection.init(np.random.default_rng(0)))}


@lru_cache(maxsize=128)
def shapes_within(bijection: Bijection | Base, numbers: int) -> Params:
    """The shapes of ``bijection.init`` in its nesting, found in memory for about so many numbers.

    Raises:
        ValueError: it has far more.
    """
    return map_params(lambda _, a: tuple(a.shape), bijection.init(MeteredGenerator(numbers)))


def stacked_init(part: Bijection, n: int, rng: np.random.Generator) -> Params:
    """Parameters of n such parts, each array with an axis over them in front."""
    first = part.init(rng)
    if isinstance(rng, MeteredGenerator):  # nobody wants more than the shapes, and n may be anything
        rng.spend((n - 1) * sum(a.size for _, a in flatten(first)))
        return map_params(lambda _, a: np.broadcast_to(a, (n, *a.shape)), first)
    return stack([first, *(part.init(rng) for _ in range(n - 1))])


def number_of_weights(bijection: Bijection | Base) -> int:
    """How many numbers an optimiser trains."""
    return sum(prod(shape) for name, shape in _shapes(bijection).items() if "state" not in name.split("."))
