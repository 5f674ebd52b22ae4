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

    Raises:
        TypeError: a forward-mode derivative is taken of a layer that has none, ``NeuralODE`` or ``remat="reversible"``.
    """
    return _run(bijection, "forward", params, x, context)


def inverse(bijection: Any, params: Params, y: Array, context: Array | None = None) -> tuple[Array, Array]:
    """``bijection.inverse(params, y, context)``, as in ``forward``."""
    return _run(bijection, "inverse", params, y, context)


def _run(bijection: Any, direction: str, params: Params, v: Array, context: Array | None) -> tuple[Array, Array]:
    run: Pass = getattr(bijection, direction)
    try:
        return _program(bijection, direction, run, params, v, context)(params, v, context)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            f"{type(bijection).__name__}: JAX has no forward-mode derivatives of NeuralODE and of remat='reversible'; "
            "take reverse-mode ones (jax.grad, jax.vjp, jax.jacrev; no forward_mode_differentiation), or another layer."
        ) from error


def _program(bijection: Any, direction: str, run: Pass, params: Params, v: Array, context: Array | None) -> Pass:
    """``run`` as a program; itself where that cannot be."""
    arrays, structure = jax.tree.flatten((params, v, context))
    if not all(isinstance(a, Array | np.ndarray) for a in arrays):
        return run  # which says what is wrong
    if any(isinstance(a, Tracer) for a in arrays) and _is_recorded():
        return run
    key = bijection, direction, structure, tuple((a.shape, a.dtype) for a in arrays)
    try:
        hash(key)
    except TypeError:  # a field of a user's own class
        return run
    with _lock:
        if key not in _programs:
            _programs[key] = jax.jit(run)
            while len(_programs) > PROGRAMS:
                _programs.popitem(last=False)
        _programs.move_to_end(key)
        return _programs[key]


def _is_recorded() -> bool:
    """Whether operations go into a program, as ``jit`` records them: then those on constants do, too."""
    return isinstance(lax.neg(np.float32(0)), Tracer)
