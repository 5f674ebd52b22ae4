"""Several processes that train together, of torch's default group: what they tell each other."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import torch
import torch.distributed as dist

from ppl_flows.inference.checkpoint import differences
from ppl_flows.inference.warn_user import warn_user

HEAD = 4  # numbers in every sum besides its own: errors, interrupts, and a checksum with its square
SHOWN = 6  # differences in an error
P = ParamSpec("P")
R = TypeVar("R")


class RankError(RuntimeError):
    """Another process of the group failed, ended, or does something else than this one."""


class Sum(NamedTuple):
    """Over all processes: of their numbers; and whether they gave the same bytes."""

    numbers: torch.Tensor
    alike: bool


class Ranks:
    """The processes of the default group, in one call that all of them make.

    They meet in ``add`` alone, and know how many numbers come next: so a process that fails can tell the others in
    place of what they wait for.

    Attributes:
        rank, count: which of the processes this is, and of how many.
        interrupted: whether one of them was, at the last ``add``.
    """

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.interrupted = False
        self._backends = str(dist.get_backend_config())  # such as cpu:gloo,cuda:nccl
        self._broken = False
        self.expect_nothing()

    def expect(self, size: int, like: torch.Tensor) -> None:
        """From now on ``add`` is of so many numbers, in this dtype and from this device."""
        own = f"{like.device.type}:" in self._backends
        self._size, self._dtype = size, torch.promote_types(like.dtype, torch.float32)
        self._device = like.device if own else self._any_device()

    def expect_nothing(self) -> None:
        """From now on ``add`` is of nothing but what all of them say."""
        self._size, self._dtype, self._device = 0, torch.float64, self._any_device()

    def _any_device(self) -> torch.device:
        cpu = "cpu:" in self._backends
        return torch.device("cpu") if cpu else torch.device("cuda", torch.cuda.current_device())

    def add(
        self,
        numbers: torch.Tensor | None = None,
        *,
        same: bytes = b"",
        interrupt: bool = False,
        error: BaseException | None = None,
    ) -> Sum:
        """The sum of all processes' numbers. Waits for all of them.

        Args:
            numbers: of this process. None: zeros.
            same: what all should have; small checksums may agree by chance, once in 256 in single precision.
            interrupt: whether this process was interrupted.
            error: by which this process ends.

        Raises:
            RankError: another process has an error, or is gone.
        """
        number = zlib.crc32(same) % (2**20 if self._dtype == torch.float64 else 2**8)  # its square's sum is exact
        own = torch.zeros(self._size) if numbers is None else numbers
        head = torch.tensor([error is not None, interrupt, number, number**2])
        total = torch.cat([own.to(self._device, self._dtype), head.to(self._device, self._dtype)])
        with self._answers():
            dist.all_reduce(total)
        errors, interrupts, once, squared = total[-HEAD:].tolist()
        self.interrupted = interrupts > 0
        if errors:
            self._broken = True
            reasons = self.gather(None if error is None else f"{type(error).__name__}: {error}")
            failed = next((i, reason) for i, reason in enumerate(reasons) if reason)
            if error is None:
                raise RankError(f"process {failed[0]} of {self.count} failed, so this one ends, too. {failed[1]}")
        return Sum(total[:-HEAD], self.count * squared == once**2)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in all of them."""
        found: list[Any] = [None] * self.count
        with self._answers():
            dist.all_gather_object(found, value)
        return found

    def check_call(self, call: Mapping[str, Any]) -> None:
        """Raises RankError, in all processes, unless they make the same call."""
        call = json.loads(json.dumps(call))
        if self.add(same=json.dumps(call, sort_keys=True).encode()).alike:
            return
        self._broken = True
        first, *others = self.gather(call)
        for rank, other in enumerate(others, 1):
            found = [line for name in first for line in differences(name, first[name], other.get(name))]
            if found:
                more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
                raise RankError(
                    f"all processes of a group make the same call, but that of process {rank} is not that of process "
                    f"0: {'; '.join(found[:SHOWN])}{more}. Give all of them the same data, options and seed: each "
                    "takes its share by itself. To fit something else in each, start no process group."
                )

    def broken(self, reason: str) -> NoReturn:
        """Ends all processes, which all know the reason.

        Raises:
            RankError: for this reason.
        """
        self._broken = True
        raise RankError(f"{reason}.")

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._broken = True
            raise RankError(
                f"process {self.rank} of {self.count} has lost another one, which ended, or did not answer for as long "
                "as the group's timeout says; its own output has the reason. With checkpoint= the same call goes on "
                "from the last checkpoint, on any number of processes."
            ) from error

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all processes run, and none alone leaves: an error in one of them is one in all."""
        _current.append(self)
        try:
            yield
            self.add()
        except BaseException as error:
            if not self._broken:
                with suppress(RankError):  # the others are gone, and this error says more
                    self.add(error=error)
            raise
        finally:
            _current.remove(self)


_current: list[Ranks] = []  # at most one, as fits are taken one at a time


def current_ranks() -> Ranks | None:
    """The processes that train together now; None: this one trains alone."""
    return _current[-1] if _current else None


def generator_states() -> list[torch.Tensor]:
    """Of the CPU, and of the GPUs that this process draws on: the current one, if it is one of several."""
    if not torch.cuda.is_initialized():
        return [torch.get_rng_state()]
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if _current else torch.cuda.get_rng_state_all())]


def set_generator_states(states: Sequence[torch.Tensor]) -> None:
    """As they were; those of one process may come from another one."""
    cpu, *cuda = states
    torch.set_rng_state(cpu)
    if cuda and _current:
        torch.cuda.set_rng_state(cuda[0])
    elif cuda:
        torch.cuda.set_rng_state_all(cuda)


def over_ranks(f: Callable[P, R]) -> Callable[P, R]:
    """f, which the processes of torch's default group run together, where there is one of several."""

    @wraps(f)
    def shared(*args: P.args, **kwargs: P.kwargs) -> R:
        if _current or not _has_group(f.__name__):
            return f(*args, **kwargs)
        ranks = Ranks()
        if ranks.rank:
            kwargs["progress"] = False
        with ranks.together():
            return f(*args, **kwargs)

    return shared


def _has_group(name: str) -> bool:
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    count = os.environ.get("WORLD_SIZE", "1")
    if "TORCHELASTIC_RUN_ID" in os.environ and count != "1":
        warn_user(
            f"torchrun started {count} processes, and each runs {name} by itself, as there is no process group; for "
            "one fit over all of them put torch.distributed.init_process_group() before it.",
        )
    return False
