"""The context of the rows that ``fit_density`` trains on: as given, or made by an encoder that trains too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from ppl_flows.inference.amortized import ENCODED_ROWS, check_encoded
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.density import check_encoder
from ppl_flows.numpyro.mesh import Split, is_divided, jitted, on_host


class Context:
    """What a conditional density is given; None, where it is given nothing.

    Args:
        values: ``(n, context_dim)``; or what the encoder takes, an array or a dict of arrays, rows first.
        encoder: from rows of values to ``(rows, context_dim)``, by parameters that it takes from ``numpyro.param``.
        seed: of their initial values.
        split: over devices: no device has all rows.

    Attributes:
        params: of the encoder, as they start.

    Raises:
        TypeError: the encoder cannot be called.
        ValueError: there are no values for the encoder; it gives another shape, or has nothing to train.
    """

    def __init__(self, values: Any, encoder: Callable[..., Any] | None, seed: int, split: Split | None = None) -> None:
        check_encoder(encoder, values)
        self._given = None if values is None else to_arrays(values, "context", split)
        self._values = jax.tree.map(on_host, self._given) if split else self._given
        self._encoder, self._split = checked_encoder(encoder), split
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
        n = len(jax.tree.leaves(self._values)[0])
        chunks = np.split(np.arange(n), range(ENCODED_ROWS, n, ENCODED_ROWS))
        if self._split:
            encode_values = jitted(lambda values: self.of(values, self.params), self._split)
            parts = [encode_values(jax.tree.map(lambda v, rows=rows: v[rows], self._values)) for rows in chunks]
            return np.concatenate(parts)
        encode = jax.jit(lambda rows: self(rows, self.params))
        return jnp.concatenate([encode(rows) for rows in chunks])

    def place(self) -> Context:
        """Itself, with its rows divided over devices, once all have been looked at."""
        if self._split:
            self._values = self._split.place(self._given)
        return self

    def trained(self, params: dict[str, Any]) -> Callable[..., Any] | None:
        """The encoder with these parameters: a function of values."""
        return None if self._encoder is None else partial(_encode, self._encoder, params)


def checked_encoder(encoder: Any) -> Callable[..., Any] | None:
    """The same; raises TypeError unless an encoder, if there is one, can be called."""
    if encoder is not None and not callable(encoder):
        raise TypeError(
            f"encoder must be a function that takes its parameters from numpyro.param; got {type(encoder).__name__}."
        )
    return cast(Any, encoder)


def to_arrays(values: Any, name: str, split: Split | None = None) -> Any:
    """An array, or every array in a dict, as a JAX array of the default float dtype.

    With a split, those that are not divided over devices are NumPy's, as no device is to have them all.

    Raises:
        TypeError, ValueError: as in ``to_numpy``.
    """
    if isinstance(values, Mapping):
        return {key: to_arrays(value, name, split) for key, value in values.items()}
    if split and not is_divided(values):
        return np.asarray(to_numpy(values, name), jax.dtypes.canonicalize_dtype(float))
    return jnp.asarray(values if isinstance(values, jax.Array) else to_numpy(values, name), dtype=float)


def _encode(encoder: Callable[..., Any], params: dict[str, Any], values: Any) -> jax.Array:
    with handlers.block(), handlers.seed(rng_seed=0), handlers.substitute(data=params):
        return encoder(values)
