"""The loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from tqdm.auto import tqdm

from ppl_flows.inference.checkpoint import Checkpoint
from ppl_flows.inference.interrupts import Pieces, StopOnInterrupt
from ppl_flows.inference.results import MAX_SKIPPED, FitError
from ppl_flows.inference.schedule import (
    BLOCKS,
    BestParams,
    Training,
    averaging_share,
    has_converged,
    learning_rate,
    model_weight,
)
from ppl_flows.inference.validation import check_steps
from ppl_flows.pyro.checkpoint import describe_steps, restore, snapshot
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.compile.replay import Replay, start_replay
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
    compile: bool | str = False,
    watch: Callable[[int, float, dict[str, torch.Tensor]], Any] | None = None,
    checkpoint: Checkpoint | None = None,
    best: BestParams | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density, or, not ``weighted``, nothing.

    After every block, ``watch`` gets the number of steps taken, the block's median loss, and its mean parameters, which
    are then those in Pyro's store. The checkpoint has all that, and what ``watch`` makes in ``best``.
    """
    check_steps(steps, elbo.num_particles)
    k = np.arange(steps)
    plan = np.stack([model_weight(k, steps, anneal), lr * learning_rate(k, steps, np), averaging_share(k, steps)], -1)
    losses, done, finished = np.full(steps, np.nan), 0, False
    size = max(1, steps // BLOCKS)
    eager = EagerSteps(elbo, model, guide, clip, optimizer=optimizer, weighted=weighted)
    loop: EagerSteps | Replay = eager
    to_compile, gave_up = bool(compile), False
    if checkpoint and checkpoint.saved:
        eager.gradient(plan[0, 0])  # which makes the parameters
        checkpoint.compare(describe_steps(eager))
        with checkpoint.faults():
            done, finished, gave_up = (checkpoint.saved[name] for name in ("step", "finished", "gave_up"))
            losses[:done] = checkpoint.saved["losses"]
            restore(eager, checkpoint.saved["steps"])
            if best:
                best.restore(checkpoint.saved["best"], None)
    stop = finished
    pieces = Pieces(size)
    with tqdm(total=steps, disable=None if progress else True, desc="fit") as bar, StopOnInterrupt() as interrupt:
        bar.update(done)
        try:
            while not stop:
                end = pieces.end(done, steps) if done else 1  # the first step makes the parameters
                try:
                    if done and to_compile and not gave_up:
                        to_compile = False
                        loop = start_replay(eager, compile, steps - 1, annealed=anneal < 1)
                    for loss in loop.run(plan[done:end]):
                        losses[done] = loss
                        done += 1
                        bar.update()
                    pause = interrupt.requested
                    due = checkpoint is not None and (pause or checkpoint.is_due())
                    if due:
                        loop.confirm(plan[done - 1])
                except CompileError as error:
                    if compile == "strict":
                        raise
                    warnings.warn(f"fit goes on without compile={compile!r}: {error.reason}.", stacklevel=3)
                    done -= error.lost
                    bar.update(-error.lost)
                    loop, gave_up = eager, True
                    continue
                pieces.ended()
                if loop.running >= MAX_SKIPPED:
                    loop.sync()
                    first = done - loop.running
                    raise FitError(first, losses[: first + MAX_SKIPPED], eager.values())
                if done % size == 0 or done == steps:
                    median = float(np.median(losses[(done - 1) // size * size : done]))
                    bar.set_postfix(loss=f"{median:.3f}")
                    if watch:
                        loop.sync()
                        with eager.at_means():
                            watch(done, median, eager.values())
                    finished = done == steps or has_converged(
                        losses[:done], steps, elbo.num_particles, anneal, tolerance
                    )
                stop = finished or pause
                if checkpoint and (finished or due):
                    loop.hand_over()
                    checkpoint.compare(describe_steps(eager))
                    checkpoint.write(
                        {
                            "step": done,
                            "finished": finished,
                            "gave_up": gave_up,
                            "losses": losses[:done],
                            "steps": snapshot(eager),
                            "best": best.saved() if best else None,
                        }
                    )
        finally:
            loop.sync()
    eager.settle()
    return Training(losses[:done], loop.skipped, eager.values(), interrupt.requested)
