"""The log density of a NumPyro model as ``gaussian_start`` asks for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl_flows.numpyro.compile_once import Program

POINTS_PER_CALL = 32  # of the log density, while a start is looked for

CALLS = 600  # about, in a start


class LogDensity:
    """A log density of one vector as what ``gaussian_start`` asks for: NumPy in, NumPy out, few shapes to compile.

    Args:
        log_density: of a vector, and of ``given``.
        given: what else it depends on, arrays.
    """

    def __init__(self, log_density: Callable[[jax.Array, Any], jax.Array], dtype: Any, given: Any = None) -> None:
        self._dtype, self._given = dtype, given
        self._one = Program(jax.value_and_grad(log_density), CALLS)
        self._many = Program(jax.vmap(jax.value_and_grad(log_density), (0, None)), CALLS)

        def hessian(z: jax.Array, given: Any) -> jax.Array:
            _, product = jax.linearize(lambda z: jax.grad(log_density)(z, given), z)
            return lax.map(product, jnp.eye(len(z), dtype=z.dtype), batch_size=32)

        self._hessians = Program(lambda z, given: lax.map(lambda z: hessian(z, given), z))

    def at(self, given: Any) -> LogDensity:
        """The same programs, given something else of the same shapes."""
        new = copy.copy(self)
        new._given = given
        return new

    def value_and_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(z) == 1:
            value, gradient = self._one(z[0].astype(self._dtype), self._given)
            return np.asarray(value, np.float64)[None], np.asarray(gradient, np.float64)[None]
        blocks = [self._many(block.astype(self._dtype), self._given) for block in blocks_of_rows(z, POINTS_PER_CALL)]
        values, gradients = (np.concatenate(arrays)[: len(z)] for arrays in zip(*blocks, strict=True))
        return values.astype(np.float64), gradients.astype(np.float64)

    def hessian(self, z: np.ndarray) -> np.ndarray:
        size = 1 if len(z) == 1 else POINTS_PER_CALL
        blocks = [self._hessians(block.astype(self._dtype), self._given) for block in blocks_of_rows(z, size)]
        return np.concatenate(blocks)[: len(z)].astype(np.float64)


def blocks_of_rows(z: np.ndarray, size: int) -> list[np.ndarray]:
    """Rows in blocks of one size; the last one is filled up with its last row."""
    missing = -len(z) % size
    return np.split(np.concatenate([z, np.repeat(z[-1:], missing, axis=0)]), (len(z) + missing) // size)
