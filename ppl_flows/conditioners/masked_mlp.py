"""The dense network under masks: autoregressive, whole or one coordinate after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np

from ppl_flows.conditioners.hidden_layers import HiddenLayers
from ppl_flows.core.checks import check_generator
from ppl_flows.core.conditioner import AutoregressiveNetwork
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class MaskedMLP(AutoregressiveNetwork):
    """MADE: output t, of size ``outputs``, sees only ``x[:t]`` and the context.

    A hidden unit of degree m sees ``x[:m]``. Degrees are spread evenly and *sorted*, so that the units which
    ``x[t]`` newly determines are contiguous rows: this is what makes the incremental inverse possible
    (``triangular_sweep``). ``hidden=()`` gives masked linear maps. With a context, units of degree 0 see the context
    alone. Layers of one width have the same degrees, so that residual blocks keep them.

    Args:
        mlp: hidden layers and activation.
        length: number of coordinates.
        outputs: numbers per coordinate.
        context_dim: size of the context, 0 for none.
        flip: the coordinates in reverse order: output t sees only ``x[t + 1:]``.

    Reference: Germain et al. (2015), MADE: Masked Autoencoder for Distribution Estimation, arXiv:1502.03509; with
    residual blocks: Nash & Durkan (2019), Autoregressive Energy Machines, arXiv:1904.05626.
    """

    mlp: HiddenLayers
    length: int
    outputs: int
    context_dim: int = 0
    flip: bool = False

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        params: dict[str, np.ndarray] = {}
        first = self.mlp.hidden[0] if self.mlp.hidden else self.length * self.outputs
        if self.context_dim:
            params["c"] = rng.standard_normal((self.context_dim, first)) / self.context_dim**0.5
            params["c"] *= self.mlp.scale(0)
        sizes = pairwise((self.length, *self.mlp.widths, self.length * self.outputs))
        drawn = [rng.standard_normal(size) for size in sizes]
        for i, (w, mask) in enumerate(zip(drawn, self.masks(), strict=True)):
            fan_in = np.maximum(mask.sum(axis=0), 1)  # what each unit really sees
            params |= {f"w{i}": self.mlp.scale(i) * w / fan_in**0.5, f"b{i}": np.zeros(mask.shape[1])}
        return params

    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        x = x[..., 0]
        return namespace(x).keeping_products(self._output)(*self.layers(params, x, context), x)

    def sequentially(
        self, params: Params, y: Array, context: Array | None, transformer: Transformer, method: str
    ) -> tuple[Array, Array]:
        """As of every autoregressive network; each hidden unit is computed once, when its inputs are known."""
        xp, y = namespace(y), y[..., 0]
        if not self.flip:
            x, log_det = xp.autoregressive_inverse(self, transformer, method, params, y, context)
            return x[..., None], log_det
        network, params = self.unflipped(params)
        x, log_det = xp.autoregressive_inverse(network, transformer, method, params, xp.flip(y, axis=-1), context)
        return xp.flip(x, axis=-1)[..., None], log_det

    def _output(self, weights: list[Array], biases: list[Array], x: Array) -> Array:
        return self.trace(weights, biases, x)[1]

    def trace(self, weights: list[Array], biases: list[Array], x: Array) -> tuple[list[Array], Array]:
        """What ``activations`` take, and the output ``(*batch, length, outputs)``, for the arrays of ``layers``.

        Args:
            x: ``(*batch, length)``.
        """
        xp, rest = namespace(x), zip(weights[1:], biases[1:], strict=True)
        *seen, a = self.mlp.propagate(xp, xp.linear(x, weights[0], biases[0]), rest)
        return seen, a.reshape(*a.shape[:-1], self.length, self.outputs)

    def layers(self, params: Params, like: Array, context: Array | None) -> tuple[list[Array], list[Array]]:
        """Masked weights ``(in, out)`` and biases; the context is part of the first bias, ``(*batch, out)``."""
        xp = namespace(like)
        weights = [params[f"w{i}"] * xp.constant(mask, like) for i, mask in enumerate(self.masks())]
        biases = [params[f"b{i}"] for i in range(len(weights))]
        if context is not None:
            biases[0] = xp.linear(context, params["c"], biases[0])
        return weights, biases

    def unflipped(self, params: Params) -> tuple[MaskedMLP, Params]:
        """The network and parameters of the same function of coordinates in reverse order."""
        first, last = "w0", len(self.mlp.widths)
        xp = namespace(params[first])

        def reverse_outputs(a: Array) -> Array:
            return xp.reshape(xp.flip(xp.reshape(a, (*a.shape[:-1], self.length, self.outputs)), axis=-2), a.shape)

        flipped = {**params, first: xp.flip(params[first], axis=0)}
        flipped |= {name: reverse_outputs(flipped[name]) for name in (f"w{last}", f"b{last}")}
        if not self.mlp.hidden and "c" in params:
            flipped["c"] = reverse_outputs(params["c"])
        return replace(self, flip=False), flipped

    def masks(self) -> tuple[np.ndarray, ...]:
        return _masks(self.length, self.outputs, self.mlp.widths, self.context_dim > 0, self.flip)

    def bounds(self) -> tuple[tuple[int, ...], ...]:
        """For x and each hidden layer: units ``[bounds[t], bounds[t + 1])`` are those that first see ``x[:t]``.

        Not of a flipped network: ``unflipped`` comes first.
        """
        return _bounds(self.length, self.mlp.widths, self.context_dim > 0)


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
    return tuple(s[:, None] <= t for s, t in zip(sources, targets, strict=True))


@cache
def _bounds(dim: int, hidden: tuple[int, ...], with_context: bool) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(np.sum(s < t)) for t in range(dim + 1)) for s in _degrees(dim, hidden, with_context))
