"""Log evidence of the stochastic volatility of 2,519 dimensions: a filter on a grid; quadrature over its globals."""

from __future__ import annotations

import numpy as np
from quadrature import Array, Box, log_half_cauchy
from scipy.optimize import minimize
from scipy.special import betaln, log_expit
from scipy.stats import norm

REACH, SPACING = 7.0, 0.7  # of the grid of h in stationary sds; between its points in sds of a step
START = np.array([4.0, -9.5, -1.6])  # logit of p, mean, log scale
HALF_WIDTH, POINTS = 7.5, 19  # of the box in sds of a normal approximation; of each axis
STEP = 0.05  # of the finite differences


def log_marginal(returns: Array, point: Array) -> float:
    """With the log volatility summed out; Jacobian included."""
    logit_p, mean, log_scale = point
    persistence, scale = np.tanh(logit_p / 2), np.exp(log_scale)
    stationary = scale / np.sqrt(1 - persistence**2)
    n = int(np.ceil(REACH * stationary / (SPACING * scale)))
    x, dx = SPACING * scale * np.arange(-n, n + 1), SPACING * scale
    transition = norm.pdf(x[:, None], persistence * x, scale) * dx
    likelihoods = norm.pdf(returns[:, None], 0.0, np.exp((mean + x) / 2))
    filtered, total = norm.pdf(x, 0.0, stationary) * dx * likelihoods[0], np.empty(len(returns))
    for i, likelihood in enumerate(likelihoods):
        if i:
            filtered = (transition @ filtered) * likelihood
        total[i] = filtered.sum()
        filtered /= total[i]
    log_beta = 20 * log_expit(logit_p) + 1.5 * log_expit(-logit_p) - betaln(20, 1.5)
    log_cauchy = -np.log(5 * np.pi) - np.log1p((mean / 5) ** 2)
    return float(np.log(total).sum() + log_beta + log_cauchy + log_half_cauchy(log_scale, 2.0))


def volatility2519(returns: Array) -> Box:
    """The box is that of a normal approximation at the mode, in whose coordinates the axes are."""

    def loss(point: Array) -> float:
        return -log_marginal(returns, point)

    mode = minimize(loss, START, method="Nelder-Mead", options={"xatol": 1e-2, "fatol": 1e-2}).x
    eye = STEP * np.eye(3)
    hessian = [
        [sum(s * t * loss(mode + s * a + t * b) for s in (1, -1) for t in (1, -1)) / (4 * STEP**2) for a in eye]
        for b in eye
    ]
    root = np.linalg.cholesky(np.linalg.inv(np.array(hessian)))

    def log_density(z: Array) -> Array:
        jacobian = np.log(np.diag(root)).sum()
        return np.array([log_marginal(returns, mode + root @ row) for row in z]) + jacobian

    def quantities(z: Array) -> dict[str, Array]:
        logit_p, mean, log_scale = (mode + z @ root.T).T
        return {
            "persistence_of_volatility": np.tanh(logit_p / 2),
            "mean_log_volatility": mean,
            "white_noise_shock_scale": np.exp(log_scale),
        }

    return Box([(-HALF_WIDTH, HALF_WIDTH, POINTS)] * 3, log_density, quantities)
