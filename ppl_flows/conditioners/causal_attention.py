"""The causal transformer network of sequences, whole or one position after the other."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import Any

import numpy as np

from ppl_flows.conditioners.hidden_layers import OUTPUT_SCALE
from ppl_flows.core.checks import check_generator, check_whole, checked_widths
from ppl_flows.core.conditioner import AutoregressiveConditioner, AutoregressiveNetwork
from ppl_flows.core.namespace import ACTIVATIONS, namespace, unit_matrix
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class CausalAttention(AutoregressiveConditioner):
    """Causal transformer network of sequences.

    Inputs are embedded with a learned embedding of their place, go through pre-norm blocks of causal attention and a
    two-layer network, and are then shifted by one place; output 0 is a parameter. The context is added to every place.

    Args:
        width: of the hidden vectors, a multiple of heads.
        blocks, heads: of the attention.
        activation: a name such as ``"gelu"``.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a size below 1, a width that heads does not divide, or an unknown activation.

    Example:
        >>> import ppl_flows as pf
        >>> network = pf.CausalAttention(32, heads=2)
        >>> layer = pf.MaskedAutoregressive((16, 4), conditioner=network)  # 16 patches of 4 numbers
        >>> layer.event_shape
        (16, 4)

    Reference: Vaswani et al. (2017), Attention Is All You Need, arXiv:1706.03762; Xiong et al. (2020), On Layer
    Normalization in the Transformer Architecture, arXiv:2002.04745.
    """

    width: int = 64
    _: KW_ONLY
    blocks: int = 2
    heads: int = 4
    activation: str = "gelu"

    def __post_init__(self) -> None:
        check_whole(self, width=1, blocks=1, heads=1)
        checked_widths("CausalAttention", (self.width,), self.activation, ACTIVATIONS)
        if self.width % self.heads:
            raise ValueError(
                f"CausalAttention: width must be a multiple of heads, got width={self.width}, heads={self.heads}."
            )

    def bind_autoregressive(
        self, length: int, inputs: int, outputs: int, context_dim: int = 0, flip: bool = False
    ) -> AttentionNetwork:
        return AttentionNetwork(self, length, inputs, outputs, context_dim, flip)


@dataclass(frozen=True)
class AttentionNetwork(AutoregressiveNetwork):
    """``(*batch, length, inputs) -> (*batch, length, outputs)``: a ``CausalAttention`` of these sizes."""

    attention: CausalAttention
    length: int
    inputs: int
    outputs: int
    context_dim: int = 0
    flip: bool = False

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        n, blocks = self.attention.width, self.attention.blocks

        def dense(inputs: int, outputs: int, scale: float = 1.0) -> np.ndarray:
            return np.asarray(scale * rng.standard_normal((inputs, outputs)) / inputs**0.5)

        params: dict[str, Any] = {"embed": dense(self.inputs, n), "place": 0.1 * rng.standard_normal((self.length, n))}
        if self.context_dim:
            params["c"] = dense(self.context_dim, n)
        for i in range(blocks):
            small = 1 / (2 * blocks) ** 0.5  # so that the sum over the blocks keeps its size
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
        xp = namespace(x)
        x = xp.flip(x, axis=-2) if self.flip else x
        seen = xp.constant(_causal_mask(self.length), x) > 0
        a = self._embed(params, x, params["place"], context)
        for i in range(self.attention.blocks):
            p = params[f"block{i}"]
            q, k, v = self._heads(p, a)
            a = self._through(p, a, _attend(q, k, v, seen))
        a = self._out(params, a)[..., :-1, :]
        first = xp.broadcast_to(params["first"], (*a.shape[:-2], 1, self.outputs))
        theta = xp.concat([first, a], axis=-2)
        return xp.flip(theta, axis=-2) if self.flip else theta

    def sequentially(
        self, params: Params, y: Array, context: Array | None, transformer: Transformer, method: str
    ) -> tuple[Array, Array]:
        """As of every autoregressive network: from the first place to the last, each once through the network.

        The keys and values of the places before it are kept.
        """
        xp, n, heads = namespace(y), self.length, self.attention.heads
        y = xp.flip(y, axis=-2) if self.flip else y
        zeros = xp.zeros_like(y[..., :1, :1])
        empty = xp.broadcast_to(zeros[..., None], (*y.shape[:-2], n, heads, self.attention.width // heads))

        def step(carry: tuple[Any, ...], row: Params) -> tuple[tuple[Any, ...], Params]:
            theta, memory = carry
            x, slopes = transformer.inverse(theta.reshape(*theta.shape[:-1], -1, transformer.size), row["y"])
            a = self._embed(params, x[..., None, :], row["place"], context)
            grown: list[tuple[Array, Array]] = []
            for i, kept in enumerate(memory):
                p = params[f"block{i}"]
                q, k, v = self._heads(p, a)
                here = row["here"][:, None, None]
                grown.append((xp.where(here, k, kept[0]), xp.where(here, v, kept[1])))
                a = self._through(p, a, _attend(q, *grown[i], row["seen"]))
            return (self._out(params, a)[..., 0, :], tuple(grown)), {"x": x, "slopes": slopes}

        rows = {
            "y": xp.moveaxis(y, -2, 0),
            "place": params["place"],
            "here": unit_matrix(n, y) > 0,
            "seen": xp.constant(_causal_mask(n), y) > 0,
        }
        first = xp.broadcast_to(params["first"], (*y.shape[:-2], self.outputs))
        memory = ((empty, empty),) * self.attention.blocks
        _, out = xp.scan(step, (first, memory), rows, n, reverse=False)
        x = xp.moveaxis(out["x"], 0, -2)
        return xp.flip(x, axis=-2) if self.flip else x, xp.sum(out["slopes"], axis=(0, -1))

    def _embed(self, params: Params, x: Array, place: Array, context: Array | None) -> Array:
        a = x @ params["embed"] + place
        return a if context is None else a + (context @ params["c"])[..., None, :]

    def _heads(self, p: Params, a: Array) -> tuple[Array, Array, Array]:
        """Queries, keys and values, ``(*batch, places, heads, width / heads)``."""
        parts = _layer_norm(a, p["norm0"]) @ p["qkv"]
        q, k, v = namespace(a).unstack(parts.reshape(*a.shape[:-1], 3, self.attention.heads, -1), axis=-3)
        return q, k, v

    def _through(self, p: Params, a: Array, attended: Array) -> Array:
        act = getattr(namespace(a), self.attention.activation)
        a = a + attended.reshape(*a.shape[:-1], self.attention.width) @ p["mix"]
        return a + act(_layer_norm(a, p["norm1"]) @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"]

    def _out(self, params: Params, a: Array) -> Array:
        p = params["out"]
        return _layer_norm(a, p["norm"]) @ p["w"] + p["b"]


@cache
def _causal_mask(length: int) -> np.ndarray:
    """1 where the place of a row attends to that of a column."""
    return np.tril(np.ones((length, length)))


def _layer_norm(a: Array, scale: Array) -> Array:
    xp = namespace(a)
    a = a - xp.mean(a, axis=-1, keepdims=True)
    return a / xp.sqrt(xp.mean(a * a, axis=-1, keepdims=True) + 1e-5) * scale


def _attend(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Attention of every place in q to the places of k and v that it has seen, ``(*batch, places, heads, size)``."""
    xp = namespace(q)
    q, k, v = (xp.moveaxis(a, -2, -3) for a in (q, k, v))
    scores = xp.where(seen, q @ xp.matrix_transpose(k) / q.shape[-1] ** 0.5, -float("inf"))
    return xp.moveaxis(xp.softmax(scores) @ v, -3, -2)
