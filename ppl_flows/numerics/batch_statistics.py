"""Statistics of a batch, for the layers that normalise."""

from __future__ import annotations

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array


def batch_mean_and_variance(owner: str, v: Array) -> tuple[Array, Array]:
    """Mean and (biased) variance over all axes but the last.

    Raises:
        ValueError: there are fewer than 2 rows, and so nothing to take them over.
    """
    xp, axes = namespace(v), tuple(range(v.ndim - 1))
    rows = 1
    for n in v.shape[:-1]:
        rows *= n
    if rows < 2:
        raise ValueError(
            f"{owner} takes its statistics from the batch and needs at least 2 rows, got shape {tuple(v.shape)}; "
            "outside training use inverse, or an evaluation-mode transform."
        )
    mean = xp.mean(v, axis=axes)
    return mean, xp.mean((v - mean) ** 2, axis=axes)
