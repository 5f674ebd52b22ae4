"""Supports: intervals as Pyro's constraints, and the way from the reals onto any constraint."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from pyro.distributions import constraints
from torch.distributions import Transform, biject_to, transform_to
from torch.distributions.constraints import Constraint
from torch.utils.weak import WeakTensorKeyDictionary

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
        self.constraints = [over_axes(constraints, piece, 1 - piece.event_dim) for piece, _ in pieces]
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

    codomain: Mixed

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
        return torch.Size(resized(shape, sum(self.sizes), sum(self.codomain.sizes)))

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return torch.Size(resized(shape, sum(self.codomain.sizes), sum(self.sizes)))

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
        _sources[y] = self, x, (version(x), version(y))
        return y

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        owner, x, versions = _sources.get(y, (None, None, None))
        return x if owner is self and versions == (version(x), version(y)) else self.part.inv(y)

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.part.log_abs_det_jacobian(x, y)

    def forward_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return self.part.forward_shape(torch.Size(shape))

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return self.part.inverse_shape(torch.Size(shape))

    def with_cache(self, cache_size: int = 1) -> SupportTransform:
        return self


# Not a field of the transform, as torch's own cache is: that keeps graphs alive, and then deepcopy and pickle fail.
_sources: Any = WeakTensorKeyDictionary()


Version = tuple[int, bool]


def version(t: torch.Tensor) -> Version:
    """Changes with a tensor, but not through ``.data``, which hides it; and where it wants a gradient, and did not."""
    return (0 if t.is_inference() else t._version), t.requires_grad


_supports = SupportConstraints("Pyro", constraints, biject_to, Mixed, SupportTransform)
constraint = lru_cache(maxsize=1024)(_supports.constraint)  # hosts ask for it several times a step
support_transform = _supports.support_transform
