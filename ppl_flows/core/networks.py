"""Conditioners: the networks that produce a transformer's parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np

from ppl_flows.core.bijection import Array, Params
from ppl_flows.core.ops import ACTIVATIONS, namespace

OUTPUT_SCALE = 0.01  # last layer: small, so that a flow starts next to the identity, yet not a dead start


def checked_hidden(owner: str, hidden: tuple[int, ...], activation: str) -> tuple[int, ...]:
    """hidden as a tuple; raises ValueError for a width below 1 or an unknown activation."""
    if isinstance(hidden, int):
        raise ValueError(f"{owner}: hidden must be a tuple of widths such as ({hidden}, {hidden}), got {hidden}.")
    hidden = tuple(hidden)
    if any(width < 1 for width in hidden):
        raise ValueError(f"{owner}: every hidden width must be at least 1, got hidden={hidden}.")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{owner}: unknown activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
    return hidden


@dataclass(frozen=True)
class MLP:
    """Dense network ``(*batch, inputs) -> (*batch, outputs)``; the context enters the first layer.

    Args:
        inputs: size of x, may be 0 when only the context is used.
        outputs: size of the result.
        hidden: widths of the hidden layers.
        activation: a name in ``ops.ACTIVATIONS``.
        context_dim: size of the context, 0 for none.
    """

    inputs: int
    outputs: int
    hidden: tuple[int, ...]
    activation: str
    context_dim: int = 0

    def init(self, rng: np.random.Generator) -> Params:
        widths = (self.inputs + self.context_dim, *self.hidden, self.outputs)
        params: dict[str, np.ndarray] = {}
        for i, (n, m) in enumerate(pairwise(widths)):
            scale = (OUTPUT_SCALE if i == len(self.hidden) else 1.0) / max(n, 1) ** 0.5
            params |= {f"w{i}": scale * rng.standard_normal((n, m)), f"b{i}": np.zeros(m)}
        return params

    def __call__(self, params: Params, x: Array | None, context: Array | None) -> Array:
        xp = namespace(context if x is None else x)
        act = getattr(xp, self.activation)
        if x is None:
            a = context @ params["w0"]
        elif context is None:
            a = x @ params["w0"]
        else:  # two products instead of a concatenation: context broadcasts against x's batch for free
            a = x @ params["w0"][: self.inputs] + context @ params["w0"][self.inputs :]
        a = a + params["b0"]
        for i in range(1, len(self.hidden) + 1):
            a = act(a) @ params[f"w{i}"] + params[f"b{i}"]
        return a


@dataclass(frozen=True)
class MaskedMLP:
    """MADE: output t, of size ``outputs``, sees only ``x[:t]`` and the context.

    A hidden unit of degree m sees ``x[:m]``. Degrees are spread evenly and *sorted*, so that the units which
    ``x[t]`` newly determines are contiguous rows: this is what makes the incremental inverse possible (``sweep``).
    ``hidden=()`` gives masked linear maps. With a context, units of degree 0 see the context alone.

    Args:
        dim: size of x.
        outputs: numbers per coordinate; the result is ``(*batch, dim, outputs)``.
        hidden, activation, context_dim: as in ``MLP``.
        flip: the coordinates in reverse order: output t sees only ``x[t + 1:]``.

    Reference: Germain et al. (2015), MADE: Masked Autoencoder for Distribution Estimation, arXiv:1502.03509.
    """

    dim: int
    outputs: int
    hidden: tuple[int, ...]
    activation: str
    context_dim: int = 0
    flip: bool = False

    def init(self, rng: np.random.Generator) -> Params:
        params: dict[str, np.ndarray] = {}
        first = self.hidden[0] if self.hidden else self.dim * self.outputs
        if self.context_dim:
            params["c"] = rng.standard_normal((self.context_dim, first)) / self.context_dim**0.5
            params["c"] *= 1.0 if self.hidden else OUTPUT_SCALE
        for i, mask in enumerate(self.masks()):
            scale = OUTPUT_SCALE if i == len(self.hidden) else 1.0
            fan_in = np.maximum(mask.sum(axis=0), 1)  # what each unit really sees
            params |= {f"w{i}": scale * rng.standard_normal(mask.shape) / fan_in**0.5, f"b{i}": np.zeros(mask.shape[1])}
        return params

    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        return self.trace(params, x, context)[1]

    def trace(self, params: Params, x: Array, context: Array | None) -> tuple[list[Array], Array]:
        """The pre-activations of the hidden layers, and the output."""
        act = getattr(namespace(x), self.activation)
        weights, biases = self.layers(params, x, context)
        a, seen = x @ weights[0] + biases[0], []
        for w, b in zip(weights[1:], biases[1:], strict=True):
            seen.append(a)
            a = act(a) @ w + b
        return seen, a.reshape(*a.shape[:-1], self.dim, self.outputs)

    def layers(self, params: Params, like: Array, context: Array | None) -> tuple[list[Array], list[Array]]:
        """Masked weights ``(in, out)`` and biases; the context is part of the first bias, ``(*batch, out)``."""
        xp = namespace(like)
        weights = [params[f"w{i}"] * xp.constant(mask, like) for i, mask in enumerate(self.masks())]
        biases = [params[f"b{i}"] for i in range(len(weights))]
        if context is not None:
            biases[0] = biases[0] + context @ params["c"]
        return weights, biases

    def unflipped(self, params: Params) -> tuple[MaskedMLP, Params]:
        """The network and parameters of the same function of coordinates in reverse order."""
        first, last = "w0", len(self.hidden)
        xp = namespace(params[first])

        def reverse_outputs(a: Array) -> Array:
            return xp.reshape(xp.flip(xp.reshape(a, (*a.shape[:-1], self.dim, self.outputs)), axis=-2), a.shape)

        flipped = {**params, first: xp.flip(params[first], axis=0)}
        flipped |= {name: reverse_outputs(flipped[name]) for name in (f"w{last}", f"b{last}")}
        if not self.hidden and "c" in params:
            flipped["c"] = reverse_outputs(params["c"])
        return replace(self, flip=False), flipped

    def masks(self) -> tuple[np.ndarray, ...]:
        return _masks(self.dim, self.outputs, self.hidden, self.context_dim > 0, self.flip)

    def bounds(self) -> tuple[tuple[int, ...], ...]:
        """For x and each hidden layer: units ``[bounds[t], bounds[t + 1])`` are those that first see ``x[:t]``.

        Not of a flipped network: ``unflipped`` comes first.
        """
        return _bounds(self.dim, self.hidden, self.context_dim > 0)


@cache
def _degrees(dim: int, hidden: tuple[int, ...], with_context: bool) -> list[np.ndarray]:
    """How many leading coordinates each x and each hidden unit sees."""
    low = 0 if with_context else 1
    spread = (low + np.arange(width) * max(dim - low, 0) // width for width in hidden)
    return [np.arange(1, dim + 1), *spread]


@cache
def _masks(dim: int, outputs: int, hidden: tuple[int, ...], with_context: bool, flip: bool) -> tuple[np.ndarray, ...]:
    x, *units = _degrees(dim, hidden, with_context)
    sources = [x[::-1] if flip else x, *units]
    targets = [*units, np.repeat(np.arange(dim)[:: -1 if flip else 1], outputs)]
    return tuple((s[:, None] <= t).astype(np.float32) for s, t in zip(sources, targets, strict=True))


@cache
def _bounds(dim: int, hidden: tuple[int, ...], with_context: bool) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(np.sum(s < t)) for t in range(dim + 1)) for s in _degrees(dim, hidden, with_context))
