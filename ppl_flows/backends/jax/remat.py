"""JAX drivers of ``remat``."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl_flows.numerics.reversible_pass import allowed_error, ill_conditioned, round_trip_error, walk, walk_back


def checkpoint(run):
    return jax.checkpoint(run)


def reversible(stack, forward, stage, params, v, context):
    new, out, log_det = _reversible(stack, forward, stage, params, v, context)
    return lax.stop_gradient(new), out, log_det


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _reversible(stack, forward, stage, params, v, context):
    return walk(stack, forward, stage, params, v, context)


def _forward(stack, forward, stage, params, v, context):
    result = walk(stack, forward, stage, params, v, context)
    return result, (params, v, context, result[1])


def _backward(stack, forward, stage, saved, cotangents):
    params, v, context, out = saved
    gradients, again = walk_back(jax.vjp, stack, forward, stage, params, context, out, cotangents[1:])
    allowed = allowed_error(v)

    def check(error):
        largest = float(np.max(error))
        if not largest <= allowed:
            raise ill_conditioned(stack, largest, allowed)
        return np.full(np.shape(error), True)

    error = lax.stop_gradient(round_trip_error(v, again))
    fine = jax.pure_callback(check, jax.ShapeDtypeStruct((), bool), error, vmap_method="expand_dims")
    # a callback whose result nothing needs would not run
    return jax.tree.map(lambda g: jnp.where(fine, g, jnp.nan), gradients)


_reversible.defvjp(_forward, _backward)
