"""The context of the rows that ``fit_density`` trains on: as given, or made by an encoder that trains too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from ppl_flows.inference.amortized import ENCODED_ROWS, check_encoded
from ppl_flows.inference.arrays import to_numpy


class Context:
    """What a conditional density is given; None, where it is given nothing.

    Args:
        values: ``(n, context_dim)``; or what the encoder takes, an array or a dict of arrays, rows first.
        encoder: from rows of values to ``(rows, context_dim)``, by parameters that it takes from ``numpyro.param``.
        seed: of their initial values.

    Attributes:
        params: of the encoder, as they start.

    Raises:
        ValueError: the encoder gives another shape, or has nothing to train.
    """

    def __init__(self, values: Any, encoder: Callable[..., Any] | None, seed: int) -> None:
        self._values = None if values is None else to_arrays(values, "context")
        self._encoder = encoder
        self.params: dict[str, Any] = {}
        if encoder is not None:
            with handlers.block(), handlers.trace() as seen, handlers.seed(rng_seed=seed):
                first = encoder(jax.tree.map(lambda v: v[:2], self._values))
            self.params = {n: s["value"] for n, s in seen.items() if s["type"] == "param"}
            check_encoded(first.shape, bool(self.params))

    def __call__(self, rows: Any, params: dict[str, Any] | None = None) -> Any:
        """Of some rows, ``(rows, context_dim)``: with these parameters, or, inside a model, with its own."""
        return self.of(self.values(rows), params)

    def values(self, rows: Any) -> Any:
        """Of some rows, as they were given."""
        return jax.tree.map(lambda v: v[rows], self._values)

    def of(self, values: Any, params: dict[str, Any] | None = None) -> Any:
        """Likewise, of these values."""
        encode = self._encoder if params is None else self.trained(params)
        return values if encode is None else encode(values)

    def all_rows(self) -> Any:
        """``(n, context_dim)``, by the encoder as it starts."""
        if self._encoder is None:
            return self._values
        encode, n = jax.jit(lambda rows: self(rows, self.params)), len(jax.tree.leaves(self._values)[0])
        return jnp.concatenate([encode(rows) for rows in np.split(np.arange(n), range(ENCODED_ROWS, n, ENCODED_ROWS))])

    def trained(self, params: dict[str, Any]) -> Callable[..., Any] | None:
        """The encoder with these parameters: a function of values."""
        return None if self._encoder is None else partial(_encode, self._encoder, params)


def to_arrays(values: Any, name: str) -> Any:
    """An array, or every array in a dict, as a JAX array of the default float dtype.

    Raises:
        TypeError, ValueError: as in ``to_numpy``.
    """
    if isinstance(values, Mapping):
        return {key: to_arrays(value, name) for key, value in values.items()}
    return jnp.asarray(values if isinstance(values, jax.Array) else to_numpy(values, name), dtype=float)


def _encode(encoder: Callable[..., Any], params: dict[str, Any], values: Any) -> jax.Array:
    with handlers.block(), handlers.seed(rng_seed=0), handlers.substitute(data=params):
        return encoder(values)
