from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache, cached_property
from math import prod

import numpy as np

from ppl_flows.conditioners import MLP, ConvNet
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_choice, check_flags, check_whole, checked_sequence, checked_shape
from ppl_flows.core.conditioner import Conditioner, Network, check_conditioner, theta_of
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import REAL, Support, everywhere
from ppl_flows.core.transformer import Transformer, check_transformer
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Affine

MASKS = ("halves", "alternating", "random", "checkerboard")


@dataclass(frozen=True)
class Coupling(Bijection):
    """One part of x passes and conditions the map of the other: ``y_a = x_a, y_b = h(x_b; net(x_a, context))``.

    With ``Additive`` this is NICE's layer, with ``Affine`` RealNVP's and Glow's, with ``RationalQuadratic`` that of
    neural spline flows. Starts next to the identity. Both directions cost one pass of the network.

    Args:
        dim: event size of vectors, at least 2; or ``(height, width, channels)`` of images.
        transformer: the scalar map h.
        mask: what passes (True). Of the coordinates, or the channels: ``"halves"`` the first half, ``"alternating"``
            every second one from the first, ``"random"`` a random half drawn from ``seed``, or a tuple of bools. Of
            images also ``"checkerboard"``: every second pixel, with all its channels.
        flip: exchange the two parts; every second layer of a flow wants it.
        seed: used only to draw a random mask, which is kept as a tuple.
        conditioner: the network, without its sizes. None: ``MLP((64, 64))``, of images ``ConvNet(64)``.
        context_dim: size of the context, 0 for none; of images, such as a class as one-hot vector.

    Raises:
        TypeError: a dim that is no whole number or shape, no transformer, or no conditioner of such events.
        ValueError: dim below 2, or an unknown mask or one that leaves a part empty.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Coupling(4, pf.RationalQuadratic(bins=4), conditioner=pf.MLP((32,)))
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 4)))
        >>> (y[:, :2] == 1.0).all()  # the first half passes
        np.True_

    Reference: Dinh et al. (2014), NICE, arXiv:1410.8516, sec. 3; Dinh et al. (2017), Real NVP, arXiv:1605.08803, of
    images sec. 3.4; Kingma & Dhariwal (2018), Glow, arXiv:1807.03039.
    """

    dim: int | tuple[int, ...]
    transformer: Transformer = Affine()
    _: KW_ONLY
    mask: str | tuple[bool, ...] = "halves"
    flip: bool = False
    seed: int = 0
    conditioner: Conditioner = None  # type: ignore[assignment]  # None is replaced by a network
    context_dim: int = 0

    def __post_init__(self) -> None:
        check_whole(self, context_dim=0, seed=0)
        check_flags(self, "flip")
        if isinstance(self.dim, Sequence):
            object.__setattr__(self, "dim", checked_shape("Coupling", self.dim, "dim"))
        else:
            check_whole(self, dim=1)
        check_transformer("Coupling", self.transformer)
        if self.conditioner is None:
            object.__setattr__(self, "conditioner", MLP() if len(self.event_shape) == 1 else ConvNet())
        check_conditioner("Coupling", self.conditioner, len(self.event_shape))
        object.__setattr__(self, "mask", self._complete_mask())

    def _complete_mask(self) -> str | tuple[bool, ...]:
        size, images = self.event_shape[-1], not isinstance(self.dim, int)
        masks = MASKS if images else MASKS[:-1]
        if isinstance(self.mask, str):
            check_choice("Coupling", "mask", self.mask, masks, more=", or give a tuple of bools")
        if isinstance(self.mask, str) and self.mask == "checkerboard":
            return self.mask
        if size < 2:
            raise ValueError(
                f"Coupling(dim={self.dim}): one channel cannot be split; squeeze first, or use mask='checkerboard'."
                if images
                else f"Coupling(dim={self.dim}) needs dim >= 2, since one part of x conditions the other; "
                "for one dimension use Elementwise or MaskedAutoregressive."
            )
        if isinstance(self.mask, str) and self.mask == "random":
            # the drawn mask is kept, not the seed: a file then does not depend on NumPy's stream
            return tuple(bool(i < size // 2) for i in np.random.default_rng(self.seed).permutation(size))
        if isinstance(self.mask, str):
            return self.mask
        mask = tuple(bool(m) for m in checked_sequence("Coupling", "mask", self.mask, "(True, False)"))
        if len(mask) != size or all(mask) or not any(mask):
            raise ValueError(
                f"Coupling(dim={self.dim}): mask must hold {size} bools, some True and some False, got {mask}."
            )
        return mask

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.dim,) if isinstance(self.dim, int) else self.dim

    @property
    def domain(self) -> Support:
        return everywhere(self.transformer.domain, prod(self.event_shape))

    @property
    def codomain(self) -> Support:
        interval = self.transformer.codomain
        if interval == self.transformer.domain:
            return self.domain
        if self.mask == "checkerboard":
            passing = _checkerboard(*self.event_shape[:2], self.flip)
        else:
            passing = np.isin(np.arange(self.event_shape[-1]), _parts(self.event_shape[-1], self.mask, self.flip)[0])
        stays = np.broadcast_to(passing, self.event_shape).ravel().tolist()
        return tuple(REAL if s else interval for s in stays)

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """Of what the network takes, and of what it gives."""
        passing = moved = self.event_shape[-1]
        if self.mask != "checkerboard":
            passing, moved = map(len, _parts(self.event_shape[-1], self.mask, self.flip)[:2])
        return passing, moved * self.transformer.size

    @cached_property
    def _network(self) -> Network:
        return self.conditioner.bind(*self._sizes, self.context_dim)

    def init(self, rng: np.random.Generator) -> Params:
        return self._network.init(rng)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self._apply(self.transformer.forward, params, x, context)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._apply(self.transformer.inverse, params, y, context)

    def _widen(self, params: Params) -> Params:
        return params  # the network multiplies in the dtype of its weights

    def _apply(
        self, h: Callable[[Array, Array], tuple[Array, Array]], params: Params, v: Array, context: Array | None
    ) -> tuple[Array, Array]:
        xp, images = namespace(v), not isinstance(self.dim, int)
        if images and context is not None:
            context = context[..., None, None, :]  # one for all pixels
        axis, (_, outputs) = (-3, -2, -1) if images else -1, self._sizes
        if self.mask == "checkerboard":
            passes = xp.constant(_checkerboard(*self.event_shape[:2], self.flip), v) > 0
            theta = theta_of(self._network, outputs, params, xp.where(passes, v, 0.0), context)
            out, slopes = h(theta.reshape(*theta.shape[:-1], v.shape[-1], self.transformer.size), v)
            return xp.where(passes, v, out), xp.sum(xp.where(passes, 0.0, slopes), axis=axis)
        a, b = self._split(v)
        theta = theta_of(self._network, outputs, params, a, context)
        b, slopes = h(theta.reshape(*theta.shape[:-1], b.shape[-1], self.transformer.size), b)
        return self._join(a, b), xp.sum(slopes, axis=axis)

    def _split(self, v: Array) -> tuple[Array, Array]:
        """What passes and what moves; by slices where they are regular, whose gradients are much cheaper."""
        xp, size = namespace(v), v.shape[-1]
        if self.mask == "halves":
            first, second = xp.pieces(v, (size // 2, size - size // 2), axis=-1)
        elif self.mask == "alternating":
            first, second = v[..., ::2], v[..., 1::2]
        else:
            passing, moved, _ = _parts(size, self.mask, self.flip)
            return xp.take(v, xp.constant(passing, v), axis=-1), xp.take(v, xp.constant(moved, v), axis=-1)
        return (second, first) if self.flip else (first, second)

    def _join(self, a: Array, b: Array) -> Array:
        xp = namespace(a)
        first, second = (b, a) if self.flip else (a, b)
        if self.mask == "halves":
            return xp.concat([first, second], axis=-1)
        if self.mask == "alternating":
            n = second.shape[-1]
            pairs = xp.stack([first[..., :n], second], axis=-1).reshape(*a.shape[:-1], 2 * n)
            return xp.concat([pairs, first[..., n:]], axis=-1) if self.event_shape[-1] % 2 else pairs
        back = _parts(self.event_shape[-1], self.mask, self.flip)[2]
        return xp.take(xp.concat([a, b], axis=-1), xp.constant(back, a), axis=-1)


@cache
def _parts(size: int, mask: str | tuple[bool, ...], flip: bool) -> tuple[np.ndarray, ...]:
    """Indices that pass, indices that move, and where each coordinate stands in the two together."""
    if isinstance(mask, str):
        mask = tuple(i < size // 2 if mask == "halves" else i % 2 == 0 for i in range(size))
    passing = [i for i, m in enumerate(mask) if m != flip]
    moved = [i for i, m in enumerate(mask) if m == flip]
    return np.array(passing), np.array(moved), np.argsort(passing + moved)


@cache
def _checkerboard(height: int, width: int, flip: bool) -> np.ndarray:
    """Where pixels pass, ``(height, width, 1)``."""
    i, j = np.indices((height, width))
    passes: np.ndarray = (i + j) % 2 == int(flip)
    return passes[..., None]
