"""Supports in the words of a language, as far as both shells say it alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.support import Support, is_real, runs

Pieces: TypeAlias = Sequence[tuple[Any, int]]  # (constraint, size)


@dataclass(frozen=True)
class SupportConstraints:
    """What ``constraint`` and ``support_transform`` are made of in one language.

    Args:
        language: its name.
        constraints: its module of that name.
        biject_to: its registry.
        mixed: our constraint of vectors of several pieces, from ``Pieces``.
        transform: our transform onto a constraint, with ``.part``, the language's own.
    """

    language: str
    constraints: Any
    biject_to: Callable[[Any], Any]
    mixed: Callable[[Any], Any]
    transform: Callable[[Any], Any]

    def constraint(self, support: Support, shape: tuple[int, ...]) -> Any:
        """The constraint of arrays of that shape with coordinates in these intervals.

        Raises:
            ValueError: images with different intervals, for which there is none.
        """
        pieces = [(interval_constraint(self.constraints, *interval), size) for interval, size in runs(support)]
        if len(pieces) > 1 and len(shape) > 1:
            raise ValueError(
                f"events of shape {shape} whose numbers lie in different intervals have no constraint in the language; "
                "put the change of support on all of them, or flatten them to a vector."
            )
        return self.mixed(pieces) if len(pieces) > 1 else over_axes(self.constraints, pieces[0][0], len(shape))

    def support_transform(self, support: Any, bijection: Bijection) -> Any:
        """The transform from the bijection's y onto a constraint, or onto vectors of several pieces.

        Raises:
            ValueError: no bijection leads from the reals there, or one from another shape, or y is not real.
        """
        name, shape = type(bijection).__name__, bijection.output_shape
        if not is_real(bijection.codomain):
            raise ValueError(f"support= wants a bijection onto the reals, but {name} is one onto {bijection.codomain}.")
        target = support if isinstance(support, self.constraints.Constraint) else self.mixed(support)
        try:
            rank = self.biject_to(target).domain.event_dim
        except NotImplementedError as error:
            raise ValueError(
                f"support={support}: {self.language} knows no bijection from the reals onto it ({error})."
            ) from error
        if rank > len(shape):
            raise ValueError(f"support={support} needs a bijection of rank {rank}, got a {name} of shape {shape}.")
        transform = self.transform(over_axes(self.constraints, target, len(shape) - rank))
        if transform.codomain.event_dim != transform.part.codomain.event_dim:  # as Pyro's positive_ordered_vector
            raise ValueError(
                f"support={support} declares event_dim={target.event_dim}, which its bijection does not give."
            )
        try:
            wanted = tuple(transform.inverse_shape(transform.forward_shape(shape)))
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"support={support} cannot be made of the {shape} numbers of {name}: {error}.") from error
        if wanted != shape:
            raise ValueError(f"support={support} needs a bijection of shape {wanted}, got a {name} of shape {shape}.")
        return transform


def interval_constraint(constraints: Any, low: float, high: float) -> Any:
    """The language's constraint of numbers in an open interval, which may be infinite."""
    if math.isinf(low):
        return constraints.real if math.isinf(high) else constraints.less_than(high)
    if math.isinf(high):
        return constraints.positive if low == 0 else constraints.greater_than(low)
    return constraints.unit_interval if (low, high) == (0, 1) else constraints.interval(low, high)


def over_axes(constraints: Any, base: Any, ndims: int) -> Any:
    """The constraint that holds all over so many more axes."""
    if base is constraints.real and ndims == 1:
        return constraints.real_vector
    return constraints.independent(base, ndims) if ndims > 0 else base


def check_pieces(pieces: Pieces, constraint_class: Any) -> None:
    """Raises TypeError unless these are constraints with sizes, and ValueError for constraints of matrices."""
    for piece in pieces:
        if not (isinstance(piece, tuple) and isinstance(piece[0], constraint_class) and isinstance(piece[1], int)):
            raise TypeError(f"support takes a constraint, or a list of (constraint, size), got {piece} in it.")
        if piece[0].event_dim > 1:
            raise ValueError(f"pieces of a support must be vectors, got {piece[0]}; give it a flow of its own.")


def resized(shape: tuple[int, ...], size: int, other: int) -> tuple[int, ...]:
    """The shape of vectors with ``other`` numbers in place of ``size``."""
    if shape[-1] != size:
        raise ValueError(f"a mixed support needs {size} numbers, got {shape[-1]}")
    return (*shape[:-1], other)
