"""Differential equations in JAX: diffrax."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

try:
    import diffrax
except ImportError as error:
    raise ImportError(
        "continuous flows in JAX are solved by diffrax, which is not installed; "
        "pip install diffrax, or 'ppl-flows[ode]' for both languages."
    ) from error

MAX_STEPS = 4096


def odeint(
    f: Callable[..., Array],
    y: Array,
    args: tuple[Array, ...],
    times: tuple[float, float],
    *,
    rtol: float,
    atol: float,
) -> Array:
    """As in ``Backend``. Reverse-mode gradients go through diffrax's steps, with checkpoints."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: f(t, y, *args)),
        diffrax.Dopri5(),
        *jnp.asarray(times, dtype=y.dtype),  # or time, and with it the result, would be of the default dtype
        None,
        y,
        args,
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=_norm),
        max_steps=MAX_STEPS,
        throw=False,
    )
    return jnp.where(solution.result == diffrax.RESULTS.successful, solution.ys[0], jnp.nan)


def _norm(v: Array) -> Array:
    """The worst row's error decides: the mean over a batch would let a hard row hide among easy ones."""
    return jnp.sqrt(jnp.max(jnp.mean(v * v, axis=-1)))
