"""The loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO

from ppl_flows.inference.checkpoint import Checkpoint
from ppl_flows.inference.fit_error import MAX_SKIPPED, FitError
from ppl_flows.inference.interrupts import Pieces, StopOnInterrupt
from ppl_flows.inference.progress import steps_bar
from ppl_flows.inference.schedule import (
    BLOCKS,
    ENOUGH,
    Training,
    averaging_share,
    has_converged,
    learning_rate,
    model_weight,
)
from ppl_flows.inference.validation import check_steps
from ppl_flows.pyro.batches import Batches
from ppl_flows.pyro.checkpoint import SoFar, take_up, write
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.compile.replay import Replay, say, start_replay, state_of
from ppl_flows.pyro.eager_step import EagerSteps
from ppl_flows.pyro.rank_steps import RankSteps, without_compiling
from ppl_flows.pyro.ranks import current_ranks


def train(
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    steps: int,
    lr: float,
    clip: float,
    progress: bool,
    optimizer: Any = None,
    weighted: bool = True,
    anneal: float = 1.0,
    tolerance: float | None = None,
    look: int | None = None,
    compile: bool | str | None = None,
    watch: Callable[[int, float, dict[str, torch.Tensor]], Any] | None = None,
    checkpoint: Checkpoint | None = None,
    batches: Batches | None = None,
    rows: str | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density, or, not ``weighted``, nothing.

    After every block, ``watch`` gets the number of steps taken, the block's median loss, and its mean parameters, which
    are then those in Pyro's store; where it gives ``ENOUGH``, that is the end. Every step loads ``batches``; ``rows``
    is as of ``RankSteps``.
    """
    check_steps(steps, elbo.num_particles)
    plan, size = _plan(steps, lr, anneal, look), max(1, steps // BLOCKS)
    ranks, options = current_ranks(), {"optimizer": optimizer, "weighted": weighted, "batches": batches}
    eager = (
        RankSteps(ranks, rows, elbo, model, guide, clip, **options)
        if ranks
        else EagerSteps(elbo, model, guide, clip, **options)
    )
    so_far = take_up(checkpoint, eager, steps, plan[0, 0])
    if compile is None and (optimizer is not None or not weighted):
        compile = False  # the compiled step is not that of a host's optimiser, or loss
    if ranks:
        compile = without_compiling(compile)
    loop = _Loop(eager, so_far, plan, compile, annealed=anneal < 1)
    stop, pieces = so_far.finished, Pieces(size)
    with steps_bar(steps, elbo.num_particles, progress=progress) as bar, StopOnInterrupt() as interrupt:
        bar.update(so_far.step)
        try:
            while not stop:
                # the first step makes the parameters, the second shows what a step changes besides
                # and over several processes all look at the world after the same steps
                end = pieces.end(so_far.step, steps) if so_far.step > 1 and not ranks else so_far.step + 1
                try:
                    for _ in loop.run(end):
                        bar.update()
                    pieces.ended()
                    ended = so_far.step % size == 0 or so_far.step == steps  # a block
                    finished = so_far.step == steps or (
                        ended
                        and has_converged(
                            so_far.losses[: so_far.step], steps, elbo.num_particles, anneal, tolerance, look
                        )
                    )
                    due = checkpoint is not None and checkpoint.is_due()
                    if finished or due:
                        loop.confirm()
                    if ended:
                        median = float(np.median(so_far.losses[(so_far.step - 1) // size * size : so_far.step]))
                        bar.set_postfix(loss=f"{median:.3f}")
                        if watch:
                            finished = loop.show(watch, median, last=finished) or finished
                    stop = finished or eager.interrupted(interrupt)
                    if stop:
                        loop.confirm()
                except CompileError as error:
                    bar.update(-loop.give_up(error))
                    stop = False
                    continue
                so_far.finished = finished
                if checkpoint and (stop or due) and not (ranks and ranks.rank):
                    loop.taken_by.hand_over()
                    write(checkpoint, eager, so_far)
        finally:
            loop.taken_by.sync()
    interrupted = eager.interrupted(interrupt)
    eager.finish()
    return Training(so_far.losses[: so_far.step], loop.taken_by.skipped, eager.values(), interrupted)


class _Loop:
    """Steps by this plan, by Pyro or, from the third on, by replays.

    Attributes:
        taken_by: what takes them.
    """

    def __init__(
        self, eager: EagerSteps, so_far: SoFar, plan: np.ndarray, compile: bool | str | None, *, annealed: bool
    ) -> None:
        self.taken_by: EagerSteps | Replay = eager
        self._eager, self._so_far, self._plan, self._annealed = eager, so_far, plan, annealed
        self._compile, self._to_compile = compile, compile is not False and not so_far.gave_up
        self._before: dict[str, Any] | None = None

    def run(self, end: int) -> Iterator[float]:
        """The losses up to a step.

        Raises:
            CompileError: steps are to go on by Pyro.
            FitError: too many running were not finite.
        """
        so_far = self._so_far
        if self._to_compile and so_far.step == 1:
            self._before = state_of(self._eager)
        if self._to_compile and so_far.step > 1:
            self._to_compile = False
            remaining = len(self._plan) - 1  # of a fit that nothing stopped: one that goes on takes the same way
            self.taken_by = start_replay(self._eager, self._compile, remaining, self._before, annealed=self._annealed)
        for loss in self.taken_by.run(self._plan[so_far.step : end], so_far.step):
            so_far.add(loss)
            yield loss
        if self.taken_by.running >= MAX_SKIPPED:
            self.taken_by.sync()
            first = so_far.step - self.taken_by.running
            raise FitError(first, so_far.losses[: first + MAX_SKIPPED], self._eager.values())

    def confirm(self) -> None:
        """The steps so far are those of Pyro, or a CompileError."""
        self.taken_by.confirm(self._plan[self._so_far.step - 1])

    def show(self, watch: Callable[[int, float, dict[str, torch.Tensor]], Any], median: float, *, last: bool) -> bool:
        """Calls back, and whether that is the end; a CompileError if steps to come are others by that."""
        self.taken_by.sync()
        with self._eager.at_means():
            enough = watch(self._so_far.step, median, self._eager.values()) is ENOUGH
        if not (last or enough):
            self.taken_by.look_again()
        return enough

    def give_up(self, error: CompileError) -> int:
        """Goes on by Pyro; how many steps are to be taken again."""
        if self._compile == "strict":
            raise error
        what = f" compile={self._compile!r}" if self._compile else " being compiled"
        text = f"fit goes on without{what}: {error.reason}."
        say(text, self._compile, matters=error.lost > 0)
        self._so_far.give_up(error.lost)
        self.taken_by = self._eager
        return error.lost


def _plan(steps: int, lr: float, anneal: float, look: int | None) -> np.ndarray:
    """Of each step, ``(steps, 3)``: weight of the model, learning rate, share in the mean."""
    k = np.arange(steps)
    rates = lr * learning_rate(k, steps, np, look)
    return np.stack([model_weight(k, steps, anneal), rates, averaging_share(k, steps)], -1)
