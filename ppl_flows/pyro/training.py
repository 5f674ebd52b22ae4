"""The loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from tqdm.auto import tqdm

from ppl_flows.inference.checkpoint import Checkpoint
from ppl_flows.inference.interrupts import Pieces, StopOnInterrupt
from ppl_flows.inference.results import MAX_SKIPPED, FitError
from ppl_flows.inference.schedule import BLOCKS, Training, averaging_share, has_converged, learning_rate, model_weight
from ppl_flows.inference.validation import check_steps
from ppl_flows.pyro.checkpoint import take_up, write
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.compile.replay import Replay, say, start_replay, state_of
from ppl_flows.pyro.eager_step import EagerSteps


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
    compile: bool | str | None = None,
    watch: Callable[[int, float, dict[str, torch.Tensor]], Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density, or, not ``weighted``, nothing.

    After every block, ``watch`` gets the number of steps taken, the block's median loss, and its mean parameters, which
    are then those in Pyro's store.
    """
    check_steps(steps, elbo.num_particles)
    plan = _plan(steps, lr, anneal)
    size = max(1, steps // BLOCKS)
    eager = EagerSteps(elbo, model, guide, clip, optimizer=optimizer, weighted=weighted)
    loop: EagerSteps | Replay = eager
    so_far = take_up(checkpoint, eager, steps, plan[0, 0])
    host = optimizer is not None or not weighted  # whose optimiser, or loss, is not in the compiled step
    to_compile = bool(not host if compile is None else compile) and not so_far.gave_up
    stop, pieces, before = so_far.finished, Pieces(size), None
    with tqdm(total=steps, disable=None if progress else True, desc="fit") as bar, StopOnInterrupt() as interrupt:
        bar.update(so_far.step)
        try:
            while not stop:
                # the first step makes the parameters, the second shows what a step changes besides
                end = pieces.end(so_far.step, steps) if so_far.step > 1 else so_far.step + 1
                try:
                    if so_far.step == 1 and to_compile:
                        before = state_of(eager)
                    if so_far.step > 1 and to_compile:
                        to_compile = False
                        loop = start_replay(eager, compile, steps - 1, before, annealed=anneal < 1)
                    for loss in loop.run(plan[so_far.step : end]):
                        so_far.add(loss)
                        bar.update()
                    pieces.ended()
                    if loop.running >= MAX_SKIPPED:
                        loop.sync()
                        first = so_far.step - loop.running
                        raise FitError(first, so_far.losses[: first + MAX_SKIPPED], eager.values())
                    ended = so_far.step % size == 0 or so_far.step == steps  # a block
                    finished = so_far.step == steps or (
                        ended
                        and has_converged(so_far.losses[: so_far.step], steps, elbo.num_particles, anneal, tolerance)
                    )
                    due = checkpoint is not None and checkpoint.is_due()
                    if finished or due:
                        loop.confirm(plan[so_far.step - 1])
                    if ended:
                        median = float(np.median(so_far.losses[(so_far.step - 1) // size * size : so_far.step]))
                        bar.set_postfix(loss=f"{median:.3f}")
                        if watch:
                            loop.sync()
                            with eager.at_means():
                                watch(so_far.step, median, eager.values())
                            if not finished:
                                loop.look_again()
                    stop = finished or interrupt.requested
                    if stop:
                        loop.confirm(plan[so_far.step - 1])
                except CompileError as error:
                    if compile == "strict":
                        raise
                    what = f" compile={compile!r}" if compile else " being compiled"
                    say(f"fit goes on without{what}: {error.reason}.", compile, stacklevel=4, matters=error.lost > 0)
                    so_far.give_up(error.lost)
                    bar.update(-error.lost)
                    loop, stop = eager, False
                    continue
                so_far.finished = finished
                if checkpoint and (stop or due):
                    loop.hand_over()
                    write(checkpoint, eager, so_far)
        finally:
            loop.sync()
    eager.settle()
    return Training(so_far.losses[: so_far.step], loop.skipped, eager.values(), interrupt.requested)


def _plan(steps: int, lr: float, anneal: float) -> np.ndarray:
    """Of each step, ``(steps, 3)``: weight of the model, learning rate, share in the mean."""
    k = np.arange(steps)
    return np.stack([model_weight(k, steps, anneal), lr * learning_rate(k, steps, np), averaging_share(k, steps)], -1)
