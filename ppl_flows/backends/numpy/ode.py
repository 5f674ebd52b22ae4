"""Differential equations in NumPy: SciPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp


def odeint(
    f: Callable[..., np.ndarray],
    y: np.ndarray,
    args: tuple[np.ndarray, ...],
    times: tuple[float, float],
    *,
    rtol: float,
    atol: float,
) -> np.ndarray:
    """As in ``Backend``."""

    def flat(t: float, v: np.ndarray) -> np.ndarray:
        return f(t, v.reshape(y.shape), *args).ravel()

    solution = solve_ivp(flat, times, y.ravel(), "RK45", t_eval=times[1:], rtol=rtol, atol=atol)
    if not solution.success:
        return np.full_like(y, np.nan)
    return solution.y[:, -1].reshape(y.shape).astype(y.dtype)
