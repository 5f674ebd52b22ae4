"""Many optimisations at once: L-BFGS whose evaluations are batches, as a batch costs a host what one point does."""

from __future__ import annotations

import numpy as np

from ppl_flows.inference.gaussian_start import Density

Array = np.ndarray

EVALUATIONS = 200  # of a path
PAIRS = 10  # of steps and changes of the gradient, that the curvature is known by
DECREASE = 1e-4  # share of what the slope promises, that a step has to keep
SMALL = 1e-7  # relative change of the log density, at which a path ends


def maximise(density: Density, starts: Array, evaluations: int = EVALUATIONS) -> tuple[Array, Array]:
    """Where L-BFGS ends that starts at each of these points, and the log density there: ``(n, dim)``, ``(n,)``.

    Each path has its own step size, by backtracking. Those whose start has no finite density or gradient stay there,
    with minus infinity.

    Reference: Nocedal & Wright (2006), Numerical Optimization, algorithms 3.1 and 7.4.
    """
    x = np.array(starts, dtype=float)
    n, dim = x.shape
    f, g = _loss(density, x)
    moves, turns, curvatures = np.zeros((n, PAIRS, dim)), np.zeros((n, PAIRS, dim)), np.zeros((n, PAIRS))
    step = np.ones(n)
    p = _unit_at_most(-g)
    active = np.isfinite(f)
    for _ in range(evaluations):
        rows = np.flatnonzero(active)
        if not rows.size:
            break
        slope = (p[rows] * g[rows]).sum(-1)
        trial = x[rows] + step[rows, None] * p[rows]
        f_new, g_new = _loss(density, trial)
        fine = f_new <= f[rows] + DECREASE * step[rows] * slope
        a, back = rows[fine], rows[~fine]
        move, turn = trial[fine] - x[a], g_new[fine] - g[a]
        bend = (move * turn).sum(-1)
        convex = bend > 1e-12 * np.sqrt((move**2).sum(-1) * (turn**2).sum(-1))
        for history, new in ((moves, move), (turns, turn), (curvatures, bend)):
            kept = a[convex]
            history[kept, :-1] = history[kept, 1:]
            history[kept, -1] = new[convex]
        active[a] = f[a] - f_new[fine] > SMALL * np.maximum(np.abs(f[a]), 1.0)
        x[a], f[a], g[a], step[a] = trial[fine], f_new[fine], g_new[fine], 1.0
        p[a] = _direction(g[a], moves[a], turns[a], curvatures[a])
        step[back] *= 0.4
        active[back] &= step[back] > 1e-6
    return x, -f


def _direction(g: Array, moves: Array, turns: Array, curvatures: Array) -> Array:
    """Minus the gradient times an inverse curvature, the two-loop recursion; minus the gradient where that goes up."""
    known = curvatures > 0
    rho = np.where(known, 1 / np.where(known, curvatures, 1.0), 0.0)
    q, shares = g.copy(), np.zeros_like(rho)
    for i in reversed(range(PAIRS)):
        shares[:, i] = rho[:, i] * (moves[:, i] * q).sum(-1)
        q -= shares[:, i, None] * turns[:, i]
    last = known[:, -1]
    scale = np.where(last, curvatures[:, -1] / np.where(last, (turns[:, -1] ** 2).sum(-1), 1.0), 1.0)
    q *= scale[:, None]
    for i in range(PAIRS):
        q += (shares[:, i] - rho[:, i] * (turns[:, i] * q).sum(-1))[:, None] * moves[:, i]
    down = ((q * g).sum(-1) > 0) & np.isfinite(q).all(-1) & last
    return np.where(down[:, None], -q, _unit_at_most(-g))


def _unit_at_most(p: Array) -> Array:
    length = np.sqrt((p**2).sum(-1, keepdims=True))
    return np.asarray(p / np.maximum(length, 1.0))


def _loss(density: Density, x: Array) -> tuple[Array, Array]:
    """Minus log density, infinite where it or its gradient is not finite."""
    values, gradients = density.value_and_gradient(x)
    fine = np.isfinite(values) & np.isfinite(gradients).all(-1)
    return np.where(fine, -values, np.inf), np.where(fine[:, None], -gradients, 0.0)
