"""NumPy namespace: the reference, in which every formula can be tested without a framework."""

from itertools import pairwise

import numpy as np
from numpy import *  # the namespace *is* the array API
from scipy import special
from scipy.special import erfc, ndtri
from scipy.special import gammaln as lgamma

from ppl_flows.backends.eager_scan import scan
from ppl_flows.numerics import triangular_sweep
from ppl_flows.numerics.reversible_pass import walk as reversible


def constant(array, like):
    return array.astype(like.dtype) if array.dtype.kind in "fb" else array


def conv2d(x, kernel):
    """``(*batch, height, width, in)`` and ``(side, side, in, out)`` to ``(*batch, height, width, out)``, padded."""
    side = kernel.shape[0]
    around = (side // 2, (side - 1) // 2)
    padded = np.pad(x, (*((0, 0) for _ in x.shape[:-3]), around[::-1], around[::-1], (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(-3, -2))
    return np.einsum("...cij,ijco->...o", windows, kernel, optimize=True)


def linear(x, w, b):
    """``x w + b``, w ``(in, out)``."""
    return x @ w + b


def keeping_products(f):
    """f, whose backward pass may compute anew whatever is no matrix product."""
    return f


def masked_sum(x, mask, axis):
    return np.sum(np.where(mask, x, 0.0), axis=axis)


def pieces(x, sizes, axis):
    return np.split(x, np.cumsum(sizes)[:-1], axis=axis)


def rational_quadratic(plain, v, rows, axis, h):
    return plain(v, rows)


def transposed(x):
    return np.ascontiguousarray(x.T)


def softmax(x):
    z = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return z / np.sum(z, axis=-1, keepdims=True)


def logsumexp(x):
    return special.logsumexp(x, axis=-1)


def softplus(x):
    return np.logaddexp(x, np.zeros_like(x))


def sigmoid(x):
    return np.exp(-softplus(-x))


def silu(x):
    return x * sigmoid(x)


def relu(x):
    return np.maximum(x, 0.0)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def gelu(x):
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def autoregressive_inverse(network, transformer, method, params, y, context):
    weights, biases = network.layers(params, y, context)
    rows = [np.broadcast_to(a, (*y.shape[:-1], a.shape[-1])) if a.ndim > 1 else a[None] for a in biases]
    system = (
        triangular_sweep.order(network),
        triangular_sweep.inversion(network, transformer, y),
        [w.T for w in weights],
        [a.reshape(-1, a.shape[-1]).T for a in rows],
        (),
        (y.reshape(-1, y.shape[-1]).T,),
    )
    x, slopes = (
        triangular_sweep.iterate(*system) if method == "jacobi" else triangular_sweep.substitute(_EAGER, *system)
    )
    return x.T.reshape(y.shape), np.sum(slopes, axis=0).reshape(y.shape[:-1])


def _add_product(a, w, u):
    a += w @ u


_EAGER = triangular_sweep.Eager(lambda a, order: [a[i:j] for i, j in pairwise(order)], _add_product, np.copyto)


def solve_triangular(a, b, *, lower):
    """x with ``a x = b`` for every row of b, ``(*batch, n)``; a ``(n, n)`` is triangular."""
    return np.linalg.solve(a, b.reshape(-1, b.shape[-1]).T).T.reshape(b.shape)


def odeint(f, y, args, times, *, rtol, atol):
    from ppl_flows.backends.numpy import ode

    return ode.odeint(f, y, args, times, rtol=rtol, atol=atol)


def vmap(f):
    def mapped(params, *args):
        from ppl_flows.core.params import stack, unstack

        rows = [f(p, *a) for p, *a in zip(unstack(params, len(args[0])), *args, strict=True)]
        return stack([row[0] for row in rows]), *(np.stack(parts) for parts in list(zip(*rows, strict=True))[1:])

    return mapped


def checkpoint(run):
    return run


def stop_gradient(x):
    return x


def while_loop(go_on, body, state, limit):
    with np.errstate(over="ignore", invalid="ignore"):  # a trial point may overflow; it is then not used
        for _ in range(limit):
            if not go_on(state):
                break
            state = body(state)
    return state
