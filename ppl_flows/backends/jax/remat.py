"""JAX drivers of ``remat``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ppl_flows.core.types import Params
from ppl_flows.numerics.reversible_pass import allowed_error, ill_conditioned, round_trip_error, walk, walk_back

Pass = tuple[Params, Array, Array]  # what changed of params, out, log_det


def checkpoint(run: Callable[..., Any]) -> Callable[..., Any]:
    return jax.checkpoint(run)


def reversible(stack: Any, forward: bool, stage: str | None, params: Params, v: Array, context: Array | None) -> Pass:
    new, out, log_det = _reversible(stack, forward, stage, params, v, context)
    return lax.stop_gradient(new), out, log_det


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _reversible(stack: Any, forward: bool, stage: str | None, params: Params, v: Array, context: Array | None) -> Pass:
    return walk(stack, forward, stage, params, v, context)


def _forward(
    stack: Any, forward: bool, stage: str | None, params: Params, v: Array, context: Array | None
) -> tuple[Pass, tuple[Params, Array, Array | None, Array]]:
    result = walk(stack, forward, stage, params, v, context)
    return result, (params, v, context, result[1])


def _backward(
    stack: Any,
    forward: bool,
    stage: str | None,
    saved: tuple[Params, Array, Array | None, Array],
    cotangents: Pass,
) -> tuple[Params, Array, Array | None]:
    params, v, context, out = saved
    gradients, again = walk_back(jax.vjp, stack, forward, stage, params, context, out, cotangents[1:])
    allowed = allowed_error(v)

    def check(error: np.ndarray) -> np.ndarray:
        largest = float(np.max(error))
        if not largest <= allowed:
            raise ill_conditioned(stack, largest, allowed)
        return np.full(np.shape(error), True)

    error = lax.stop_gradient(round_trip_error(v, again))
    fine = jax.pure_callback(check, jax.ShapeDtypeStruct((), bool), error, vmap_method="expand_dims")
    # a callback whose result nothing needs would not run
    fine_or_nan: tuple[Params, Array, Array | None] = jax.tree.map(lambda g: jnp.where(fine, g, jnp.nan), gradients)
    return fine_or_nan


_reversible.defvjp(_forward, _backward)
