"""Inverses that have no closed form: bracketed Newton, and a gradient from the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array

MAX_ITERATIONS = 200
WIDEST = 88.0  # asinh of the largest |x| looked at: 8e37, within float32


def numerical_inverse(f: Callable[..., tuple[Array, Array]], y: Array, *parameters: Array) -> tuple[Array, Array]:
    """``(x, log dx/dy)`` with ``f(x) = y`` for an increasing f, elementwise and to the precision of the dtype.

    The gradient, with respect to y and the parameters, is that of the implicit function theorem; the iteration is
    not unrolled. Runs under ``jit``, ``vmap`` and ``torch.func``.

    Args:
        f: ``f(x, *parameters) -> (value, log slope)``, both of x's shape, increasing from -inf to inf.
        y: where to invert.
        *parameters: all arrays f depends on.
    """
    xp = namespace(y)
    stopped = [xp.stop_gradient(p) for p in parameters]
    x = xp.stop_gradient(_solve(lambda x: f(x, *stopped), xp.stop_gradient(y)))
    value, log_slope = f(x, *parameters)
    # one Newton step whose slope is held fixed: it moves x by a rounding error, and its derivative is the theorem's
    x = x + (y - value) * xp.exp(-xp.stop_gradient(log_slope))
    return x, -f(x, *parameters)[1]


def _solve(f: Callable[[Array], tuple[Array, Array]], y: Array) -> Array:
    """Newton's method, kept inside a bracket that halves, on the asinh scale, whenever Newton does not do better."""
    xp = namespace(y)
    precision = 4 * float(xp.finfo(y.dtype).eps)

    def body(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, low, high, step, _ = state
        value, log_slope = f(x)
        below = value < y
        low = xp.where(below, xp.asinh(x), low)
        high = xp.where(below, high, xp.asinh(x))
        newton = x + (y - value) * xp.exp(-log_slope)
        t = xp.asinh(newton)
        move = xp.abs(newton - x)
        done = move <= precision * (1 + xp.abs(x))  # rounding may put it outside the bracket: no reason to bisect
        fine = done | ((t > low) & (t < high) & (move < 0.5 * xp.abs(step)))
        after = xp.where(fine, newton, xp.sinh(0.5 * (low + high)))
        after = xp.where(value == y, x, after)
        return after, low, high, after - x, xp.abs(after - x) > precision * (1 + xp.abs(x))

    wide = xp.full_like(y, WIDEST)
    start = (y, -wide, wide, xp.full_like(y, float("inf")), y == y)  # noqa: PLR0124  an array of True
    return xp.while_loop(lambda state: xp.any(state[-1]), body, start, MAX_ITERATIONS)[0]
