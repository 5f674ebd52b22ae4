"""A bijection's passes outside of programs: each is traced and compiled once for all arrays of its shapes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from ppl_flows.core.types import Params

Pass = Callable[[Params, Array, Array | None], tuple[Array, Array]]

PROGRAMS = 32  # that are kept, of some MiB each
_programs: OrderedDict[Hashable, Pass] = OrderedDict()
_lock = Lock()


def forward(bijection: Any, params: Params, x: Array, context: Array | None = None) -> tuple[Array, Array]:
    """``bijection.forward(params, x, context)``, which a second call with these shapes and dtypes does not trace again.

    Equal bijections share their programs, of which the latest ``PROGRAMS`` are kept. ``grad`` and ``vmap`` are taken
    of programs; inside ``jit`` and its like, and for a bijection that has no hash, it is the pass itself.
    """
    return _run(bijection, "forward", params, x, context)


def inverse(bijection: Any, params: Params, y: Array, context: Array | None = None) -> tuple[Array, Array]:
    """``bijection.inverse(params, y, context)``, as in ``forward``."""
    return _run(bijection, "inverse", params, y, context)


def _run(bijection: Any, direction: str, params: Params, v: Array, context: Array | None) -> tuple[Array, Array]:
    run: Pass = getattr(bijection, direction)
    arrays, structure = jax.tree.flatten((params, v, context))
    if not all(isinstance(a, Array | np.ndarray) for a in arrays):
        return run(params, v, context)  # which says what is wrong
    if any(isinstance(a, Tracer) for a in arrays) and _is_recorded():
        return run(params, v, context)
    key = bijection, direction, structure, tuple((a.shape, a.dtype) for a in arrays)
    try:
        hash(key)
    except TypeError:  # a field of a user's own class
        return run(params, v, context)
    with _lock:
        if key not in _programs:
            _programs[key] = jax.jit(run)
            while len(_programs) > PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        program = _programs[key]
    return program(params, v, context)


def _is_recorded() -> bool:
    """Whether operations go into a program, as ``jit`` records them: then those on constants do, too."""
    return isinstance(lax.neg(np.float32(0)), Tracer)
