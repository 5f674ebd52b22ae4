"""Training steps as NumPyro takes them, many in one dispatch, with their own optimiser or with one of the host's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
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
from numpyro.infer.util import transform_fn

from ppl_flows.inference.fit_error import MAX_SKIPPED
from ppl_flows.inference.row_source import RowSource, each, leaves
from ppl_flows.inference.schedule import NORM_EPS, OUTLIER, averaging_share, learning_rate, model_weight
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.checkpoint import like
from ppl_flows.numpyro.compile_once import compile_once, computed
from ppl_flows.numpyro.mesh import OverRows, Split
from ppl_flows.numpyro.placement import local

BETA = 0.99  # of the squares of gradients in Adam


class CompiledSteps:
    """The loop's steps as one program, for so many steps in blocks of one size.

    Args:
        key, elbo, model, guide, init_params: as ``SVI.init`` takes them; model and guide take the weight of the model's
            log density.
        optimizer: as ``fit`` takes it. None: Adam, with rate ``lr`` and a bound ``clip`` on the gradient's norm.
        source: of rows that model and guide take besides, others in every step; None: they take none.
        split: over devices; each has all parameters.

    Raises:
        TypeError: the optimiser is of another kind.
        ValueError: there is nothing to train.
    """

    def __init__(
        self,
        key: jax.Array,
        elbo: ELBO,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *,
        steps: int,
        block: int,
        lr: float,
        clip: float,
        optimizer: Any,
        anneal: float,
        look: int | None,
        init_params: dict[str, Any] | None,
        source: RowSource | None = None,
        split: Split | None = None,
    ) -> None:
        if callable(optimizer):
            raise TypeError(
                "optimizer must be an optax transformation or an object of numpyro.optim, such as optax.adam(1e-2), "
                f"got {optimizer!r}; call it first."
            )
        if split:
            elbo, model, guide = split.elbo(elbo), OverRows(model, split), OverRows(guide, split)
        mesh = None if split is None else split.mesh
        self._own = optimizer is None
        self._svi = SVI(model, guide, _own_optimizer(steps, lr, clip, look) if self._own else optimizer, elbo)
        self._steps, self._block, self._source = steps, block, source
        self._chunk = block if source is None else min(block, source.ahead)  # of steps in one dispatch
        state, mean, transforms = computed(partial(self._first_state, key, init_params), mesh=mesh)
        self._svi.constrain_fn = partial(transform_fn, transforms)
        if not transforms:
            raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
        if state.mutable_state is not None and elbo.num_particles > 1:
            raise ValueError(
                f"num_particles={elbo.num_particles}, but {sorted(state.mutable_state)} are mutable, for which NumPyro "
                "allows one particle; pass num_particles=1, or a trained flow as Flow(bijection, params)."
            )
        self._weights = to_array(model_weight(np.arange(steps), steps, anneal))
        start = _Carry(state, mean, to_array(np.zeros((), int)))
        self._carry = _copy_arrays(start)  # as its buffers are given to the loop, and some are the caller's
        program = partial(compile_once, self._run, donate=(0,), calls=look or steps, mesh=mesh)
        self._program = program(self._carry, 0, 0, *self._read(0, 0))
        self._means: dict[str, Any] = {}

    def run(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Takes steps ``first, ..., last - 1``, all of one block: their losses, and how many steps running moved
        nothing at each."""
        taken = []
        for start in range(first, max(last, first + 1), self._chunk):
            end = min(start + self._chunk, last)
            # JAX returns before the steps are taken: the next rows are read meanwhile
            self._carry, self._means, *out = self._program(self._carry, start, end, *self._read(start, end))
            taken.append((end - start, *out))
        losses, bads = (np.concatenate([np.asarray(column[i])[: column[0]] for column in taken]) for i in (1, 2))
        return losses, bads

    def _read(self, first: int, last: int) -> tuple[Any, ...]:
        """What the program takes besides, of these steps: their rows, filled up to a chunk."""
        if self._source is None:
            return ()
        example = each(lambda a: np.zeros((self._chunk, *a.shape), a.dtype), self._source.example())
        if first == last:
            return (example,)
        for whole, part in zip(leaves(example), leaves(self._source.steps(first, last)), strict=True):
            whole[: last - first] = part
        return (example,)

    def values(self) -> dict[str, Any]:
        """The parameters and the mutable state."""
        carry = local(self._carry)
        return self._svi.get_params(carry.state) | (carry.state.mutable_state or {})

    def means(self) -> dict[str, Any]:
        """The mean parameters of the block, and the mutable state, in buffers of their own."""
        return local(self._means | _copy_arrays(self._carry.state.mutable_state or {}))

    def describe(self) -> dict[str, Any]:
        """The parameters, and what the optimiser keeps, for a checkpoint."""
        parameters = {
            f"{name}{jax.tree_util.keystr(path)}": f"{leaf.dtype} {leaf.shape}"
            for name, tree in self.values().items()
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        optimizer = "the own one" if self._own else str(jax.tree.structure(self._carry.state.optim_state))
        return {"parameters": parameters, "optimizer's state": optimizer}

    def snapshot(self) -> list[jax.Array]:
        """All that the next step depends on."""
        return jax.tree.leaves(local(self._carry))

    def restore(self, saved: list[np.ndarray]) -> None:
        """The steps are where they were in this snapshot."""
        leaves, structure = jax.tree.flatten(self._carry)
        self._carry = _copy_arrays(jax.tree.unflatten(structure, like(leaves, saved)))
        self.run(0, 0)  # no step, but the means

    def _first_state(self, key: jax.Array, init_params: dict[str, Any] | None) -> tuple[SVIState, jax.Array, Any]:
        """The state that training starts at, its unconstrained parameters, and what constrains them."""
        example = [] if self._source is None else [jax.tree.map(jnp.asarray, self._source.example())]
        state = self._svi.init(key, 1.0, *example, init_params=init_params)
        mean, self._unravel = ravel_pytree(self._svi.optim.get_params(state.optim_state))
        return state, mean, self._svi.constrain_fn.args[0]

    def _run(
        self, carry: _Carry, first: int, last: int, *rows: Any
    ) -> tuple[_Carry, dict[str, Any], jax.Array, jax.Array]:
        def update(step: jax.Array, so_far: tuple[_Carry, jax.Array, jax.Array]) -> Any:
            carry, losses, bads = so_far
            carry, loss = self._update(step, carry, *jax.tree.map(lambda a: a[step - first], rows))
            return carry, losses.at[step - first].set(loss), bads.at[step - first].set(carry.bad)

        empty = jnp.zeros(self._block), jnp.zeros(self._block, dtype=int)
        carry, losses, bads = lax.fori_loop(first, last, update, (carry, *empty))
        return carry, self._svi.constrain_fn(self._unravel(carry.mean)), losses, bads

    def _update(self, step: jax.Array, carry: _Carry, *rows: Any) -> tuple[_Carry, jax.Array]:
        state, mean, bad = carry
        new, loss = self._svi.update(state, self._weights[step], *rows)
        fine = jnp.isfinite(loss) & self._is_finite(new) & (bad < MAX_SKIPPED)
        kept = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new[:2], state[:2])  # all but the random key
        state, bad = SVIState(*kept, new.rng_key), jnp.where(fine, 0, bad + 1)
        mean = mean + averaging_share(step, self._steps) * (self._vector(state) - mean)
        return _Carry(state, mean, bad), loss

    def _vector(self, state: SVIState) -> jax.Array:
        """All unconstrained parameters."""
        return _vectors(state).params if self._own else ravel_pytree(self._svi.optim.get_params(state.optim_state))[0]

    def _is_finite(self, state: SVIState) -> jax.Array:
        """Whether the step to this state was; of the host's optimisers only their parameters tell."""
        return _vectors(state).finite if self._own else jnp.isfinite(self._vector(state)).all()


def _copy_arrays(tree: Any) -> Any:
    """All arrays in buffers of their own, without a program for every shape as ``jnp.copy`` has it."""
    return jax.tree.map(lambda a: jax.device_put(a, a.sharding, may_alias=False), tree)


def _own_optimizer(steps: int, lr: float, clip: float, look: int | None) -> Optimizer:
    """Adam on all parameters as one vector: a guide has dozens of small arrays, and each operation has its price."""
    adam = optax.adam(lambda step: lr * learning_rate(step, steps, jnp, look), b2=BETA)
    unravel = {}

    def init(params: Any) -> _Vectors:
        vector, unravel["params"] = ravel_pytree(params)
        return _Vectors(vector, adam.init(vector), jnp.array(True))

    def update(_: int, gradients: Any, state: _Vectors) -> _Vectors:
        gradient = ravel_pytree(gradients)[0].astype(state.params.dtype)
        norm = jnp.sqrt(gradient @ gradient)  # XLA's sums on a CPU are several times slower than its products
        count, _, squares = state.moments[0]
        usual = jnp.sqrt(squares @ jnp.ones_like(squares) / -jnp.expm1(count * math.log(BETA)))
        bound = jnp.where(count > 0, jnp.minimum(clip, OUTLIER * usual + NORM_EPS), clip)
        updates, moments = adam.update(gradient * jnp.where(norm > bound, bound / norm, 1.0), state.moments)
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
