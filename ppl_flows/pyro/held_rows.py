"""The rows that a density is validated by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ppl_flows.inference.row_source import RowSource, each
from ppl_flows.pyro.context import Context


def held_batches(
    data: torch.Tensor, given: Context, rows: np.ndarray, batch_size: int, source: RowSource | None
) -> Iterator[tuple[torch.Tensor, Any]]:
    """Those rows of the data, or the source's, and the values of their contexts."""
    for some in torch.as_tensor(rows, device=data.device).split(batch_size):
        yield data[some], given.values(some)
    if source is not None:
        for found in source.held_batches():
            yield each(lambda a: torch.as_tensor(a).to(data), found)


def mean_loss(
    log_prob: Callable[[Any, torch.Tensor, Any], torch.Tensor],
    batches: Callable[[], Iterator[tuple[torch.Tensor, Any]]],
    seed: int,
) -> Callable[[Any], float]:
    """From what was trained to minus the mean log density of all batches.

    Args:
        log_prob: of what was trained, of data, and values of their contexts; its noise is the same every time.
    """

    def loss(trained: Any) -> float:
        total, n = 0.0, 0
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            for rows, values in batches():
                total -= float(log_prob(trained, rows, values).sum())
                n += len(rows)
        return total / n

    return loss
