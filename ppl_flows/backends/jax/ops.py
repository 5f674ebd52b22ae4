"""JAX namespace."""

import builtins  # the star import below hides some

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import elu, relu, sigmoid, silu, softplus
from jax.numpy import *  # the namespace *is* the array API
from jax.scipy.special import erfc, ndtri
from jax.scipy.special import gammaln as lgamma

from ppl_flows.backends.jax.autoregressive import autoregressive_inverse
from ppl_flows.backends.jax.remat import checkpoint, reversible


def constant(array, like):
    if array.dtype.kind == "b":  # a mask: in bits, as it would be most of a program when written out in full
        bits = jnp.unpackbits(np.packbits(array), count=array.size)
        return bits.reshape(array.shape).astype(like.dtype)
    return jnp.asarray(array, dtype=like.dtype if array.dtype.kind in "fb" else None)


def conv2d(x, kernel):
    dtype = jnp.result_type(x, kernel)  # the host's own wants one
    image, kernel = x.reshape(-1, *x.shape[-3:]).astype(dtype), kernel.astype(dtype)
    out = lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return out.reshape(*x.shape[:-1], out.shape[-1])


def linear(x, w, b):
    return x @ w + b


def keeping_products(f):
    """f, of which the backward pass keeps the matrix products alone, and computes anew what lies between them.

    What is kept inside a scan is copied, at twice the cost of computing it, for activations such as silu.
    """
    kept = jax.checkpoint(f, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False)

    def run(*args):
        traced = builtins.any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(args))
        return (kept if traced else f)(*args)  # outside of programs and gradients it would be traced at every call

    return run


def masked_sum(x, mask, axis):
    return jnp.sum(jnp.where(mask, x, 0.0), axis=axis)


def pieces(x, sizes, axis):
    return lax.split(x, sizes, axis)  # its gradient is one concatenation, that of slices a sum of padded arrays


def rational_quadratic(plain, v, rows, axis, h):
    return plain(v, rows)


def transposed(x):
    # the barrier keeps XLA from folding the transposition into the products around it, which then run several times
    # slower on a CPU
    return lax.optimization_barrier(x).T


def softmax(x):
    return jax.nn.softmax(x, axis=-1)


def logsumexp(x):
    return jax.nn.logsumexp(x, axis=-1)


def gelu(x):
    return jax.nn.gelu(x, approximate=True)


def solve_triangular(a, b, *, lower):
    return jax.scipy.linalg.solve_triangular(a, b.reshape(-1, b.shape[-1]).T, lower=lower).T.reshape(b.shape)


def odeint(f, y, args, times, *, rtol, atol):
    from ppl_flows.backends.jax import ode  # diffrax is an extra

    return ode.odeint(f, y, args, times, rtol=rtol, atol=atol)


def vmap(f):
    return jax.vmap(f)


def stop_gradient(x):
    return lax.stop_gradient(x)


def while_loop(go_on, body, state, limit):
    def counted_go_on(counted):
        return (counted[0] < limit) & go_on(counted[1])

    return lax.while_loop(counted_go_on, lambda counted: (counted[0] + 1, body(counted[1])), (0, state))[1]


def scan(step, carry, params, n, *, reverse):
    return lax.scan(step, carry, params, length=n, reverse=reverse)
