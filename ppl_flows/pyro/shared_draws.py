"""Random draws of a step that several processes share: each has its part of what one process would draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import SubsampleMessenger
from pyro.poutine.util import site_is_subsample
from torch.distributions import Independent, TransformedDistribution
from torch.utils._python_dispatch import TorchDispatchMode

from ppl_flows.pyro.ranks import Ranks

PARTICLES = "num_particles_vectorized"  # what Pyro's ELBOs call their plate
LIKE = ("rand_like", "randn_like", "randint_like")
NOWHERE, OUTSIDE = -1, -2  # of a site that is not split, and outside of sites
T = TypeVar("T")


class Share(NamedTuple):
    """``start`` to ``stop`` of ``whole`` particles or rows."""

    whole: int
    start: int
    stop: int

    @classmethod
    def of(cls, whole: int, ranks: Ranks) -> Share:
        """That of this process: all are as large, give or take one."""
        return cls(whole, whole * ranks.rank // ranks.count, whole * (ranks.rank + 1) // ranks.count)

    @property
    def size(self) -> int:
        return self.stop - self.start


class SharedDraws(Messenger):
    """While it is entered, this process has its share of the particles, or else of the rows of a sub-sampled plate.

    Noise of all particles or rows is drawn, and what is not this process's is dropped: so the generators of all
    processes stay the same, and its numbers are those of one process. A plate's indices are drawn for all rows too.

    Args:
        ranks: the processes.
        particles: of all of them, which one plate holds. None: rows are shared.
        rows: the plate that has them, sub-sampled or not. None: the first sub-sampled one that is met.

    Attributes:
        share: of this process; None before a plate was met.
    """

    def __init__(self, ranks: Ranks, particles: int | None, rows: str | None) -> None:
        super().__init__()
        self._ranks, self._rows = ranks, rows
        self._plate = rows if particles is None else PARTICLES
        self.share = None if particles is None else Share.of(particles, ranks)
        self._noise, self._everywhere = _Noise(self), True
        self._entered = ExitStack()

    def __enter__(self) -> SharedDraws:
        _current.append(self)
        with ExitStack() as stack:
            if self._plate != PARTICLES:
                stack.enter_context(_plates(self._plate_of_rows))
            if self._everywhere:
                stack.enter_context(self._noise)
            super().__enter__()
            self._entered = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._entered.__exit__(*error)
        self._everywhere = self._noise.outside  # watching every operation is slow: only where there are such draws
        _current.remove(self)

    def _plate_of_rows(self, name: str, size: int, indices: torch.Tensor) -> torch.Tensor:
        """Of the indices of a plate, those of this process."""
        if self._plate not in (None, name) or self._noise.is_off or (len(indices) >= size and self._rows is None):
            return indices
        if len(indices) < self._ranks.count:
            raise ValueError(
                f"plate {name!r} has {len(indices)} rows in a step, too few for {self._ranks.count} processes; give it "
                "a larger subsample_size."
            )
        self._plate, self.share = name, Share.of(len(indices), self._ranks)
        return indices[self.share.start : self.share.stop]

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None:
            return
        fn = msg["fn"]
        # all particles have the same indices of a plate
        frames = [] if site_is_subsample(msg) else [f for f in msg["cond_indep_stack"] if f.name == self._plate]
        with self._noise.at(len(fn.batch_shape) + frames[0].dim if frames else NOWHERE):
            msg["value"] = self._draw(fn) if not (msg["args"] or msg["kwargs"]) else fn(*msg["args"], **msg["kwargs"])

    def _draw(self, fn: Any) -> torch.Tensor:
        """``fn()``, with an eye on the numbers that it begins with and not on the maps of a flow, which have none."""
        if isinstance(fn, Independent) and fn.has_rsample:
            return self._draw(fn.base_dist)
        is_map = isinstance(fn, TransformedDistribution) and type(fn).rsample is TransformedDistribution.rsample
        if is_map and fn.has_rsample:
            value = self._draw(fn.base_dist)
            for transform in fn.transforms:
                value = transform(value)
            return value
        with nullcontext() if self._everywhere else self._noise:
            return fn()


class _Noise(TorchDispatchMode):
    """Draws the numbers of all processes, and keeps those of this one.

    Attributes:
        outside: whether draws outside of sample sites were split.
    """

    def __init__(self, draws: SharedDraws) -> None:
        super().__init__()
        self.outside = False
        self._draws, self._place = draws, OUTSIDE

    @property
    def is_off(self) -> bool:
        """Whether nothing is split now."""
        return self._place == NOWHERE

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for a second

    @contextmanager
    def at(self, place: int) -> Iterator[None]:
        """Draws inside have the plate at this dimension; those outside at their first, where it is as long."""
        before, self._place = self._place, place
        try:
            yield
        finally:
            self._place = before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, share = kwargs or {}, self._draws.share
        if torch.Tag.nondeterministic_seeded not in func.tags or self.is_off or share is None:
            return func(*args, **kwargs)
        place, name = max(self._place, 0), func._schema.name.removeprefix("aten::")
        in_place = func._schema.is_mutable

        def whole(value: Any, *, values: bool = True) -> Any:
            """An argument as one process has it."""
            shape = value.shape if isinstance(value, torch.Tensor) else value
            if not isinstance(shape, list | tuple) or len(shape) <= place or shape[place] != share.size:
                return value
            shape = [*shape[:place], share.whole, *shape[place + 1 :]]
            if not isinstance(value, torch.Tensor):
                return shape
            if not values:
                return value.new_empty(shape)
            if value.stride(place):
                raise ValueError(
                    f"random numbers by torch's {name!r} depend on values that differ from particle to particle or row "
                    "to row, which no process has of the others; fit such a guide in one process, or draw it from "
                    "distributions with a location and a scale."
                )
            return value.narrow(place, 0, 1).expand(shape)

        given = [whole(arg, values=not (i == 0 and (in_place or name in LIKE))) for i, arg in enumerate(args)]
        if all(new is old for new, old in zip(given, args, strict=True)):
            return func(*args, **kwargs)
        self.outside |= self._place == OUTSIDE
        own = func(*given, **kwargs).narrow(place, share.start, share.size)
        return args[0].copy_(own) if in_place else own.clone(memory_format=torch.contiguous_format)


@contextmanager
def _plates(own: Callable[[str, int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Plates with indices have those of ``own(name, size, indices)``; Pyro has no handler for that."""
    before = SubsampleMessenger._subsample

    def subsample(name: str, *args: Any, **kwargs: Any) -> tuple[int, int, torch.Tensor | None]:
        size, length, indices = before(name, *args, **kwargs)
        if indices is None:
            return size, length, indices
        indices = own(name, size, indices)
        return size, len(indices), indices

    host: Any = SubsampleMessenger
    host._subsample = staticmethod(subsample)
    try:
        yield
    finally:
        host._subsample = staticmethod(before)


_current: list[SharedDraws] = []  # at most one


def whole_batch(draw: Callable[..., T], *args: Any) -> T:
    """``draw(*args)``, which gives all processes the same, whatever they share."""
    with _current[-1]._noise.at(NOWHERE) if _current else nullcontext():
        return draw(*args)


def own_rows(batch: Any) -> Any:
    """Of what all processes have, tensors in tuples and dicts, the rows of this one, inside the plate they share."""
    share = _current[-1].share if _current else None
    if share is None or batch is None:
        return batch
    if isinstance(batch, tuple):
        return tuple(own_rows(part) for part in batch)
    if isinstance(batch, Mapping):
        return {name: own_rows(part) for name, part in batch.items()}
    return batch[share.start : share.stop]
