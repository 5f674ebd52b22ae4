"""Conditioners: the networks that produce a transformer's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType

import numpy as np

from ppl_flows.core.namespace import ACTIVATIONS, namespace
from ppl_flows.core.types import Array, Params

OUTPUT_SCALE = 0.01  # last layer: small, so that a flow starts next to the identity, yet not a dead start


def checked_hidden(owner: str, hidden: tuple[int, ...], activation: str, residual: bool = False) -> tuple[int, ...]:
    """hidden as a tuple; raises ValueError for a width below 1, unequal ones of blocks, or an unknown activation."""
    if isinstance(hidden, int):
        raise ValueError(f"{owner}: hidden must be a tuple of widths such as ({hidden}, {hidden}), got {hidden}.")
    hidden = tuple(hidden)
    if any(width < 1 for width in hidden):
        raise ValueError(f"{owner}: every hidden width must be at least 1, got hidden={hidden}.")
    if residual and len(set(hidden)) > 1:
        raise ValueError(
            f"{owner}: residual blocks add their result to their input, so all have one width, got hidden={hidden}; "
            f"give {(hidden[0],) * len(hidden)}, or residual=False."
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"{owner}: unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
    return hidden


class HiddenLayers:
    """How the hidden layers of both networks follow the first: ``a_i = act(a_{i-1}) W_i + b_i``, the output last.

    Residual blocks ``h + W act(V act(h))`` between two linear maps are the same recursion, in which the end of a
    block adds ``a_{i-2}``, and the last linear map takes the sum as it is.
    """

    hidden: tuple[int, ...]
    activation: str
    residual: bool

    @property
    def widths(self) -> tuple[int, ...]:
        """Sizes of all a_i but the output: of the first linear map, and then two of every block."""
        return self.hidden[:1] + tuple(w for w in self.hidden for _ in range(2)) if self.residual else self.hidden

    @property
    def skips(self) -> range:
        """The layers i that add ``a_{i-2}``: none of a plain network."""
        return range(2, len(self.widths), 2) if self.residual else range(0)

    def scale(self, i: int) -> float:
        """Of the initial ``W_i``, besides its fan-in."""
        if i == len(self.widths):
            return OUTPUT_SCALE
        return len(self.hidden) ** -0.5 if i in self.skips else 1.0  # all blocks together add about what one would

    def activations(self, xp: ModuleType) -> list[Callable[[Array], Array]]:
        """What each a_i but the output passes before the next matrix."""
        acts = [getattr(xp, self.activation)] * len(self.widths)
        return [*acts[:-1], _identity] if self.residual and acts else acts

    def propagate(self, a: Array, layers: Iterable[tuple[Array, Array]]) -> list[Array]:
        """All a_i, from ``a_0`` to the output, through the layers ``(W_i, b_i)``."""
        xp = namespace(a)
        acts, skips, seen = self.activations(xp), self.skips, [a]
        for i, (w, b) in enumerate(layers, 1):
            a = xp.linear(acts[i - 1](a), w, b)
            if i in skips:
                a = a + seen[-2]
            seen.append(a)
        return seen


def _identity(a: Array) -> Array:
    return a


@dataclass(frozen=True)
class MLP(HiddenLayers):
    """Dense network ``(*batch, inputs) -> (*batch, outputs)``; the context enters the first layer.

    Args:
        inputs: size of x, may be 0 when only the context is used.
        outputs: size of the result.
        hidden: widths of the hidden layers, or of the residual blocks.
        activation: a name in ``ops.ACTIVATIONS``.
        context_dim: size of the context, 0 for none.
        residual: residual blocks, pre-activated, in place of plain layers.

    Reference: He et al. (2016), Identity Mappings in Deep Residual Networks, arXiv:1603.05027; as in Durkan et al.
    (2019), Neural Spline Flows, arXiv:1906.04032, without dropout and batch normalisation.
    """

    inputs: int
    outputs: int
    hidden: tuple[int, ...]
    activation: str
    context_dim: int = 0
    residual: bool = False

    def init(self, rng: np.random.Generator) -> Params:
        params: dict[str, np.ndarray] = {}
        for i, (n, m) in enumerate(pairwise((self.inputs + self.context_dim, *self.widths, self.outputs))):
            scale = self.scale(i) / max(n, 1) ** 0.5
            params |= {f"w{i}": scale * rng.standard_normal((n, m)), f"b{i}": np.zeros(m)}
        return params

    def __call__(self, params: Params, x: Array | None, context: Array | None) -> Array:
        return namespace(context if x is None else x).keeping_products(self._run)(params, x, context)

    def _run(self, params: Params, x: Array | None, context: Array | None) -> Array:
        w, b = params["w0"], params["b0"]
        if x is not None and context is not None:
            # two products instead of a concatenation: context broadcasts against x's batch for free
            w, b = w[: self.inputs], namespace(x).linear(context, w[self.inputs :], b)
        given = context if x is None else x
        layers = ((params[f"w{i}"], params[f"b{i}"]) for i in range(1, len(self.widths) + 1))
        return self.propagate(namespace(given).linear(given, w, b), layers)[-1]
