"""The loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from tqdm.auto import tqdm

from ppl_flows.inference.interrupts import Pieces, StopOnInterrupt
from ppl_flows.inference.results import MAX_SKIPPED, FitError
from ppl_flows.inference.schedule import BLOCKS, Training, averaging_share, has_converged, learning_rate, model_weight
from ppl_flows.inference.validation import check_steps
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
) -> Training:
    """Model and guide take the weight of the model's log density, or, not ``weighted``, nothing.

    After every block, ``watch`` gets the number of steps taken, the block's median loss, and its mean parameters, which
    are then those in Pyro's store.
    """
    check_steps(steps, elbo.num_particles)
    k = np.arange(steps)
    plan = np.stack([model_weight(k, steps, anneal), lr * learning_rate(k, steps, np), averaging_share(k, steps)], -1)
    losses, done = np.full(steps, np.nan), 0
    size = max(1, steps // BLOCKS)
    eager = EagerSteps(elbo, model, guide, clip, optimizer=optimizer, weighted=weighted)
    loop: EagerSteps | Replay = eager
    to_compile = bool(compile)
    pieces = Pieces(size)
    with tqdm(total=steps, disable=None if progress else True, desc="fit") as bar, StopOnInterrupt() as interrupt:
        try:
            while done < steps and not interrupt.requested:
                end = pieces.end(done, steps) if done else 1  # the first step makes the parameters
                try:
                    if done and to_compile:
                        to_compile = False
                        loop = start_replay(eager, compile, steps - done, annealed=anneal < 1)
                    for loss in loop.run(plan[done:end]):
                        losses[done] = loss
                        done += 1
                        bar.update()
                except CompileError as error:
                    if compile == "strict":
                        raise
                    warnings.warn(f"fit goes on without compile={compile!r}: {error.reason}.", stacklevel=3)
                    done -= error.lost
                    bar.update(-error.lost)
                    loop = eager
                    continue
                pieces.ended()
                if loop.running >= MAX_SKIPPED:
                    loop.sync()
                    first = done - loop.running
                    raise FitError(first, losses[: first + MAX_SKIPPED], eager.values())
                if done % size and done < steps:
                    continue
                median = float(np.median(losses[(done - 1) // size * size : done]))
                bar.set_postfix(loss=f"{median:.3f}")
                if watch:
                    loop.sync()
                    with eager.at_means():
                        watch(done, median, eager.values())
                if has_converged(losses[:done], steps, elbo.num_particles, anneal, tolerance):
                    break
        finally:
            loop.sync()
    eager.settle()
    return Training(losses[:done], loop.skipped, eager.values(), interrupt.requested)
