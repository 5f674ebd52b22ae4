"""JAX namespace."""

from __future__ import annotations

import builtins  # the star import below hides some
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.nn import elu, relu, sigmoid, silu, softplus
from jax.numpy import *  # the namespace *is* the array API
from jax.scipy.special import erfc, ndtri
from jax.scipy.special import gammaln as lgamma

from ppl_flows.backends.jax.autoregressive import autoregressive_inverse
from ppl_flows.backends.jax.remat import checkpoint, reversible
from ppl_flows.core.types import Params

State = TypeVar("State")
Carry = TypeVar("Carry")
F = TypeVar("F", bound=Callable[..., Any])

UNROLLED = 4  # repetitions up to which the scan has no loop, whose copies are a tenth of a step at 64 dimensions


def constant(array: np.ndarray, like: Array) -> Array:
    if array.dtype.kind == "b":  # a mask: in bits, as it would be most of a program when written out in full
        bits = jnp.unpackbits(np.packbits(array), count=array.size)
        return bits.reshape(array.shape).astype(like.dtype)
    return jnp.asarray(array, dtype=like.dtype if array.dtype.kind in "fb" else None)


def conv2d(x: Array, kernel: Array) -> Array:
    dtype = jnp.result_type(x, kernel)  # the host's own wants one
    image, kernel = x.reshape(-1, *x.shape[-3:]).astype(dtype), kernel.astype(dtype)
    out = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out.reshape(*x.shape[:-1], out.shape[-1])


def linear(x: Array, w: Array, b: Array) -> Array:
    return x @ w + b


def keeping_products(f: F) -> F:
    kept = jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)

    def run(*args: Any) -> Any:
        traced = builtins.any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(args))
        return (kept if traced else f)(*args)  # outside of programs and gradients it would be traced at every call

    return run  # type: ignore[return-value]  # it takes f's arguments


def masked_sum(x: Array, mask: Array, axis: int) -> Array:
    return jnp.sum(jnp.where(mask, x, 0.0), axis=axis)


def pieces(x: Array, sizes: Sequence[int], axis: int) -> Sequence[Array]:
    return lax.split(x, sizes, axis)


def rational_quadratic(
    plain: Callable[[Array, Array], tuple[Array, Array]], v: Array, rows: Array, axis: int, h: Any
) -> tuple[Array, Array]:
    return plain(v, rows)


def transposed(x: Array) -> Array:
    # the barrier keeps XLA from folding the transposition into the products around it, which then run several times
    # slower on a CPU
    barred: Array = lax.optimization_barrier(x)
    return barred.T


def take(x: Array, indices: Array, axis: int) -> Array:  # type: ignore[no-redef]  # in place of the star import's
    return jnp.take(x, indices, axis=axis, mode="clip")  # the default looks for negative indices, which ours are not


def softmax(x: Array) -> Array:
    return jax.nn.softmax(x, axis=-1)


def logsumexp(x: Array) -> Array:
    return jax.nn.logsumexp(x, axis=-1)


def gelu(x: Array, /) -> Array:
    return jax.nn.gelu(x, approximate=True)


def solve_triangular(a: Array, b: Array, *, lower: builtins.bool) -> Array:
    rows = b.reshape(-1, b.shape[-1])
    return lax.linalg.triangular_solve(a, rows, left_side=False, lower=lower, transpose_a=True).reshape(b.shape)


@jax.custom_jvp
def cholesky(x: Array) -> tuple[Array, Array]:
    n = x.shape[-1]

    def step(j: Any, made: tuple[Array, Array]) -> tuple[Array, Array]:
        factor, inverse = made
        row = factor[..., j, :]
        column = x[..., :, j] - (factor @ row[..., None])[..., 0]
        root = jnp.sqrt(column[..., j, None])
        column = jnp.where(jnp.arange(n) < j, 0, column / root)
        own = ((jnp.arange(n) == j) - (row[..., None, :] @ inverse)[..., 0, :]) / root
        return factor.at[..., :, j].set(column), inverse.at[..., j, :].set(own)

    made: tuple[Array, Array] = lax.fori_loop(0, n, step, (jnp.zeros_like(x), jnp.zeros_like(x)))
    return made


@cholesky.defjvp
def _cholesky_jvp(primals: Any, tangents: Any) -> Any:
    factor, inverse = cholesky(*primals)
    moved = inverse @ tangents[0] @ jnp.matrix_transpose(inverse)
    moved = jnp.tril(moved + jnp.matrix_transpose(moved)) / (2 + 2 * jnp.eye(moved.shape[-1], dtype=moved.dtype))
    return (factor, inverse), (factor @ moved, -moved @ inverse)


def odeint(
    f: Callable[..., Array],
    y: Array,
    args: tuple[Array, ...],
    times: tuple[float, float],
    *,
    rtol: float,
    atol: float,
) -> Array:
    from ppl_flows.backends.jax import ode  # diffrax is an extra

    return ode.odeint(f, y, args, times, rtol=rtol, atol=atol)


def vmap(f: Callable[..., Any]) -> Callable[..., Any]:
    return jax.vmap(f)


def reads_code() -> bool:
    return False


def stop_gradient(x: Array) -> Array:
    return lax.stop_gradient(x)


def while_loop(go_on: Callable[[State], Array], body: Callable[[State], State], state: State, limit: int) -> State:
    def counted_go_on(counted: tuple[Any, State]) -> Any:
        return (counted[0] < limit) & go_on(counted[1])

    last: State = lax.while_loop(counted_go_on, lambda counted: (counted[0] + 1, body(counted[1])), (0, state))[1]
    return last


def scan(
    step: Callable[[Carry, Params], tuple[Carry, Any]],
    carry: Carry,
    params: Params,
    n: int,
    *,
    reverse: builtins.bool,
) -> tuple[Carry, Any]:
    return lax.scan(step, carry, params, length=n, reverse=reverse)


def repeat_passes(
    run: Callable[[Params, Array, Array | None], tuple[Array, Array]],
    params: Params,
    v: Array,
    context: Array | None,
    zero: Array,
    n: int,
    *,
    reverse: builtins.bool,
) -> tuple[Array, Array]:
    def step(carry: tuple[Array, Array], row: Params) -> tuple[tuple[Array, Array], None]:
        v, log_det = run(row, carry[0], context)
        return (v, carry[1] + log_det), None

    unroll = n if n <= UNROLLED else 1
    return lax.scan(step, (v, zero), params, length=n, reverse=reverse, unroll=unroll)[0]


def recurrence(gain: Array, term: Array) -> Array:
    def step(x: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        x = row[0] * x + row[1]
        return x, x

    return _along_last(step, gain, term)


def fractions(a: Array, b: Array, c: Array, d: Array) -> Array:
    def step(x: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        a, b, c, d = row
        x = (a * x + b) / (c * x + d)
        return x, x

    return _along_last(step, a, b, c, d)


def _along_last(step: Callable[..., Any], *rows: Array) -> Array:
    """A loop: rounds over whole arrays, as in the other libraries, take long to compile, and longer to run."""
    rows = tuple(jnp.moveaxis(a, -1, 0) for a in jnp.broadcast_arrays(*rows))
    return jnp.moveaxis(lax.scan(step, jnp.zeros_like(rows[0][0]), rows, unroll=4)[1], 0, -1)
