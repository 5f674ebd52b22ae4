"""The loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from tqdm.auto import tqdm

from ppl_flows.inference.results import MAX_SKIPPED, FitError
from ppl_flows.inference.schedule import BLOCKS, Training, averaging_share, converged, learning_rate, model_weight
from ppl_flows.inference.validation import check_steps
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.compile.replay import Replay, replayed
from ppl_flows.pyro.eager_step import Eager


def train(
    elbo: Trace_ELBO | TraceEnum_ELBO,
    model: Callable,
    guide: Callable,
    *,
    steps: int,
    lr: float,
    clip: float,
    progress: bool,
    anneal: float = 1.0,
    tolerance: float | None = None,
    compile: bool | str = False,
    watch: Callable[[], Any] | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density; ``watch`` runs at the means of every block."""
    check_steps(steps, elbo.num_particles)
    k = np.arange(steps)
    plan = np.stack([model_weight(k, steps, anneal), lr * learning_rate(k, steps, np), averaging_share(k, steps)], -1)
    losses, done = np.full(steps, np.nan), 0
    size = max(1, steps // BLOCKS)
    eager = Eager(elbo, model, guide, clip)
    loop: Eager | Replay = eager
    to_compile = bool(compile)
    with tqdm(total=steps, disable=None if progress else True, desc="fit") as bar:
        try:
            while done < steps:
                end = min(steps, (done // size + 1) * size) if done else 1  # the first step makes the parameters
                try:
                    if done and to_compile:
                        to_compile = False
                        loop = replayed(eager, compile, steps - done, annealed=anneal < 1)
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
                if loop.running >= MAX_SKIPPED:
                    loop.sync()
                    first = done - loop.running
                    raise FitError(first, losses[: first + MAX_SKIPPED], eager.values())
                if watch and (done % size == 0 or done == steps):
                    loop.sync()
                    with eager.at_means():
                        watch()
                if done % size == 0:
                    bar.set_postfix(loss=f"{np.median(losses[done - size : done]):.3f}")
                    if converged(losses[:done], steps, elbo.num_particles, anneal, tolerance):
                        break
        finally:
            loop.sync()
    eager.settle()
    return Training(losses[:done], loop.skipped, eager.values())
