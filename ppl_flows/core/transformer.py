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
    codomain is not the domain, it is the plain map onto it. A subclass is a frozen dataclass with ``size``, ``forward``
    and ``inverse``, written against ``namespace(x)``.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.RationalQuadratic(bins=4)
        >>> h.size
        11
        >>> y, log_slope = h.forward(np.zeros((3, h.size)), np.ones((5, 3)))
        >>> np.allclose(y, 1.0), log_slope.shape
        (True, (5, 3))
    """

    domain: ClassVar[Interval] = REAL  # the interval that x lies in
    codomain: ClassVar[Interval] = REAL  # the interval that y lies in

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of parameters per coordinate."""

    @abc.abstractmethod
    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        """The map.

        Args:
            theta: parameters, ``(*batch, dim, size)``, or broadcastable to it.
            x: ``(*batch, dim)``.

        Returns:
            ``(y, log dy/dx)``, each ``(*batch, dim)``, the log slope in nats.
        """

    @abc.abstractmethod
    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        """The inverse map.

        Args:
            theta: as of ``forward``.
            y: ``(*batch, dim)``.

        Returns:
            ``(x, log dx/dy)``, each ``(*batch, dim)``, the log slope in nats.
        """


def check_transformer(owner: str, transformer: Any) -> None:
    """Raises TypeError unless it is a Transformer."""
    if not isinstance(transformer, Transformer):
        raise TypeError(f"{owner}: transformer must be one such as pf.Affine(), got {transformer!r}.")
