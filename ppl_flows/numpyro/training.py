"""The optimiser's loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.example_libraries.optimizers import Optimizer
from jax.flatten_util import ravel_pytree
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from ppl_flows.inference.results import MAX_SKIPPED, FitError
from ppl_flows.inference.schedule import BLOCKS, Training, averaging_share, converged, learning_rate, model_weight
from ppl_flows.numpyro.compile_once import compile_once


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
    tolerance: float | None = None,
    init_params: dict[str, Any] | None = None,
    watch: Callable[[dict[str, Any]], Any] | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density; every block of steps is one dispatch.

    ``watch`` sees the mean parameters of every block.
    """
    svi = SVI(model, guide, _optimizer(steps, lr, clip), elbo)
    state = svi.init(key, 1.0, init_params=init_params)
    if not svi.get_params(state):
        raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
    if state.mutable_state is not None and elbo.num_particles > 1:
        raise ValueError(
            f"num_particles={elbo.num_particles}, but {sorted(state.mutable_state)} are mutable, for which NumPyro "
            "allows one particle; pass num_particles=1, or a trained flow as Flow(bijection, params)."
        )

    weights = jnp.asarray(model_weight(np.arange(steps), steps, anneal), dtype=float)
    size = max(1, steps // BLOCKS)

    def update(step: jax.Array, carry: _Carry) -> _Carry:
        state, mean, bad, losses, bads = carry
        new, loss = svi.update(state, weights[step])
        fine = jnp.isfinite(loss) & _vectors(new).finite & (bad < MAX_SKIPPED)
        kept = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new[:2], state[:2])  # all but the random key
        state, bad = SVIState(*kept, new.rng_key), jnp.where(fine, 0, bad + 1)
        mean = mean + averaging_share(step, steps) * (_vectors(state).params - mean)
        return _Carry(state, mean, bad, losses.at[step % size].set(loss), bads.at[step % size].set(bad))

    def some_steps(carry: _Carry, first: int, last: int) -> _Carry:
        """Steps ``first, ..., last - 1``, at most ``size``: one program, however many they are."""
        return lax.fori_loop(first, last, update, carry)

    losses, bads = np.empty(0), np.empty(0, dtype=int)
    nothing = jnp.empty(size)
    start = _Carry(state, _vectors(state).params, jnp.array(0), nothing, nothing.astype(int))
    carry = jax.tree.map(jnp.copy, start)  # as its buffers are given to the loop, and some are the caller's
    block = compile_once(some_steps, carry, 0, 0, donate=(0,))

    def found(carry: _Carry) -> dict[str, Any]:
        """The mean parameters, and the mutable state, in buffers of their own."""
        means = 0, _vectors(carry.state)._replace(params=carry.mean)
        values = svi.constrain_fn(svi.optim.get_params(means)) | (carry.state.mutable_state or {})
        return jax.tree.map(jnp.copy, values)

    with tqdm(total=steps, disable=None if progress else True, desc="fit") as bar:
        for first in range(0, steps, size):
            taken = min(size, steps - first)
            carry = block(carry, first, first + taken)
            losses, bads = np.append(losses, carry.losses[:taken]), np.append(bads, carry.bads[:taken])
            if bads.max() >= MAX_SKIPPED:
                step = int(np.argmax(bads == MAX_SKIPPED))
                raise FitError(step + 1 - MAX_SKIPPED, losses[: step + 1], _values(svi, carry.state))
            if watch:
                watch(found(carry))
            bar.update(taken)
            bar.set_postfix(loss=f"{np.median(losses[first:]):.3f}")
            if converged(losses, steps, elbo.num_particles, anneal, tolerance):
                break
    return Training(losses, int(np.sum(bads > 0)), found(carry))


def _optimizer(steps: int, lr: float, clip: float) -> Optimizer:
    """Adam on all parameters as one vector: a guide has dozens of small arrays, and each operation has its price."""
    adam = optax.adam(lambda step: lr * learning_rate(step, steps, jnp), b2=0.99)
    unravel = {}

    def init(params: Any) -> _Vectors:
        vector, unravel["params"] = ravel_pytree(params)
        return _Vectors(vector, adam.init(vector), jnp.array(True))

    def update(_: int, gradients: Any, state: _Vectors) -> _Vectors:
        gradient = ravel_pytree(gradients)[0].astype(state.params.dtype)
        norm = jnp.sqrt(gradient @ gradient)  # XLA's sums on a CPU are several times slower than its products
        updates, moments = adam.update(gradient * jnp.minimum(1.0, clip / norm), state.moments)
        return _Vectors(optax.apply_updates(state.params, updates), moments, jnp.isfinite(norm))

    return Optimizer(init, update, lambda state: unravel["params"](state.params))


class _Vectors(NamedTuple):
    """What the optimiser knows."""

    params: jax.Array  # unconstrained
    moments: Any
    finite: jax.Array  # whether the norm of the last gradient was


def _vectors(state: SVIState) -> _Vectors:
    return state.optim_state[1]


class _Carry(NamedTuple):
    """What one step hands to the next."""

    state: SVIState
    mean: jax.Array  # of the unconstrained parameters in this block, as one vector
    bad: jax.Array  # steps running that moved nothing
    losses: jax.Array  # of this block, (size,)
    bads: jax.Array  # likewise


def _values(svi: SVI, state: SVIState) -> dict[str, Any]:
    """The parameters and the mutable state."""
    return svi.get_params(state) | (state.mutable_state or {})
