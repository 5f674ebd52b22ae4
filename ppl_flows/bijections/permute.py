from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_generator, check_whole, checked_sequence, whole_number
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class Permute(Bijection):
    """Fixed permutation of the coordinates: ``y_i = x_{order[i]}``, with log_det 0.

    Args:
        dim: event size, at least 1.
        order: a permutation of ``0, ..., dim - 1``; None draws one from ``seed``.
        seed: used only to draw ``order``, which is kept.

    Raises:
        ValueError: dim below 1, or an order that is no permutation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Permute(3, order=(2, 0, 1))
        >>> layer.forward({}, np.array([1.0, 2.0, 3.0]))[0]
        array([3., 1., 2.])
    """

    dim: int
    _: KW_ONLY
    order: tuple[int, ...] = None  # type: ignore[assignment]  # None is replaced by a tuple
    seed: int = 0
    rearranges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole(self, dim=1, seed=0)
        # the drawn order is kept, not the seed: a file then does not depend on NumPy's random stream
        order = np.random.default_rng(self.seed).permutation(self.dim) if self.order is None else self.order
        order = checked_sequence("Permute", "order", order, "(1, 0)")
        object.__setattr__(self, "order", tuple(whole_number("Permute", "every entry of order", i, 0) for i in order))
        if sorted(self.order) != list(range(self.dim)):
            raise ValueError(
                f"Permute(dim={self.dim}): order must be a permutation of 0, ..., {self.dim - 1}, got {self.order}."
            )

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return _take(x, namespace(x).constant(_orders(self.order)[0], x))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return _take(y, namespace(y).constant(_orders(self.order)[1], y))


@dataclass(frozen=True)
class Reverse(Bijection):
    """The coordinates in reverse order, with log_det 0; its own inverse.

    Args:
        dim: event size, at least 1.

    Raises:
        ValueError: dim below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> pf.Reverse(3).forward({}, np.array([1.0, 2.0, 3.0]))[0]
        array([3., 2., 1.])
    """

    dim: int
    rearranges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(x)
        return xp.flip(x, axis=-1), xp.zeros_like(x[..., 0])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self._forward(params, y, context)


@dataclass(frozen=True)
class Shuffle(Bijection):
    """Random permutation drawn with the parameters, among which it is kept as state; with log_det 0.

    Where ``Permute`` has its order in its own description, all shuffles of one size have the same one: inside a
    ``Repeat`` each repetition has an order of its own.

    Args:
        dim: event size, at least 1.

    Raises:
        ValueError: dim below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Repeat(pf.Chain([pf.Shuffle(3), pf.Coupling(3)]), times=4)
        >>> params = layer.init(np.random.default_rng(0))
        >>> params["0"]["state"]["order"].shape  # an order for each repetition
        (4, 3)
    """

    dim: int
    rearranges: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        order = rng.permutation(self.dim)
        # whole numbers as floats: JAX takes no gradient where a leaf of the parameters is an integer
        return {"state": {"order": order.astype(float), "back": np.argsort(order).astype(float)}}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return _take(x, _whole(params["state"]["order"]))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return _take(y, _whole(params["state"]["back"]))


@cache
def _orders(order: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(order), np.argsort(order)


def _take(x: Array, order: Array) -> tuple[Array, Array]:
    xp = namespace(x)
    return xp.take(x, order, axis=-1), xp.zeros_like(x[..., 0])


def _whole(numbers: Array) -> Array:
    xp = namespace(numbers)
    return xp.astype(xp.round(numbers), xp.int32)
