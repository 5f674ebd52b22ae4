"""Log evidence of the simulated models by quadrature over the globals, where the locals can be summed out. NumPy only.

The trapezoidal rule on a box in which the integrand and its derivatives fall to nothing: its error falls faster than
any power of the spacing. All functions return the log of the model's joint density with everything but the grid's
coordinates summed out, with the Jacobian of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.ndimage import convolve1d
from scipy.special import expit, gammaln, log_expit, logsumexp
from scipy.stats import norm, t

Array = np.ndarray
EDGE = 1e-5  # share of the mass that the outermost layer of a box may have


class Box(NamedTuple):
    """An axis is ``(low, high, points)``; the last two functions take points ``(n, axes)``."""

    axes: list[tuple[float, float, int]]
    log_density: Callable[[Array], Array]
    quantities: Callable[[Array], dict[str, Array]]


class Integral(NamedTuple):
    log_z: float
    error: float  # by every other point of each axis
    moments: dict[str, tuple[float, float]]  # mean and standard deviation


def integrate(box: Box) -> Integral:
    """Raises ValueError where the box is too small."""
    grids = [np.linspace(*axis) for axis in box.axes]
    points = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1)
    log_p = box.log_density(points.reshape(-1, len(grids))).reshape(points.shape[:-1])
    log_cell = sum(np.log(grid[1] - grid[0]) for grid in grids)
    log_z = logsumexp(log_p) + log_cell
    mass = np.exp(log_p + log_cell - log_z)
    edges = [mass.take(end, axis).sum() for axis in range(mass.ndim) for end in (0, -1)]
    if max(edges) > EDGE:
        raise ValueError(f"the box cuts off a part of the mass; by end of each axis: {edges}")
    coarse = logsumexp(log_p[(slice(None, None, 2),) * mass.ndim]) + log_cell + mass.ndim * np.log(2)
    moments = {}
    for name, value in box.quantities(points.reshape(-1, len(grids))).items():
        mean = np.sum(mass.ravel() * value)
        moments[name] = (float(mean), float(np.sqrt(np.sum(mass.ravel() * (value - mean) ** 2))))
    return Integral(float(log_z), float(abs(coarse - log_z) + sum(edges)), moments)


def log_half_cauchy(log_s: Array, scale: float) -> Array:
    """Density of ``log s``."""
    return np.log(2 / (np.pi * scale)) - np.log1p(np.exp(2 * log_s) / scale**2) + log_s


def eight_schools(y: Array, sigma: Array) -> Box:
    def log_density(points: Array) -> Array:
        log_tau = points[:, 0]
        v = np.exp(2 * log_tau)[:, None] + sigma**2
        precision = 1 / 25 + (1 / v).sum(1)  # of mu
        quadratic = (y**2 / v).sum(1) - (y / v).sum(1) ** 2 / precision
        log_p = -0.5 * (len(y) * np.log(2 * np.pi) + np.log(v).sum(1) + np.log(25 * precision) + quadratic)
        return log_p + log_half_cauchy(log_tau, 5.0)

    return Box([(-24.0, 14.0, 2001)], log_density, lambda p: {"tau": p[:, 0]})


def radon(group: Array, x: Array, y: Array) -> Box:
    """Given the scales all is Gaussian: groups by Woodbury's formula, then the two means."""
    Z = np.stack([np.ones_like(x), x], axis=1)
    groups = group.max() + 1
    M, r, yy = np.zeros((groups, 2, 2)), np.zeros((groups, 2)), np.zeros(groups)
    np.add.at(M, group, Z[:, :, None] * Z[:, None, :])
    np.add.at(r, group, Z * y[:, None])
    np.add.at(yy, group, y**2)
    n = np.bincount(group)

    def at(point: Array) -> float:
        D, s2 = np.exp(2 * point[:2]), np.exp(2 * point[2])
        A = M + s2 * np.diag(1 / D)
        MA, rA = np.linalg.solve(A, M), np.linalg.solve(A, r[..., None])[..., 0]
        log_det = (n - 2) * np.log(s2) + np.linalg.slogdet(A)[1] + np.log(D).sum()
        P = np.eye(2) / 100 + ((M - M @ MA) / s2).sum(0)
        h = ((r - np.einsum("gij,gj->gi", M, rA)) / s2).sum(0)
        quadratic = ((yy - (r * rA).sum(1)) / s2).sum() - h @ np.linalg.solve(P, h)
        return -0.5 * (len(y) * np.log(2 * np.pi) + log_det.sum() + np.log(np.linalg.det(100 * P)) + quadratic)

    def log_density(points: Array) -> Array:
        return np.array([at(p) for p in points]) + log_half_cauchy(points, 5.0).sum(1)

    axes = [(-2.4, 0.1, 41), (-16.0, 0.8, 101), (-0.42, -0.06, 31)]
    return Box(axes, log_density, lambda p: {f"sigma_{n}": p[:, i] for i, n in enumerate("aby")})


def volatility(returns: Array) -> Box:
    """Given step size and nu, s is a chain of one dimension: a filter on a grid of so many steps' width."""
    reach, spacing = 9.0, 0.5  # of the kernel in step sizes; between points likewise
    offsets = np.arange(-reach, reach + spacing / 2, spacing)
    kernel = norm.pdf(offsets) * spacing

    def at(step: float, nu: Array) -> Array:
        s = step * spacing * np.arange(-int(8 / (step * spacing)), int(8 / (step * spacing)) + 1)
        log_p, filtered = np.zeros(len(nu)), np.tile(norm.pdf(s, 0, step), (len(nu), 1))
        for i, value in enumerate(returns):
            if i:
                filtered = convolve1d(filtered, kernel, axis=1, mode="constant")
            filtered = filtered * t.pdf(value * np.exp(-s), nu[:, None]) * np.exp(-s)
            total = filtered.sum(1, keepdims=True) * step * spacing
            filtered, log_p = filtered / total, log_p + np.log(total[:, 0])
        return log_p

    def log_density(points: Array) -> Array:
        log_p = np.concatenate([at(np.exp(s), np.exp(points[points[:, 0] == s, 1])) for s in np.unique(points[:, 0])])
        step, nu = np.exp(points).T
        return log_p + np.log(50 * step) - 50 * step + np.log(0.1 * nu) - 0.1 * nu

    axes = [(-5.0, -0.8, 29), (-0.5, 5.0, 45)]
    return Box(axes, log_density, lambda p: {"step_size": p[:, 0], "nu": p[:, 1]})


def capture_recapture(counts: Array, occasions: Array) -> Box:
    """Animals with equal counts have equal integrals over eps."""
    z = np.linspace(-9.0, 9.0, 145)
    log_weight = norm.logpdf(z) + np.log(z[1] - z[0])
    T = int(occasions)
    k = np.arange(T + 1)
    log_choose = gammaln(T + 1) - gammaln(k + 1) - gammaln(T - k + 1)
    animals = np.bincount(counts.astype(int), minlength=T + 1)

    def log_density(points: Array) -> Array:
        mu, to_five = np.unique(points[:, 1:], axis=0).T
        eps = mu[:, None] + 5 * expit(to_five)[:, None] * z
        captured, missed = log_expit(eps)[..., None], log_expit(-eps)[..., None]
        log_l = log_choose + logsumexp(log_weight[:, None] + k * captured + (T - k) * missed, axis=1)
        seen = log_l[:, 1:] @ animals[1:]
        log_omega, log_rest = log_expit(points[:, :1]), log_expit(-points[:, :1])
        _, row = np.unique(points[:, 1:], axis=0, return_inverse=True)
        row = row.ravel()
        absent = animals[0] * np.logaddexp(log_omega[:, 0] + log_l[row, 0], log_rest[:, 0])
        jacobian = (log_expit(points) + log_expit(-points)).sum(1)
        return jacobian + animals[1:].sum() * log_omega[:, 0] + seen[row] + absent

    def quantities(points: Array) -> dict[str, Array]:
        omega, mean_p, sigma = expit(points).T
        return {"omega": omega, "mean_p": mean_p, "sigma": np.log(5 * sigma)}

    return Box([(-1.7, 9.0, 109), (-6.0, 1.5, 101), (-16.0, 9.0, 151)], log_density, quantities)


BOXES = {f.__name__: f for f in (eight_schools, radon, volatility, capture_recapture)}
