"""The hidden layers that the dense and the masked network share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from ppl_flows.core.backend import Backend
from ppl_flows.core.types import Array

OUTPUT_SCALE = 0.01  # last layer: small, so that a flow starts next to the identity, yet not a dead start


class HiddenLayers:
    """How hidden layers follow the first: ``a_i = act(a_{i-1}) W_i + b_i``, the output last.

    Residual blocks ``h + W act(V act(h))`` between two linear maps are the same recursion, in which the end of a
    block adds ``a_{i-2}``, and the last linear map takes the sum as it is.
    """

    hidden: tuple[int, ...]
    activation: str
    residual: bool

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Sizes of all a_i but the output: of the first linear map, and then two of every block."""
        return self.hidden[:1] + tuple(w for w in self.hidden for _ in range(2)) if self.residual else self.hidden

    @cached_property
    def skips(self) -> range:
        """The layers i that add ``a_{i-2}``: none of a plain network."""
        return range(2, len(self.widths), 2) if self.residual else range(0)

    def scale(self, i: int) -> float:
        """Of the initial matrix of layer ``i``, besides its fan-in."""
        if i == len(self.widths):
            return OUTPUT_SCALE
        return len(self.hidden) ** -0.5 if i in self.skips else 1.0  # all blocks together add about what one would

    def activations(self, xp: Backend) -> list[Callable[[Array], Array]]:
        """What each a_i but the output passes before the next matrix, in the namespace ``xp``."""
        acts = [getattr(xp, self.activation)] * len(self.widths)
        return [*acts[:-1], _as_it_is] if self.residual and acts else acts

    def propagate(self, xp: Backend, a: Array, layers: Iterable[tuple[Array, Array]]) -> list[Array]:
        """All a_i, from ``a_0 = a`` to the output, through the ``layers`` ``(W_i, b_i)``, in the namespace ``xp``."""
        acts, skips, seen = self.activations(xp), self.skips, [a]
        for i, (w, b) in enumerate(layers, 1):
            a = xp.linear(acts[i - 1](a), w, b)
            if i in skips:
                a = a + seen[-2]
            seen.append(a)
        return seen


def _as_it_is(a: Array) -> Array:
    return a
