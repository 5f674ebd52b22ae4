"""Supports: intervals as Pyro's constraints, and the way from the reals onto any constraint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from pyro.distributions import constraints
from torch.distributions import Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint
from torch.utils.weak import WeakTensorKeyDictionary

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.support import Support, is_real, runs

Pieces = Sequence[tuple[Constraint, int]]


@lru_cache(maxsize=1024)  # hosts ask for it several times a step
def constraint(support: Support, shape: tuple[int, ...]) -> Constraint:
    """The constraint of arrays of that shape with coordinates in these intervals.

    Raises:
        ValueError: images with different intervals, for which there is none.
    """
    pieces = [(_interval(*interval), size) for interval, size in runs(support)]
    if len(pieces) > 1 and len(shape) > 1:
        raise ValueError(
            f"events of shape {shape} whose numbers lie in different intervals have no constraint in the language; "
            "put the change of support on all of them, or flatten them to a vector."
        )
    return Mixed(pieces) if len(pieces) > 1 else _over(pieces[0][0], len(shape))


def onto(support: Constraint | Pieces, bijection: Bijection) -> SupportTransform:
    """The transform from the bijection's y onto a constraint, or onto vectors of several pieces.

    Raises:
        ValueError: no bijection leads from the reals there, or one from another shape, or y is not real.
    """
    name, shape = type(bijection).__name__, bijection.output_shape
    if not is_real(bijection.codomain):
        raise ValueError(f"support= wants a bijection onto the reals, but {name} is one onto {bijection.codomain}.")
    target = support if isinstance(support, Constraint) else Mixed(support)
    try:
        rank = biject_to(target).domain.event_dim
    except NotImplementedError as error:
        raise ValueError(f"support={support}: Pyro knows no bijection from the reals onto it ({error}).") from error
    if rank > len(shape):
        raise ValueError(f"support={support} needs a bijection of rank {rank}, got a {name} of shape {shape}.")
    transform = SupportTransform(_over(target, len(shape) - rank))
    if transform.codomain.event_dim != transform.part.codomain.event_dim:  # as Pyro's positive_ordered_vector
        raise ValueError(f"support={support} declares event_dim={target.event_dim}, which its bijection does not give.")
    try:
        wanted = tuple(transform.inverse_shape(transform.forward_shape(torch.Size(shape))))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"support={support} cannot be made of the {shape} numbers of {name}: {error}.") from error
    if wanted != shape:
        raise ValueError(f"support={support} needs a bijection of shape {wanted}, got a {name} of shape {shape}.")
    return transform


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
        for piece in pieces:
            if not (isinstance(piece, tuple) and isinstance(piece[0], Constraint) and isinstance(piece[1], int)):
                raise TypeError(f"support takes a constraint, or a list of (constraint, size), got {piece} in it.")
            if piece[0].event_dim > 1:
                raise ValueError(f"pieces of a support must be vectors, got {piece[0]}; give it a flow of its own.")
        self.constraints = [_over(piece, 1 - piece.event_dim) for piece, _ in pieces]
        self.sizes = [size for _, size in pieces]

    def check(self, value: torch.Tensor) -> torch.Tensor:
        parts = torch.split(value, self.sizes, dim=-1)
        return torch.stack([c.check(part) for c, part in zip(self.constraints, parts, strict=True)]).all(0)

    def __repr__(self) -> str:
        return f"Mixed({list(zip(self.constraints, self.sizes, strict=True))})"


class MixedTransform(Transform):
    """From real vectors onto a ``Mixed``: each piece by its own ``biject_to``."""

    bijective = True
    domain = constraints.real_vector

    def __init__(self, codomain: Mixed) -> None:
        super().__init__()
        self.codomain = codomain
        self.parts = [biject_to(c) for c in codomain.constraints]
        sizes = zip(self.parts, codomain.sizes, strict=True)
        self.sizes = [part.inverse_shape(torch.Size([size]))[0] for part, size in sizes]  # unconstrained

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        pieces = zip(self.parts, torch.split(x, self.sizes, dim=-1), strict=True)
        return torch.cat([part(v) for part, v in pieces], dim=-1)

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        pieces = zip(self.parts, torch.split(y, self.codomain.sizes, dim=-1), strict=True)
        return torch.cat([part.inv(v) for part, v in pieces], dim=-1)

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """log\\|det dy/dx\\|, summed over the pieces."""
        sides = torch.split(x, self.sizes, dim=-1), torch.split(y, self.codomain.sizes, dim=-1)
        return sum(part.log_abs_det_jacobian(a, b) for part, a, b in zip(self.parts, *sides, strict=True))

    def forward_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return _resized(shape, sum(self.sizes), sum(self.codomain.sizes))

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return _resized(shape, sum(self.codomain.sizes), sum(self.sizes))

    def with_cache(self, cache_size: int = 1) -> MixedTransform:
        return self


biject_to.register(Mixed, MixedTransform)
transform_to.register(Mixed, MixedTransform)


class SupportTransform(Transform):
    """The host's ``biject_to``, with the constraint as its codomain: the host's own does not always say it.

    It knows of living tensors where they came from: a sample that is scored is not inverted again.
    """

    bijective = True

    def __init__(self, codomain: Constraint) -> None:
        super().__init__()
        self.part = biject_to(codomain)
        self.domain, self.codomain = self.part.domain, codomain

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        y = self.part(x)
        y = y.view_as(y)  # a tensor of its own, where the part is the identity
        _sources[y] = self, x, _versions(x, y)
        return y

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        owner, x, versions = _sources.get(y, (None, None, None))
        return x if owner is self and versions == _versions(x, y) else self.part.inv(y)

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.part.log_abs_det_jacobian(x, y)

    def forward_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return self.part.forward_shape(shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return self.part.inverse_shape(shape)

    def with_cache(self, cache_size: int = 1) -> SupportTransform:
        return self


# Not a field of the transform, as torch's own cache is: that keeps graphs alive, and then deepcopy and pickle fail.
_sources: Any = WeakTensorKeyDictionary()


def _versions(*tensors: torch.Tensor) -> tuple[int, ...]:
    return tuple(0 if t.is_inference() else t._version for t in tensors)


def _interval(low: float, high: float) -> Constraint:
    if math.isinf(low):
        return constraints.real if math.isinf(high) else constraints.less_than(high)
    if math.isinf(high):
        return constraints.positive if low == 0 else constraints.greater_than(low)
    return constraints.unit_interval if (low, high) == (0, 1) else constraints.interval(low, high)


def _over(base: Constraint, ndims: int) -> Constraint:
    """The constraint that holds all over so many more axes."""
    if base is constraints.real and ndims == 1:
        return constraints.real_vector
    return constraints.independent(base, ndims) if ndims > 0 else base


def _resized(shape: tuple[int, ...], size: int, other: int) -> torch.Size:
    if shape[-1] != size:
        raise ValueError(f"a mixed support needs {size} numbers, got {shape[-1]}")
    return torch.Size((*shape[:-1], other))
