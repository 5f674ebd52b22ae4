from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from ppl_flows.conditioners.mlp import MLP, checked_hidden
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.precision import alike, has_narrow, is_narrow, wide
from ppl_flows.core.support import Support, where_moved
from ppl_flows.core.transformer import Transformer, check_transformer
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Affine

MASKS = ("halves", "alternating", "random")


@dataclass(frozen=True)
class Coupling(Bijection):
    """One part of x passes and conditions the map of the other: ``y_a = x_a, y_b = h(x_b; net(x_a, context))``.

    With ``Additive`` this is NICE's layer, with ``Affine`` RealNVP's, with ``RationalQuadratic`` that of neural
    spline flows. Starts next to the identity. Both directions cost one pass of the network.

    Args:
        dim: event size, at least 2.
        transformer: the scalar map h.
        mask: which coordinates pass (True): ``"halves"`` the first half, ``"alternating"`` every second one from the
            first, ``"random"`` a random half drawn from ``seed``, or a tuple of ``dim`` bools.
        flip: exchange the two parts.
        seed: used only to draw a random mask, which is kept as a tuple.
        hidden: widths of the network's hidden layers.
        activation: of the network, a name such as ``"silu"``.
        residual: the entries of hidden, all equal, are residual blocks of two matrices each instead of plain layers;
            one linear map comes before them and one after.
        context_dim: size of the context, 0 for none.

    Raises:
        ValueError: dim below 2, an unknown mask or one that leaves a part empty, or residual blocks of unequal widths.

    Reference: Dinh et al. (2014), NICE, arXiv:1410.8516, sec. 3; Dinh et al. (2017), Real NVP, arXiv:1605.08803.
    """

    dim: int
    transformer: Transformer = Affine()
    mask: str | tuple[bool, ...] = "halves"
    flip: bool = False
    seed: int = 0
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "silu"
    residual: bool = False
    context_dim: int = 0
    widens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.dim < 2:
            raise ValueError(
                f"Coupling(dim={self.dim}) needs dim >= 2, since one part of x conditions the other; "
                "for one dimension use Elementwise or MaskedAutoregressive."
            )
        check_transformer("Coupling", self.transformer)
        hidden = checked_hidden("Coupling", self.hidden, self.activation, self.residual)
        object.__setattr__(self, "hidden", hidden)
        if (
            isinstance(self.mask, str) and self.mask == "random"
        ):  # the drawn mask is kept, not the seed: a file then does not depend on NumPy's stream
            order = np.random.default_rng(self.seed).permutation(self.dim)
            object.__setattr__(self, "mask", tuple(order < self.dim // 2))
        if not isinstance(self.mask, str):
            object.__setattr__(self, "mask", tuple(bool(m) for m in self.mask))
            if len(self.mask) != self.dim or all(self.mask) or not any(self.mask):
                raise ValueError(
                    f"Coupling(dim={self.dim}): mask must hold {self.dim} bools, some True and some False, "
                    f"got {self.mask}."
                )
        elif self.mask not in MASKS:
            raise ValueError(
                f"Coupling: unknown mask {self.mask!r}; choose one of {', '.join(MASKS)}, or give a tuple of bools."
            )

    @property
    def codomain(self) -> Support:
        passing, _, _ = _parts(self.dim, self.mask, self.flip)
        return where_moved(self.transformer.codomain, [i not in passing for i in range(self.dim)])

    @property
    def _network(self) -> MLP:
        passing, moved, _ = _parts(self.dim, self.mask, self.flip)
        outputs = len(moved) * self.transformer.size
        return MLP(len(passing), outputs, self.hidden, self.activation, self.context_dim, self.residual)

    def init(self, rng: np.random.Generator) -> Params:
        return self._network.init(rng)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._apply(self.transformer.forward, params, x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._apply(self.transformer.inverse, params, y, context)

    def _apply(self, h, params: Params, v: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(v)
        narrow = is_narrow(v, context) or has_narrow(params)
        if narrow:
            params, v, context = alike(params, v, context)
        a, b = self._split(v)
        theta = self._network(params, a, context)
        theta = theta.reshape(*theta.shape[:-1], b.shape[-1], self.transformer.size)
        b, slopes = h(wide(theta), wide(b)) if narrow else h(theta, b)
        b = xp.astype(b, v.dtype) if narrow else b
        return self._join(a, b), xp.sum(slopes, axis=-1)

    def _split(self, v: Array) -> tuple[Array, Array]:
        """What passes and what moves; by slices where they are regular, whose gradients are much cheaper."""
        xp = namespace(v)
        if self.mask == "halves":
            parts = xp.pieces(v, (self.dim // 2, self.dim - self.dim // 2), axis=-1)
        elif self.mask == "alternating":
            parts = v[..., ::2], v[..., 1::2]
        else:
            passing, moved, _ = _parts(self.dim, self.mask, self.flip)
            return xp.take(v, xp.constant(passing, v), axis=-1), xp.take(v, xp.constant(moved, v), axis=-1)
        return (parts[1], parts[0]) if self.flip else (parts[0], parts[1])

    def _join(self, a: Array, b: Array) -> Array:
        xp = namespace(a)
        first, second = (b, a) if self.flip else (a, b)
        if self.mask == "halves":
            return xp.concat([first, second], axis=-1)
        if self.mask == "alternating":
            n = second.shape[-1]
            pairs = xp.stack([first[..., :n], second], axis=-1).reshape(*a.shape[:-1], 2 * n)
            return xp.concat([pairs, first[..., n:]], axis=-1) if self.dim % 2 else pairs
        back = _parts(self.dim, self.mask, self.flip)[2]
        return xp.take(xp.concat([a, b], axis=-1), xp.constant(back, a), axis=-1)


@cache
def _parts(dim: int, mask: str | tuple[bool, ...], flip: bool) -> tuple[np.ndarray, ...]:
    """Indices that pass, indices that move, and where each coordinate stands in the two together."""
    if isinstance(mask, str):
        mask = tuple(i < dim // 2 if mask == "halves" else i % 2 == 0 for i in range(dim))
    passing = [i for i, m in enumerate(mask) if m != flip]
    moved = [i for i, m in enumerate(mask) if m == flip]
    return np.array(passing), np.array(moved), np.argsort(passing + moved)
