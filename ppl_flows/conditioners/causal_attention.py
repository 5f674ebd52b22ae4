"""The conditioner of patch sequences: a causal transformer network, whole or one position after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ppl_flows.conditioners.mlp import OUTPUT_SCALE
from ppl_flows.core.linear import identity
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class CausalAttention:
    """``(*batch, length, inputs) -> (*batch, length, outputs)``; output t sees only the inputs before t.

    Inputs are embedded with a learned embedding of their place, go through pre-norm blocks of causal attention and a
    two-layer network, and are then shifted by one place; output 0 is a parameter. The context is added to every place.

    Args:
        length: of the sequence.
        inputs, outputs: size of each place's vector.
        width: of the hidden vectors, a multiple of heads.
        blocks, heads: of the attention.
        activation: a name in ``ops.ACTIVATIONS``.
        context_dim: size of the context, 0 for none.

    Reference: Vaswani et al. (2017), Attention Is All You Need, arXiv:1706.03762; Xiong et al. (2020), On Layer
    Normalization in the Transformer Architecture, arXiv:2002.04745.
    """

    length: int
    inputs: int
    outputs: int
    width: int
    blocks: int
    heads: int
    activation: str
    context_dim: int = 0

    def init(self, rng: np.random.Generator) -> Params:
        n = self.width

        def dense(inputs: int, outputs: int, scale: float = 1.0) -> np.ndarray:
            return scale * rng.standard_normal((inputs, outputs)) / inputs**0.5

        params: dict[str, Any] = {"embed": dense(self.inputs, n), "place": 0.1 * rng.standard_normal((self.length, n))}
        if self.context_dim:
            params["c"] = dense(self.context_dim, n)
        for i in range(self.blocks):
            small = 1 / (2 * self.blocks) ** 0.5  # so that the sum over the blocks keeps its size
            params[f"block{i}"] = {
                "norm0": np.ones(n),
                "qkv": dense(n, 3 * n),
                "mix": dense(n, n, small),
                "norm1": np.ones(n),
                "w0": dense(n, 2 * n),
                "b0": np.zeros(2 * n),
                "w1": dense(2 * n, n, small),
                "b1": np.zeros(n),
            }
        out = {"norm": np.ones(n), "w": dense(n, self.outputs, OUTPUT_SCALE), "b": np.zeros(self.outputs)}
        return params | {"out": out, "first": np.zeros(self.outputs)}

    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        """All outputs at once."""
        xp = namespace(x)
        seen = xp.constant(_seen(self.length), x) > 0
        a = self._embedded(params, x, params["place"], context)
        for i in range(self.blocks):
            p = params[f"block{i}"]
            q, k, v = self._heads(p, a)
            a = self._through(p, a, _attend(q, k, v, seen))
        a = self._out(params, a)[..., :-1, :]
        first = xp.broadcast_to(params["first"], (*a.shape[:-2], 1, self.outputs))
        return xp.concat([first, a], axis=-2)

    def sequentially(
        self, params: Params, y: Array, context: Array | None, solve: Callable[[Array, Array], tuple[Array, Array]]
    ) -> tuple[Array, Array]:
        """``x_t, s_t = solve(output t, y_t)`` from the first place to the last: ``(x, s)``.

        Every place goes through the network once: the keys and values of those before it are kept.

        Args:
            y: ``(*batch, length, inputs)``.
            solve: from ``(*batch, outputs)`` and ``(*batch, inputs)`` to two arrays like the second.
        """
        xp, n = namespace(y), self.length
        zeros = xp.zeros_like(y[..., :1, :1])
        empty = xp.broadcast_to(zeros[..., None], (*y.shape[:-2], n, self.heads, self.width // self.heads))

        def step(carry: tuple, row: Params) -> tuple[tuple, Params]:
            theta, memory = carry
            x, s = solve(theta, row["y"])
            a = self._embedded(params, x[..., None, :], row["place"], context)
            grown: list[tuple[Array, Array]] = []
            for i, kept in enumerate(memory):
                p = params[f"block{i}"]
                q, k, v = self._heads(p, a)
                here = row["here"][:, None, None]
                grown.append((xp.where(here, k, kept[0]), xp.where(here, v, kept[1])))
                a = self._through(p, a, _attend(q, *grown[i], row["seen"]))
            return (self._out(params, a)[..., 0, :], tuple(grown)), {"x": x, "s": s}

        rows = {
            "y": xp.moveaxis(y, -2, 0),
            "place": params["place"],
            "here": identity(n, y) > 0,
            "seen": xp.constant(_seen(n), y) > 0,
        }
        first = xp.broadcast_to(xp.astype(params["first"], y.dtype, copy=False), (*y.shape[:-2], self.outputs))
        _, out = xp.scan(step, (first, ((empty, empty),) * self.blocks), rows, n, reverse=False)
        return xp.moveaxis(out["x"], 0, -2), xp.moveaxis(out["s"], 0, -2)

    def _embedded(self, params: Params, x: Array, place: Array, context: Array | None) -> Array:
        a = x @ params["embed"] + place
        return a if context is None else a + (context @ params["c"])[..., None, :]

    def _heads(self, p: Params, a: Array) -> tuple[Array, ...]:
        """Queries, keys and values, ``(*batch, places, heads, width / heads)``."""
        parts = _normalised(a, p["norm0"]) @ p["qkv"]
        return namespace(a).unstack(parts.reshape(*a.shape[:-1], 3, self.heads, -1), axis=-3)

    def _through(self, p: Params, a: Array, attended: Array) -> Array:
        act = getattr(namespace(a), self.activation)
        a = a + attended.reshape(*a.shape[:-1], self.width) @ p["mix"]
        return a + act(_normalised(a, p["norm1"]) @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]

    def _out(self, params: Params, a: Array) -> Array:
        p = params["out"]
        return _normalised(a, p["norm"]) @ p["w"] + p["b"]


@cache
def _seen(length: int) -> np.ndarray:
    """1 where the place of a row attends to that of a column."""
    return np.tril(np.ones((length, length)))


def _normalised(a: Array, scale: Array) -> Array:
    xp = namespace(a)
    a = a - xp.mean(a, axis=-1, keepdims=True)
    return a / xp.sqrt(xp.mean(a * a, axis=-1, keepdims=True) + 1e-5) * scale


def _attend(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Attention of every place in q to the places of k and v that it has seen, ``(*batch, places, heads, size)``."""
    xp = namespace(q)
    q, k, v = (xp.moveaxis(a, -2, -3) for a in (q, k, v))
    scores = xp.where(seen, q @ xp.matrix_transpose(k) / q.shape[-1] ** 0.5, -float("inf"))
    return xp.moveaxis(xp.softmax(scores) @ v, -3, -2)
