"""The rows that a density is validated by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ppl_flows.inference.row_source import RowSource, filled
from ppl_flows.numpyro.context import Context


def mean_loss(
    log_prob: Callable[[Any, jax.Array, Any, jax.Array], jax.Array],
    program: Callable[[Callable[..., Any]], Callable[..., Any]],
    data: jax.Array,
    given: Context,
    rows: np.ndarray,
    batch_size: int,
    seed: int,
) -> Callable[[Any], jax.Array]:
    """From what was trained to minus the mean log density of these rows of the data, by one program.

    Args:
        log_prob: of what was trained, of data, values of their contexts, and a key.
        program: ``jax.jit``, or what compiles for several devices.
    """

    @program
    def loss(trained: Any) -> jax.Array:
        size = min(batch_size, len(rows))
        batches = np.resize(rows, (-(-len(rows) // size), size))  # some rows twice, to fill the last

        def score(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
            return log_prob(trained, data[batch[0]], given.values(batch[0]), batch[1])

        # the same key, and so the same noise of dequantised rows, every time
        scores = lax.map(score, (jnp.asarray(batches), jax.random.split(jax.random.key(seed), len(batches))))
        return -scores.ravel()[: len(rows)].mean()

    def of_trained(trained: Any) -> jax.Array:
        found: jax.Array = loss(jax.tree.map(jnp.asarray, trained))
        return found

    return of_trained


def mean_loss_read(
    log_prob: Callable[[Any, jax.Array, Any, jax.Array], jax.Array],
    program: Callable[[Callable[..., Any]], Callable[..., Any]],
    source: RowSource,
    seed: int,
) -> Callable[[Any], float]:
    """Likewise, of the rows that a source holds out, batch by batch."""

    @program
    def score(trained: Any, found: tuple[jax.Array, Any], i: int) -> jax.Array:
        return log_prob(trained, *found, jax.random.fold_in(jax.random.key(seed), i))

    def loss(trained: Any) -> float:
        total = 0.0
        for i, found in enumerate(source.held_batches()):
            scores = score(trained, filled(found, source.batch_size), i)
            total -= float(np.asarray(scores)[: len(found[0])].sum())
        return total / source.held

    return loss
