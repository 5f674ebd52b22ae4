"""NumPy namespace: the reference, in which every formula can be tested without a framework."""

from __future__ import annotations

import builtins  # the star import below hides some
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np
from numpy import *  # the namespace *is* the array API
from numpy import ndarray
from scipy.special import erfc, ndtri
from scipy.special import expit as sigmoid
from scipy.special import gammaln as lgamma

from ppl_flows.backends.eager_recurrence import fractions, recurrence
from ppl_flows.backends.eager_scan import repeat_passes, scan
from ppl_flows.core.params import stack as _stack
from ppl_flows.core.params import unstack as _unstack
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Params
from ppl_flows.numerics import triangular_sweep
from ppl_flows.numerics.reversible_pass import walk as reversible

State = TypeVar("State")
F = TypeVar("F", bound=Callable[..., Any])


def constant(array: ndarray, like: ndarray) -> ndarray:
    return array.astype(like.dtype) if array.dtype.kind in "fb" else array


def conv2d(x: ndarray, kernel: ndarray) -> ndarray:
    side = kernel.shape[0]
    around = (side // 2, (side - 1) // 2)
    padded = np.pad(x, (*((0, 0) for _ in x.shape[:-3]), around[::-1], around[::-1], (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(-3, -2))
    return np.einsum("...cij,ijco->...o", windows, kernel, optimize=True)


def linear(x: ndarray, w: ndarray, b: ndarray) -> ndarray:
    return x @ w + b


def keeping_products(f: F) -> F:
    return f


def masked_sum(x: ndarray, mask: ndarray, axis: int) -> ndarray:
    return np.sum(np.where(mask, x, 0.0), axis=axis)


def pieces(x: ndarray, sizes: Sequence[int], axis: int) -> list[ndarray]:
    before = (slice(None),) * (axis % x.ndim)
    return [x[*before, end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]


def rational_quadratic(
    plain: Callable[[ndarray, ndarray], tuple[ndarray, ndarray]], v: ndarray, rows: ndarray, axis: int, h: Any
) -> tuple[ndarray, ndarray]:
    return plain(v, rows)


def transposed(x: ndarray) -> ndarray:
    return np.ascontiguousarray(x.T)


def softmax(x: ndarray) -> ndarray:
    z = np.exp(x - np.maximum.reduce(x, axis=-1, keepdims=True))
    return z / np.add.reduce(z, axis=-1, keepdims=True)


def logsumexp(x: ndarray) -> ndarray:
    return np.logaddexp.reduce(x, axis=-1)


def softplus(x: ndarray, /) -> ndarray:
    return np.logaddexp(x, 0.0)


def silu(x: ndarray, /) -> ndarray:
    return x * sigmoid(x)


def relu(x: ndarray, /) -> ndarray:
    return np.maximum(x, 0.0)


def elu(x: ndarray, /) -> ndarray:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0.0)))


def gelu(x: ndarray, /) -> ndarray:
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def autoregressive_inverse(
    network: Any, transformer: Transformer, method: str, params: Params, y: ndarray, context: ndarray | None
) -> tuple[ndarray, ndarray]:
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


def _add_product(a: ndarray, w: ndarray, u: ndarray) -> None:
    a += w @ u


_EAGER = triangular_sweep.InPlace(lambda a, order: [a[i:j] for i, j in pairwise(order)], _add_product, np.copyto)


def solve_triangular(a: ndarray, b: ndarray, *, lower: builtins.bool) -> ndarray:
    return np.linalg.solve(a, b.reshape(-1, b.shape[-1]).T).T.reshape(b.shape)


def cholesky(x: ndarray) -> tuple[ndarray, ndarray]:
    factor, inverse = np.full_like(x, np.nan), np.full_like(x, np.nan)
    for i in np.ndindex(x.shape[:-2]):
        with suppress(np.linalg.LinAlgError):
            factor[i] = np.linalg.cholesky(x[i])
            inverse[i] = np.linalg.inv(factor[i])
    return factor, inverse


def odeint(
    f: Callable[..., ndarray],
    y: ndarray,
    args: tuple[ndarray, ...],
    times: tuple[float, float],
    *,
    rtol: float,
    atol: float,
) -> ndarray:
    from ppl_flows.backends.numpy import ode

    return ode.odeint(f, y, args, times, rtol=rtol, atol=atol)


def vmap(f: Callable[..., Any]) -> Callable[..., Any]:
    def mapped(params: Params, *args: ndarray) -> tuple[Any, ...]:
        rows = [f(p, *a) for p, *a in zip(_unstack(params, len(args[0])), *args, strict=True)]
        return _stack([row[0] for row in rows]), *(np.stack(parts) for parts in list(zip(*rows, strict=True))[1:])

    return mapped


def checkpoint(run: Callable[..., Any]) -> Callable[..., Any]:
    return run


def reads_code() -> builtins.bool:
    return False


def stop_gradient(x: ndarray) -> ndarray:
    return x


def while_loop(go_on: Callable[[State], Any], body: Callable[[State], State], state: State, limit: int) -> State:
    with np.errstate(over="ignore", invalid="ignore"):  # a trial point may overflow; it is then not used
        for _ in range(limit):
            if not go_on(state):
                break
            state = body(state)
    return state
