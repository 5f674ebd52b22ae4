"""JAX's random numbers, as bases draw them."""

from __future__ import annotations

from typing import Any

import jax

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.params import flatten
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params


class JaxRandom:
    """JAX's random numbers, of a key and a dtype."""

    def __init__(self, key: jax.Array, dtype: Any) -> None:
        self.key, self.dtype = key, dtype

    def _next(self) -> jax.Array:
        self.key, key = jax.random.split(self.key)
        return key

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(self._next(), shape, self.dtype)

    def uniform(self, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(self._next(), shape, self.dtype)

    def gamma(self, concentration: jax.Array) -> jax.Array:
        return jax.random.gamma(self._next(), concentration, dtype=self.dtype)


def draw(base: Base, shape: tuple[int, ...], params: Params, key: jax.Array) -> jax.Array:
    """Draws of a base, ``(*shape, dim)``; a gradient through those that carry none is a NotImplementedError."""
    return (_draw if base.reparameterized else _draw_without_gradient)(base, shape, params, key)


def _draw(base: Base, shape: tuple[int, ...], params: Params, key: jax.Array) -> jax.Array:
    dtype = wide(next(leaf for _, leaf in flatten(params))).dtype
    return base.sample(params, JaxRandom(key, dtype), shape)


def _no_gradient(base: Base, *_: Any) -> Any:
    raise NotImplementedError(
        f"samples of {type(base).__name__} carry no gradients, so one through a sample would be biased. In a guide use "
        "TraceGraph_ELBO, which takes the score function there; or choose another base."
    )


_draw_without_gradient = jax.custom_vjp(_draw, nondiff_argnums=(0, 1))
_draw_without_gradient.defvjp(lambda *args: (_draw(*args), None), _no_gradient)  # not run where a gradient is stopped
