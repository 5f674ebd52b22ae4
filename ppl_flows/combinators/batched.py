"""``Batched``: independent bijections side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from math import prod

import numpy as np

from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_axes, whole_number
from ppl_flows.core.initialisation import initial_params, stacked_init
from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import flatten, map_params
from ppl_flows.core.types import Array, Observed, Params


@dataclass(frozen=True)
class Batched(Wrapper):
    """One bijection with parameters of its own for every element of a batch, such as the rows of a plate.

    Maps ``(..., *batch, *event)``; x and context broadcast against ``batch``, which is the batch shape of distributions
    made of it. Every array of ``params`` has these axes in front. One vectorised call
    (``vmap``), whatever the size of the batch.

    Args:
        part: the bijection of one element.
        batch: shape of the batch, such as ``(8,)``.

    Raises:
        TypeError: the part is not a Bijection, or batch no shape.
        ValueError: a batch that is empty or not positive, or a part that is batched already.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.Batched(pf.TriangularAffine(2), batch=(8,))
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((8, 2)))
        >>> y.shape, log_det.shape
        ((8, 2), (8,))
    """

    part: Bijection
    _: KW_ONLY
    batch: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.batch, Sequence):
            raise TypeError(f"Batched: batch must be a shape such as (8,), got {self.batch!r}.")
        check_axes("Batched", self.batch)
        object.__setattr__(self, "batch", tuple(whole_number("Batched", "every entry of batch", n) for n in self.batch))
        if not self.batch:
            raise ValueError("Batched: batch must hold at least one number, got ().")
        if self.part.batch_shape:
            raise ValueError(f"Batched: the part has batch shape {self.part.batch_shape} already; give one shape.")

    @property
    def batch_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.batch

    def init(self, rng: np.random.Generator) -> Params:
        rows = stacked_init(self.part, prod(self.batch), rng)
        return map_params(lambda _, a: a.reshape(*self.batch, *a.shape[1:]), rows)

    def _layer_counts(self) -> Counter[str]:
        return Counter({name: prod(self.batch) * n for name, n in self.part._layer_counts().items()})

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        def run(params: Params, x: Array, context: Array | None = None) -> Observed:
            return {}, *self.part._forward(params, x, context)

        return self._mapped(run, params, x, context, forward=True)[1:]

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        def run(params: Params, y: Array, context: Array | None = None) -> Observed:
            return {}, *self.part._inverse(params, y, context)

        return self._mapped(run, params, y, context, forward=False)[1:]

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        def run(params: Params, value: Array, context: Array | None = None) -> Observed:
            return self.part._observe(params, value, context, forward, stage)

        return self._mapped(run, params, value, context, forward=forward)

    def _mapped(
        self, run: Callable[..., Observed], params: Params, v: Array, context: Array | None, *, forward: bool
    ) -> Observed:
        """``run`` on every element, with the batch as one axis in front; params, values and log_det back in place."""
        xp, axes = namespace(v), len(self.batch)
        event = self.event_shape if forward else self.output_shape
        shape = tuple(v.shape[: v.ndim - len(event)])
        # axes of size 1, such as those that Pyro leaves for plates, are rows of one bijection and not bijections
        where = tuple(len(shape) - axes + i for i, n in enumerate(self.batch) if n > 1)
        front = tuple(range(len(where)))
        sizes, inner = [shape[i] for i in where], [n for i, n in enumerate(shape) if i not in where]

        def in_front(a: Array) -> Array:
            return xp.reshape(xp.moveaxis(a, where, front), (prod(sizes), *inner, *a.shape[len(shape) :]))

        def in_place(a: Array) -> Array:
            return xp.moveaxis(xp.reshape(a, (*sizes, *inner, *a.shape[1 + len(inner) :])), front, where)

        args = [map_params(lambda _, a: xp.reshape(a, (prod(sizes), *a.shape[axes:])), params), in_front(v)]
        if context is not None:
            args.append(in_front(xp.broadcast_to(context, (*shape, context.shape[-1]))))
        new, out, log_det = xp.vmap(run)(*args)
        new = map_params(lambda _, a: xp.reshape(a, (*self.batch, *a.shape[1:])), new)
        return new, in_place(out), in_place(log_det)


def with_batch(bijection: Bijection, params: Params) -> tuple[Bijection, Params]:
    """The bijection for params with more axes in front than ``bijection.init`` gives, which broadcast; and these.

    Without such axes both are as given.
    """
    sizes = {name: a.ndim for name, a in flatten(initial_params(bijection, 0))}
    batch = np.broadcast_shapes(*(tuple(a.shape[: a.ndim - sizes[name]]) for name, a in flatten(params)))
    if not batch:
        return bijection, params

    def whole(name: str, a: Array) -> Array:
        return namespace(a).broadcast_to(a, (*batch, *a.shape[a.ndim - sizes[name] :]))

    return Batched(bijection, batch=batch), map_params(whole, params)
