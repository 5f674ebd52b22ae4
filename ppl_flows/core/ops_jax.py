"""JAX namespace."""

import jax
import jax.numpy as jnp
from jax.nn import elu as elu
from jax.nn import relu as relu
from jax.nn import sigmoid as sigmoid
from jax.nn import silu as silu
from jax.nn import softplus as softplus
from jax.numpy import *  # noqa: F403  the namespace *is* the array API

from ppl_flows.core.autoregressive_jax import autoregressive_inverse as autoregressive_inverse


def constant(array, like):
    return jnp.asarray(array, dtype=like.dtype if array.dtype.kind in "fb" else None)


def softmax(x):
    return jax.nn.softmax(x, axis=-1)


def gelu(x):
    return jax.nn.gelu(x, approximate=True)
