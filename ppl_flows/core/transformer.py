"""The contract of transformers: monotone scalar maps whose parameters come from a conditioner."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

from ppl_flows.core.support import REAL, Interval
from ppl_flows.core.types import Array


class Transformer(abc.ABC):
    """An increasing scalar map ``y = h(x; theta)``, applied to every coordinate on its own.

    Shapes: x, y and the log slope ``(*batch, dim)``; theta ``(*batch, dim, size)``, or broadcastable to it.
    ``theta = 0`` is the identity or next to it, so that a conditioner with small outputs starts a flow there; where the
    codomain is not the reals, it is the plain map onto it.
    """

    codomain: ClassVar[Interval] = REAL  # the interval that y lies in

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of parameters per coordinate."""

    @abc.abstractmethod
    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        """``(y, log dy/dx)``, each ``(*batch, dim)``."""

    @abc.abstractmethod
    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        """``(x, log dx/dy)``, each ``(*batch, dim)``."""


def check_transformer(owner: str, transformer: Any) -> None:
    """Raises TypeError unless it is a Transformer."""
    if not isinstance(transformer, Transformer):
        raise TypeError(f"{owner}: transformer must be one such as pf.Affine(), got {transformer!r}.")
