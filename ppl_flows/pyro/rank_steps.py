"""Training steps that several processes take together: each differentiates its share, and all move alike."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from ppl_flows.inference.interrupts import StopOnInterrupt
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.compile.replay import say
from ppl_flows.pyro.eager_step import EagerSteps
from ppl_flows.pyro.params import stored_state
from ppl_flows.pyro.ranks import Ranks, generator_states, set_generator_states
from ppl_flows.pyro.shared_draws import SharedDraws

MEANS = (Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO)  # over particles; Rényi's is none
TOLERANCE = 1e-4  # of the first loss: many rounding errors of single precision, few of another loss
EAGER = "steps over several processes are taken by Pyro, as gradients are added up in them"


class RankSteps(EagerSteps):
    """``EagerSteps`` in several processes; arguments as there.

    Particles are shared where there are two or more for each process, else the rows of the first sub-sampled plate. A
    step is one sum over all processes: of gradients and losses, weighted by the shares.

    Args:
        ranks: the processes.
        rows: a plate whose rows are shared, sub-sampled or not. None: as above.

    Raises:
        ValueError: the ELBO is no mean over particles.
    """

    def __init__(self, ranks: Ranks, rows: str | None, elbo: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(elbo, *args, **kwargs)
        if type(elbo) not in MEANS:
            raise ValueError(
                f"loss={type(elbo).__name__}: over several processes a loss is a mean over particles, one of "
                f"{', '.join(kind.__name__ for kind in MEANS)}; use one of these, or one process."
            )
        self._ranks = ranks
        self._of_particles = elbo.num_particles >= 2 * ranks.count
        self._draws = SharedDraws(ranks, elbo.num_particles if self._of_particles else None, rows)
        self._own = copy.copy(elbo)
        if self._of_particles:
            self._own.num_particles = self._draws.share.size  # type: ignore[union-attr]  # it has one
        self._size = 0  # of all parameters; 0 before the first step
        self._before: Any = None  # the generator, and the state in the store, before the first step
        self._interrupt: StopOnInterrupt | None = None

    def interrupted(self, interrupt: StopOnInterrupt) -> bool:
        """Whether one of the processes was, when they took the last step; from the second on."""
        self._interrupt = interrupt
        return self._ranks.interrupted

    def _loss_and_grads(self, arguments: list[Any]) -> float:
        if not self._size:
            self._before = _state()
        own = self._own
        if own.max_plate_nesting == math.inf and (own.vectorize_particles or isinstance(own, TraceEnum_ELBO)):
            own._guess_max_plate_nesting(self.model, self.guide, arguments, {})  # of one particle, which none shares
        share, one_by_one = self._draws.share, self._of_particles and not self.elbo.vectorize_particles
        if one_by_one and share:
            self._run_only(share.start, arguments)
        with nullcontext() if one_by_one else self._draws:
            loss: float = own.loss_and_grads(self.model, self.guide, *arguments)
        if one_by_one and share:
            self._run_only(share.whole - share.stop, arguments)
        return loss

    @torch.no_grad()
    def _run_only(self, particles: int, arguments: list[Any]) -> None:
        """Particles of other processes, one by one, for the random numbers that they take."""
        other = copy.copy(self._own)
        other.num_particles = particles
        with poutine.block():
            for _ in other._get_traces(self.model, self.guide, arguments, {}):
                continue

    def _joined(self, loss: float, arguments: list[Any]) -> float:
        share, parameters = self._draws.share, [*self.names]
        if share is None:
            raise ValueError(
                f"there is nothing to share among {self._ranks.count} processes: {self.elbo.num_particles} particles "
                f"are fewer than {2 * self._ranks.count}, and the model has no sub-sampled plate. Use num_particles="
                f"{2 * self._ranks.count} or more, or pyro.plate(..., subsample_size=), or one process."
            )
        first = not self._size
        if first:
            self._meet(parameters)
        if sum(p.numel() for p in parameters) != self._size:
            raise ValueError("a step has parameters that the first did not have, as no fit over processes can.")
        weight = share.size / share.whole
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        numbers = torch.cat([*(g.reshape(-1) for g in grads), grads[0].new_tensor([loss])])
        interrupt = self._interrupt is not None and self._interrupt.requested
        total = self._ranks.add(
            weight * numbers, same=b"".join(_bytes(state) for state in generator_states()), interrupt=interrupt
        )
        if not total.alike:
            self._ranks.broken(
                "the random generators of the processes are not the same after a step: the model or guide draws in one "
                "of them what it does not draw in another, as one that branches on values does"
            )
        *sums, mean = total.numbers.to(grads[0].device).split([*(p.numel() for p in parameters), 1])
        for p, own, g in zip(parameters, grads, sums, strict=True):
            if p.grad is not None or g.any():
                p.grad = g.view(p.shape).to(own.dtype)
        loss = float(mean)
        if first:
            self._compare(loss, arguments)
        return loss

    def _meet(self, parameters: list[torch.Tensor]) -> None:
        """All processes have the same parameters."""
        self._check_same("before the first step", "the same data, seeds and versions make them so")
        self._size = sum(p.numel() for p in parameters)
        self._ranks.expect(self._size + 1, parameters[0])

    def _check_same(self, when: str, way_out: str) -> None:
        numbers = b"".join(_bytes(p) for p in self.names)
        if not self._ranks.add(same=" ".join(self.names.values()).encode() + numbers).alike:
            self._ranks.broken(f"the parameters of the processes are not the same {when}; {way_out}")

    def _compare(self, loss: float, arguments: list[Any]) -> None:
        """The first loss is that of one process.

        Raises:
            ValueError: it is not.
        """
        after = _state()
        _set_state(self._before)
        with torch.no_grad(), poutine.block():
            whole = float(copy.copy(self.elbo).loss(self.model, self.guide, *arguments))
        _set_state(after)
        self._before = None
        if math.isfinite(whole) and math.isfinite(loss) and abs(whole - loss) > TOLERANCE * (1 + abs(whole)):
            raise ValueError(
                f"the loss of the first step is {whole:.6g} in one process, and {loss:.6g} as {self._ranks.count} "
                "share it: they have other data, or the step is no mean over particles or rows (batch statistics, an "
                "enumerated site outside of a sub-sampled plate), or random numbers are not torch's. Use one process."
            )

    def finish(self) -> None:
        """As there, and all processes have the same parameters."""
        super().finish()
        self._ranks.add()
        self._ranks.expect_nothing()
        self._check_same("after the last step", "machines of one kind make them so")


def _state() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """What a step changes besides parameters: generators, and the state in Pyro's store."""
    return generator_states(), {name: value.clone() for name, value in stored_state().items()}


def _set_state(to: tuple[list[torch.Tensor], dict[str, torch.Tensor]]) -> None:
    set_generator_states(to[0])
    for name, value in stored_state().items():
        value.copy_(to[1].get(name, value))


def _bytes(tensor: torch.Tensor) -> bytes:
    values = tensor.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).contiguous().numpy().tobytes()


def without_compiling(compile: bool | str | None) -> bool:
    """False, for steps of several processes.

    Raises:
        CompileError: ``compile="strict"``.
    """
    if compile == "strict":
        raise CompileError(EAGER)
    if compile is not False:
        say(f"fit is not compiled: {EAGER}.", compile)
    return False


def check_one_process(ranks: Ranks | None) -> None:
    """Raises ValueError where there are several processes, for the guides that they cannot share."""
    if ranks:
        raise ValueError("fit: an AutoFlow with several modes is not trained over several processes; use one process.")
