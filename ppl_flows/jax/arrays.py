"""``to_array``: what users hand in, as JAX arrays."""

from __future__ import annotations

from typing import Any

import jax

from ppl_flows.inference.arrays import to_numpy


def to_array(array: Any) -> jax.Array:
    """A JAX array; floats of NumPy and torch arrays in JAX's default dtype."""
    if isinstance(array, jax.Array):
        return array
    array = to_numpy(array)
    if array.dtype.kind == "f":
        array = array.astype(jax.dtypes.canonicalize_dtype(float), copy=False)
    return jax.device_put(array)  # jnp.asarray, and a cast, would compile a program for every shape
