"""Checkpoints of trainings in NumPyro: arrays as NumPy keeps them, and what says which fit it is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax

from ppl_flows.inference import checkpoint as shared
from ppl_flows.inference.checkpoint import Checkpoint
from ppl_flows.numpyro.mesh import on_host


def open_checkpoint(
    path: str | os.PathLike[str] | None,
    every: float,
    *,
    options: Mapping[str, Any],
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]],
    **names: Any,
) -> Checkpoint | None:
    """The checkpoint of a fit with these options, arguments of its model, and other objects by name.

    Raises:
        As ``Checkpoint``.
    """
    if path is None:
        return None
    config: Any = jax.config  # its options have no types
    environment = {m.__name__: m.__version__ for m in (jax, numpyro, optax, np)}
    environment |= {"x64": str(config.jax_enable_x64), "platform": jax.default_backend()}
    fit = {
        "language": "numpyro",
        "options": {name: describe(value) for name, value in options.items()},
        "arguments": shared.describe_arguments(*arguments, _array_of),
        **{name: describe(value) for name, value in names.items()},
        "environment": environment,
    }
    return Checkpoint(path, every, fit, _array_of, _array_from)


def _array_of(value: Any) -> tuple[np.ndarray, str] | None:
    if not isinstance(value, jax.Array | np.ndarray | np.generic):
        return None
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(value)), str(value.dtype)  # type: ignore[arg-type]
    array = on_host(value)
    if array.dtype.kind in "OUS":  # no numbers
        return None
    name = str(array.dtype)
    return (array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array), name  # such as bfloat16


def _array_from(array: np.ndarray, dtype: str) -> np.ndarray:
    return array if dtype.startswith("key<") else array.view(jnp.dtype(dtype))


describe = partial(shared.describe, array_of=_array_of)


def describe_flows(guide: Any) -> list[str]:
    """Those of our own guides, once they are set up."""
    parts = (getattr(part, "_bijection", None) for part in (guide, getattr(guide, "_globals", None)))
    return [repr(bijection) for bijection in parts if bijection is not None]


def like(leaves: Sequence[Any], arrays: Sequence[np.ndarray]) -> list[jax.Array]:
    """Arrays of a checkpoint as what stands in these leaves.

    Raises:
        ValueError: they have other shapes or dtypes.
    """
    return [_one_like(leaf, array) for leaf, array in zip(leaves, arrays, strict=True)]


def _one_like(leaf: Any, array: np.ndarray) -> jax.Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    if array.shape != leaf.shape or array.dtype != leaf.dtype:
        raise ValueError(f"expected {leaf.dtype} {leaf.shape}, got {array.dtype} {array.shape}.")
    return jnp.asarray(array)
