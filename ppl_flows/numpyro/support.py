"""Supports: intervals as NumPyro's constraints, and the way from the reals onto any constraint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.transforms import Transform, biject_to

from ppl_flows.inference.support_constraints import Pieces, SupportConstraints, check_pieces, over_axes, resized


class Mixed(Constraint):
    """Vectors of several pieces, one after another, each with a constraint of its own.

    Args:
        pieces: ``(constraint, size)`` of each: of numbers or of vectors, and how many numbers the piece has.

    Raises:
        TypeError: something else is given.
        ValueError: a constraint of matrices.
    """

    event_dim = 1

    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        check_pieces(pieces, Constraint)
        self.constraints = tuple(over_axes(constraints, piece, 1 - piece.event_dim) for piece, _ in pieces)
        self.sizes = tuple(size for _, size in pieces)

    def __call__(self, x: Any) -> Any:
        parts = _split(x, self.sizes)
        return jnp.stack([c(part) for c, part in zip(self.constraints, parts, strict=True)]).all(0)

    def feasible_like(self, prototype: Any) -> jax.Array:
        parts = _split(prototype, self.sizes)
        feasible = [c.feasible_like(part) for c, part in zip(self.constraints, parts, strict=True)]
        return jnp.concatenate(feasible, axis=-1)

    def tree_flatten(self) -> tuple[Any, ...]:
        return (self.constraints,), (("constraints",), {"sizes": self.sizes})

    def eq(self, other: object, static: bool = False) -> Any:
        if not isinstance(other, Mixed) or self.sizes != other.sizes:
            return False
        equal = [a.eq(b, static=static) for a, b in zip(self.constraints, other.constraints, strict=True)]
        return all(equal) if static else jnp.stack([jnp.asarray(e) for e in equal]).all()

    def __repr__(self) -> str:
        return f"Mixed({list(zip(self.constraints, self.sizes, strict=True))})"


class MixedTransform(Transform):
    """From real vectors onto a ``Mixed``: each piece by its own ``biject_to``."""

    domain = constraints.real_vector

    def __init__(self, codomain: Mixed) -> None:
        self._codomain = codomain

    @property
    def codomain(self) -> Mixed:
        return self._codomain

    @property
    def parts(self) -> list[Transform]:
        """From the reals onto each piece."""
        return [biject_to(c) for c in self.codomain.constraints]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers become each piece."""
        pieces = zip(self.parts, self.codomain.sizes, strict=True)
        return tuple(part.inverse_shape((size,))[0] for part, size in pieces)

    def __call__(self, x: Any) -> jax.Array:
        pieces = zip(self.parts, _split(x, self.sizes), strict=True)
        return jnp.concatenate([part(v) for part, v in pieces], axis=-1)

    def _inverse(self, y: Any) -> jax.Array:
        pieces = zip(self.parts, _split(y, self.codomain.sizes), strict=True)
        return jnp.concatenate([part.inv(v) for part, v in pieces], axis=-1)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> jax.Array:
        """log\\|det dy/dx\\|, summed over the pieces."""
        sides = _split(x, self.sizes), _split(y, self.codomain.sizes)
        return sum(part.log_abs_det_jacobian(a, b) for part, a, b in zip(self.parts, *sides, strict=True))

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return resized(shape, sum(self.sizes), sum(self.codomain.sizes))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return resized(shape, sum(self.codomain.sizes), sum(self.sizes))

    def tree_flatten(self) -> tuple[Any, ...]:
        return (self._codomain,), (("_codomain",), {})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, MixedTransform) and self.codomain.eq(other.codomain, static=static)


biject_to.register(Mixed, MixedTransform)


class SupportTransform(Transform):
    """The host's ``biject_to``, with the constraint as its codomain: the host's own does not always say it."""

    def __init__(self, codomain: Constraint) -> None:
        self._codomain = codomain

    @property
    def codomain(self) -> Constraint:
        return self._codomain

    @property
    def part(self) -> Transform:
        """The host's transform."""
        return biject_to(self._codomain)

    @property
    def domain(self) -> Constraint:
        return self.part.domain

    def __call__(self, x: Any) -> jax.Array:
        return self.part(x)

    def _inverse(self, y: Any) -> jax.Array:
        return self.part.inv(y)

    def call_with_intermediates(self, x: Any) -> tuple[jax.Array, Any]:
        """``(y, what log_abs_det_jacobian can use again)``."""
        return self.part.call_with_intermediates(x)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> jax.Array:
        """log\\|det dy/dx\\|."""
        return self.part.log_abs_det_jacobian(x, y, intermediates)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.part.forward_shape(shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.part.inverse_shape(shape)

    def tree_flatten(self) -> tuple[Any, ...]:
        return (self._codomain,), (("_codomain",), {})

    def eq(self, other: object, static: bool = False) -> Any:
        return isinstance(other, SupportTransform) and self.codomain.eq(other.codomain, static=static)


def _split(v: Any, sizes: Sequence[int]) -> list[jax.Array]:
    return jnp.split(jnp.asarray(v), np.cumsum(sizes)[:-1], axis=-1)


_supports = SupportConstraints("NumPyro", constraints, biject_to, Mixed, SupportTransform)
constraint = lru_cache(maxsize=1024)(_supports.constraint)  # one object for one support, as the host compares by `is`
support_transform = _supports.support_transform
