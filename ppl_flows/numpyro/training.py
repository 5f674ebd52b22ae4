"""The loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpyro.infer import ELBO

from ppl_flows.inference.checkpoint import Checkpoint
from ppl_flows.inference.fit_error import MAX_SKIPPED, FitError
from ppl_flows.inference.interrupts import Pieces, StopOnInterrupt
from ppl_flows.inference.progress import stage, steps_bar
from ppl_flows.inference.row_source import RowSource
from ppl_flows.inference.schedule import BLOCKS, ENOUGH, Training, has_converged
from ppl_flows.numpyro.compiled_steps import CompiledSteps
from ppl_flows.numpyro.mesh import Split, agreed, is_first


def train(
    key: jax.Array,
    elbo: ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    steps: int,
    lr: float,
    clip: float,
    progress: bool,
    optimizer: Any = None,
    anneal: float = 1.0,
    tolerance: float | None = None,
    look: int | None = None,
    init_params: dict[str, Any] | None = None,
    watch: Callable[[int, float, dict[str, Any]], Any] | None = None,
    checkpoint: Checkpoint | None = None,
    source: RowSource | None = None,
    split: Split | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density; many steps are one dispatch, of about a second.

    After every block, ``watch`` gets the number of steps taken, the block's median loss, and its mean parameters;
    where it gives ``ENOUGH``, that is the end. Rows of a ``source`` are a second argument of model and guide. With
    several processes, the first one of the mesh writes checkpoints.
    """
    size = max(1, steps // BLOCKS)
    with stage(f"compiling {steps:,} steps, one program", progress=progress):
        loop = CompiledSteps(
            key,
            elbo,
            model,
            guide,
            steps=steps,
            block=size,
            lr=lr,
            clip=clip,
            optimizer=optimizer,
            anneal=anneal,
            look=look,
            init_params=init_params,
            source=source,
            split=split,
        )
    losses, bads, finished = np.empty(0), np.empty(0, dtype=int), False
    if checkpoint:
        checkpoint.compare(loop.describe())
        if checkpoint.saved is not None:
            with checkpoint.faults():
                losses, bads, finished = (checkpoint.saved[name] for name in ("losses", "bads", "finished"))
                loop.restore(checkpoint.saved["carry"])
                checkpoint.restore_kept(loop.means())
    if agreed(split, len(losses)) != len(losses):
        raise ValueError("checkpoint: a process has not the file that another one has; give a path that all can read.")
    stop, interrupted = finished, False
    pieces = Pieces(size)
    with steps_bar(steps, elbo.num_particles, progress=progress) as bar, StopOnInterrupt() as interrupt:
        bar.update(len(losses))
        while not stop:
            first = len(losses)
            last = -agreed(split, -pieces.end(first, steps))
            new_losses, new_bads = loop.run(first, last)
            losses, bads = np.append(losses, new_losses), np.append(bads, new_bads)
            pieces.ended()
            bar.update(last - first)
            if bads.max() >= MAX_SKIPPED:
                step = int(np.argmax(bads == MAX_SKIPPED))
                raise FitError(step + 1 - MAX_SKIPPED, losses[: step + 1], loop.values())
            if last % size == 0 or last == steps:
                median = float(np.median(losses[(last - 1) // size * size :]))
                bar.set_postfix(loss=f"{median:.3f}")
                enough = watch is not None and watch(last, median, loop.means()) is ENOUGH
                finished = enough or last == steps
                finished |= has_converged(losses, steps, elbo.num_particles, anneal, tolerance, look)
            interrupted = bool(agreed(split, interrupt.requested))
            stop = finished or interrupted
            if checkpoint and is_first(split) and (stop or checkpoint.is_due()):
                checkpoint.write({"losses": losses, "bads": bads, "finished": finished, "carry": loop.snapshot()})
    return Training(losses, int(np.sum(bads > 0)), loop.means(), interrupted)
