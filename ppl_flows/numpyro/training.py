"""The optimiser's loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from ppl_flows.fit_result import MAX_SKIPPED, FitError, Training, learning_rate, model_weight

BLOCKS = 20  # at most so many dispatches of many steps each; the progress bar moves between them


def train(
    key: jax.Array,
    elbo: Trace_ELBO,
    model: Callable,
    guide: Callable,
    *,
    steps: int,
    lr: float,
    clip: float,
    progress: bool,
    anneal: float = 1.0,
    init_params: dict[str, Any] | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density."""
    schedule = lambda step: lr * learning_rate(step, steps, jnp)  # noqa: E731
    svi = SVI(model, guide, optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule, b2=0.99)), elbo)
    state = svi.init(key, 1.0, init_params=init_params)
    if not svi.get_params(state):
        raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
    if state.mutable_state is not None and elbo.num_particles > 1:
        raise ValueError(
            f"num_particles={elbo.num_particles}, but {sorted(state.mutable_state)} are mutable, for which NumPyro "
            "allows one particle; pass num_particles=1, or a trained flow as Flow(bijection, params)."
        )

    def update(carry: tuple, weight: jax.Array) -> tuple[tuple, tuple]:
        state, bad = carry
        new, loss = svi.update(state, weight)
        leaves = [loss, *jax.tree.leaves(svi.get_params(new))]
        fine = jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])) & (bad < MAX_SKIPPED)
        kept = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new[:2], state[:2])  # all but the random key
        bad = jnp.where(fine, 0, bad + 1)
        return (SVIState(*kept, new.rng_key), bad), (loss, bad)

    blocks = max(b for b in range(1, BLOCKS + 1) if steps % b == 0)  # of equal length: one program to compile
    weights = jnp.asarray(model_weight(np.arange(steps), steps, anneal), dtype=float).reshape(blocks, -1)
    block = jax.jit(lambda carry, weights: lax.scan(update, carry, weights))
    losses, bads = np.empty(0), np.empty(0, dtype=int)
    carry = (state, jnp.array(0))
    with tqdm(total=steps, disable=None if progress else True, desc="fit") as bar:
        for i in range(blocks):
            carry, (loss, bad) = block(carry, weights[i])
            losses, bads = np.append(losses, loss), np.append(bads, bad)
            if bads.max() >= MAX_SKIPPED:
                step = int(np.argmax(bads == MAX_SKIPPED))
                raise FitError(step + 1 - MAX_SKIPPED, losses[: step + 1], _values(svi, carry[0]))
            bar.update(steps // blocks)
            bar.set_postfix(loss=f"{np.median(loss):.3f}")
    return Training(losses, int(np.sum(bads > 0)), _values(svi, carry[0]))


def _values(svi: SVI, state: SVIState) -> dict[str, Any]:
    """The parameters and the mutable state."""
    return svi.get_params(state) | (state.mutable_state or {})
