"""The optimiser's loop of ``fit`` and ``fit_density``, by their own optimiser or by one of the host's."""

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
from numpyro.infer import ELBO, SVI
from numpyro.infer.svi import SVIState
from tqdm.auto import tqdm

from ppl_flows.inference.results import MAX_SKIPPED, FitError
from ppl_flows.inference.schedule import BLOCKS, Training, averaging_share, has_converged, learning_rate, model_weight
from ppl_flows.numpyro.compile_once import compile_once


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
    init_params: dict[str, Any] | None = None,
    watch: Callable[[int, float, dict[str, Any]], Any] | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density; every block of steps is one dispatch.

    After every block, ``watch`` gets the number of steps taken, the block's median loss, and its mean parameters.

    Raises:
        TypeError: the optimiser is neither one of optax nor of NumPyro.
    """
    own = optimizer is None
    if callable(optimizer):
        raise TypeError(
            "optimizer must be an optax transformation or an object of numpyro.optim, such as optax.adam(1e-2), got "
            f"{optimizer!r}; call it first."
        )
    svi = SVI(model, guide, _own_optimizer(steps, lr, clip) if own else optimizer, elbo)
    state = svi.init(key, 1.0, init_params=init_params)
    if not svi.get_params(state):
        raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
    if state.mutable_state is not None and elbo.num_particles > 1:
        raise ValueError(
            f"num_particles={elbo.num_particles}, but {sorted(state.mutable_state)} are mutable, for which NumPyro "
            "allows one particle; pass num_particles=1, or a trained flow as Flow(bijection, params)."
        )

    def vector(state: SVIState) -> jax.Array:
        """All unconstrained parameters."""
        return _vectors(state).params if own else ravel_pytree(svi.optim.get_params(state.optim_state))[0]

    def is_finite(state: SVIState) -> jax.Array:
        """Whether the step to this state was; of the host's optimisers only their parameters tell."""
        return _vectors(state).finite if own else jnp.isfinite(vector(state)).all()

    unravel = ravel_pytree(svi.optim.get_params(state.optim_state))[1]
    weights = jnp.asarray(model_weight(np.arange(steps), steps, anneal), dtype=float)
    size = max(1, steps // BLOCKS)

    def update(step: jax.Array, carry: _Carry) -> _Carry:
        state, mean, bad, losses, bads = carry
        new, loss = svi.update(state, weights[step])
        fine = jnp.isfinite(loss) & is_finite(new) & (bad < MAX_SKIPPED)
        kept = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new[:2], state[:2])  # all but the random key
        state, bad = SVIState(*kept, new.rng_key), jnp.where(fine, 0, bad + 1)
        mean = mean + averaging_share(step, steps) * (vector(state) - mean)
        return _Carry(state, mean, bad, losses.at[step % size].set(loss), bads.at[step % size].set(bad))

    def run_steps(carry: _Carry, first: int, last: int) -> _Carry:
        """Steps ``first, ..., last - 1``, at most ``size``: one program, however many they are."""
        return lax.fori_loop(first, last, update, carry)

    losses, bads = np.empty(0), np.empty(0, dtype=int)
    nothing = jnp.empty(size)
    start = _Carry(state, vector(state), jnp.array(0), nothing, nothing.astype(int))
    carry = _copy_arrays(start)  # as its buffers are given to the loop, and some are the caller's
    run_block = compile_once(run_steps, carry, 0, 0, donate=(0,))

    def mean_params(carry: _Carry) -> dict[str, Any]:
        """The mean parameters, and the mutable state, in buffers of their own."""
        values = svi.constrain_fn(unravel(carry.mean)) | (carry.state.mutable_state or {})
        return _copy_arrays(values)

    with tqdm(total=steps, disable=None if progress else True, desc="fit") as bar:
        for first in range(0, steps, size):
            taken = min(size, steps - first)
            carry = run_block(carry, first, first + taken)
            losses, bads = np.append(losses, carry.losses[:taken]), np.append(bads, carry.bads[:taken])
            if bads.max() >= MAX_SKIPPED:
                step = int(np.argmax(bads == MAX_SKIPPED))
                raise FitError(step + 1 - MAX_SKIPPED, losses[: step + 1], _values(svi, carry.state))
            median = float(np.median(losses[first:]))
            if watch:
                watch(first + taken, median, mean_params(carry))
            bar.update(taken)
            bar.set_postfix(loss=f"{median:.3f}")
            if has_converged(losses, steps, elbo.num_particles, anneal, tolerance):
                break
    return Training(losses, int(np.sum(bads > 0)), mean_params(carry))


def _copy_arrays(tree: Any) -> Any:
    """All arrays in buffers of their own, without a program for every shape as ``jnp.copy`` has it."""
    return jax.tree.map(lambda a: jax.device_put(a, a.sharding, may_alias=False), tree)


def _own_optimizer(steps: int, lr: float, clip: float) -> Optimizer:
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

    own: Any = Optimizer  # whose types are of its own states
    return own(init, update, lambda state: unravel["params"](state.params))


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
