from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from ppl_flows.conditioners.hidden_layers import OUTPUT_SCALE
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_generator, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params
from ppl_flows.numerics.root_finding import numerical_inverse

GATE_SPEED = 4.0  # the gate starts almost shut; at the step size of the weights, it would take long to open


@dataclass(frozen=True)
class BlockNeuralAutoregressive(Bijection):
    """One autoregressive network that is itself the map: ``y = (1 - g) x + g f(x)``, each f_t increasing in x_t.

    f is a tanh network of block triangular matrices: each coordinate has its own units, which see their own kind
    through positive weights and those of earlier coordinates through any. The gate g, in (0, 1) and one for each
    coordinate, makes the map onto; it starts near 0, so the layer starts next to the identity. ``forward`` is one
    pass. ``inverse`` is numerical and sequential: dim root searches one after another, each in the units of one
    coordinate (in JAX, compile time grows with dim).

    Args:
        dim: event size, at least 1.
        hidden_factor: units per coordinate in each hidden layer.
        layers: number of hidden layers, at least 1.
        context_dim: size of the context, 0 for none; it enters the first layer.

    Raises:
        ValueError: dim, hidden_factor or layers below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.BlockNeuralAutoregressive(3, hidden_factor=4)
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: De Cao et al. (2019), Block Neural Autoregressive Flow, arXiv:1904.04676, sec. 3 (there with one gate
    for all coordinates, and with weight normalisation).
    """

    dim: int
    _: KW_ONLY
    hidden_factor: int = 8
    layers: int = 2
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, dim=1, hidden_factor=1, layers=1, context_dim=0)

    @property
    def _sizes(self) -> list[tuple[int, int]]:
        """Units per coordinate before and after each matrix."""
        return list(pairwise((1, *(self.hidden_factor,) * self.layers, 1)))

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        params = {"gate": np.full(self.dim, -5.0 / GATE_SPEED)}
        if self.context_dim:
            wide = self.dim * self.hidden_factor
            params["c"] = rng.standard_normal((self.context_dim, wide)) / self.context_dim**0.5
        for i, (n, m) in enumerate(self._sizes):
            d = 0.5 * rng.standard_normal((self.dim, n, m)) - np.log(n)  # log weights: f has slopes near 1
            w = rng.standard_normal((self.dim * n, self.dim * m))
            fan_in = np.maximum(_earlier(self.dim, n, m).sum(axis=0), 1)
            params |= {
                f"d{i}": d,
                f"w{i}": (OUTPUT_SCALE if i == self.layers else 1.0) / fan_in**0.5 * w,
                f"b{i}": (i == 0) * rng.standard_normal(self.dim * m),  # bends in different places
            }
        return params

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        xp, batch = namespace(x), x.shape[:-1]
        diagonal, biases = self._arrays(params, x, context)

        def rest(i: int, h: Array) -> Array:
            w = params[f"w{i}"] * xp.constant(_earlier(self.dim, *self._sizes[i]), x)
            return xp.reshape(xp.reshape(h, (*batch, -1)) @ w + biases[i], (*batch, self.dim, -1))

        y, slopes, _ = _scalar_map(x, params["gate"], diagonal, rest)
        return y, xp.sum(slopes, axis=-1)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        diagonal, biases = self._arrays(params, y, context)
        known: list[list[Array]] = [[] for _ in diagonal]  # per matrix: what enters it, of the coordinates before t
        total: Array = 0.0
        for t in range(self.dim):
            rests = []
            for i, (n, m) in enumerate(self._sizes):
                out = slice(t * m, (t + 1) * m)
                rest = biases[i][..., out]
                rests.append(rest + xp.concat(known[i], axis=-1) @ params[f"w{i}"][: t * n, out] if t else rest)
            parts = params["gate"][t], *(d[t] for d in diagonal), *rests
            x, slope = numerical_inverse(lambda x, *parts: _one_coordinate(x, *parts)[:2], y[..., t], *parts)
            total = total + slope
            for seen, h in zip(known, _one_coordinate(x, *parts)[2], strict=True):
                seen.append(h)
        return xp.concat(known[0], axis=-1), total

    def _arrays(self, params: Params, like: Array, context: Array | None) -> tuple[list[Array], list[Array]]:
        """The positive blocks ``(dim, before, after)`` and the biases; the context is part of the first bias."""
        diagonal = [namespace(like).exp(params[f"d{i}"]) for i in range(self.layers + 1)]
        biases = [params[f"b{i}"] for i in range(self.layers + 1)]
        if context is not None:
            biases[0] = biases[0] + context @ params["c"]
        return diagonal, biases


def _scalar_map(
    x: Array, gate: Array, diagonal: Sequence[Array], rest: Callable[[int, Array], Array]
) -> tuple[Array, Array, list[Array]]:
    """y, log slope and what enters each matrix, for each x by its own units; ``rest(i, h)`` is all else they add up.

    Slopes need no log space here: they are products of positive numbers, and the gate keeps their sum above 1 - g.
    """
    xp = namespace(x)
    h, seen = x[..., None], []
    slope = xp.ones_like(h)
    for i, d in enumerate(diagonal):
        if i > 0:
            h = xp.tanh(h)
            slope = slope * (1 - h**2)
        seen.append(h)
        own = xp.stack([h, slope], axis=-2) @ d
        h, slope = own[..., 0, :] + rest(i, h), own[..., 1, :]
    g, keep = xp.sigmoid(GATE_SPEED * gate), xp.sigmoid(-GATE_SPEED * gate)
    return keep * x + g * h[..., 0], xp.log(keep + g * slope[..., 0]), seen


def _one_coordinate(x: Array, gate: Array, *arrays: Array) -> tuple[Array, Array, list[Array]]:
    half = len(arrays) // 2
    return _scalar_map(x, gate, arrays[:half], lambda i, _: arrays[half + i])


@cache
def _earlier(dim: int, n: int, m: int) -> np.ndarray:
    """Mask ``(dim n, dim m)`` of the weights from earlier coordinates to later ones."""
    return np.kron(np.triu(np.ones((dim, dim), np.float32), 1), np.ones((n, m), np.float32))
