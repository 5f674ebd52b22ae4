"""Differential equations in NumPy: SciPy."""

import numpy as np
from scipy.integrate import solve_ivp


def odeint(f, y, args, times, *, rtol, atol):
    """As in ``ops``."""

    def flat(t, v):
        return f(t, v.reshape(y.shape), *args).ravel()

    solution = solve_ivp(flat, times, y.ravel(), "RK45", t_eval=times[1:], rtol=rtol, atol=atol)
    if not solution.success:
        return np.full_like(y, np.nan)
    return solution.y[:, -1].reshape(y.shape).astype(y.dtype)
