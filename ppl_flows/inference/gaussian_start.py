"""Where a flow guide starts: a Gaussian near the posterior, found from the log density and its derivatives.

Points z are rows of unconstrained latent vectors, ``(n, dim)``; everything here is NumPy in float64, and the host
supplies the density. Log densities are in nats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import minimize
from scipy.special import logsumexp

from ppl_flows.inference.gaussian import Gaussian, elbo_of

Array = np.ndarray

FULL_RANK_DIM = 400  # up to here a start has a full covariance: dim^2 numbers
MATCHED_DIM = 200  # and up to here it is refined, in REFINEMENTS eigendecompositions
STARTS, RADIUS, TRIES = 3, 2.0, 100  # uniform draws beside the host's own initial point, as the hosts' NUTS makes them
GRADIENTS = 500  # of an optimiser's path to a mode
FEW_GRADIENTS, FEW_POINTS, FEW_DRAWS, FEW_ROUNDS = 200, 16, 8, 25  # of its path to a start: points tried as means
DRAWS, CHECK_DRAWS = 32, 256  # per ELBO of a candidate, and of the final ones
REFINEMENTS = 100  # rounds of Batch-and-Match, of DRAWS draws each
NEWTON = 3  # points at which curvatures are looked at, each a step of Newton's from the one before
STEP = 0.1  # of a difference, in standard deviations
FLAT = 1e-6  # smallest curvature, relative to the diagonal
MAX_VALUE = 1e100  # stands for a log density that is not finite, where the optimiser needs a number


class NowhereFiniteError(ValueError):
    """A log density is finite at none of the initial points."""


class Density(Protocol):
    """An unnormalised log density on unconstrained vectors."""

    def value_and_gradient(self, z: Array) -> tuple[Array, Array]:
        """``(n,)`` and ``(n, dim)``, not necessarily finite."""

    def hessian(self, z: Array) -> Array:
        """Second derivatives, ``(n, dim, dim)``."""


def laplace(density: Density, init: Array, seed: int = 0) -> Gaussian:
    """Mode and inverse curvature there, from the best of several starts."""
    paths = [optimisation_path(density, start) for start in starting_points(density, init, np.random.default_rng(seed))]
    ends = np.stack([path[-1] for path in paths])
    mode = ends[np.argmax(_finite(density.value_and_gradient(ends)[0]))]
    return Gaussian(mode, inverse_root(density.hessian(mode[None])[0]))


def full_rank(density: Density, init: Array, seed: int = 0) -> Gaussian:
    """A Gaussian with all covariances, from that of ``mean_field``: ``correlated``.

    About 13,000 gradients, 10,000 of them those of ``mean_field``, and ``6 * dim`` more.

    Raises:
        NowhereFiniteError: the log density is finite at no initial point.
    """
    return correlated(density, mean_field(density, init, seed), np.random.default_rng(seed))


def correlated(density: Density, around: Gaussian, rng: np.random.Generator) -> Gaussian:
    """The best of a Gaussian with independent coordinates, of those with the curvature at its mean and a few Newton
    steps from there, and what Batch-and-Match makes of the best of these; in many dimensions that where its ELBO is
    largest."""
    dim = len(around.mean)
    size, many, noise = (CHECK_DRAWS, dim), dim > MATCHED_DIM, antithetic(rng, dim)
    at = centred(density, around, noise) if many else around
    found = [Gaussian(at.mean, np.diag(at.factor))]
    for _ in range(NEWTON):
        curved = with_curvature(density, at)
        found.append(curved)
        gradient = density.value_and_gradient(curved.mean[None])[1][0]
        if not np.all(np.isfinite(gradient)):
            break
        at = Gaussian(curved.mean + curved.factor @ (curved.factor.T @ gradient), around.factor)
    best = max(with_elbos(density, found, rng.standard_normal(size)), key=elbo_of)
    found = [best, centred(density, best, noise) if many else batch_and_match(density, best, rng)]
    return max(with_elbos(density, found, rng.standard_normal(size)), key=elbo_of)


def centred(density: Density, gaussian: Gaussian, noise: Array) -> Gaussian:
    """The same Gaussian where the mean log density of its draws is largest, by L-BFGS in its coordinates."""

    def loss(shift: Array) -> tuple[float, Array]:
        values, gradients = density.value_and_gradient(gaussian.draw(noise + shift))
        if not (np.all(np.isfinite(values)) and np.all(np.isfinite(gradients))):
            return MAX_VALUE, np.zeros_like(shift)
        return -float(values.mean()), -gaussian.pull_back(gradients.mean(0))

    best = minimize(loss, np.zeros(len(gaussian.mean)), jac=True, method="L-BFGS-B", options={"maxfun": FEW_GRADIENTS})
    return replace(gaussian, mean=gaussian.draw(best.x))


def antithetic(rng: np.random.Generator, dim: int) -> Array:
    """Standard normal draws, ``(DRAWS / 2, dim)``, each beside its opposite, so that their mean is 0."""
    half = rng.standard_normal((DRAWS // 4, dim))
    return np.concatenate([half, -half])


def mean_field(density: Density, init: Array, seed: int = 0) -> Gaussian:
    """The best of several Gaussians with independent coordinates; no second derivatives.

    From the best point of each optimiser's path, location and scales are refined by matching scores, the best of them
    longer: among normals with independent coordinates, the Fisher divergence on draws z with scores g is least where
    ``sd^4 = var(z) / var(g)`` and ``mean = mean(z) + sd^2 mean(g)``.

    Raises:
        NowhereFiniteError: the log density is finite at no initial point.

    Reference: Cai et al. (2024), Batch and match, arXiv:2402.14758, for the divergence.
    """
    rng = np.random.default_rng(seed)
    found = []
    for start in starting_points(density, init, rng):
        points = thin_path(optimisation_path(density, start, FEW_GRADIENTS), FEW_POINTS)
        candidates = [Gaussian(z, np.full(len(init), scale)) for z in points for scale in (1.0, 0.3, 0.1, 0.01)]
        best = max(with_elbos(density, candidates, rng.standard_normal((FEW_DRAWS, len(init)))), key=elbo_of)
        found += [best, match_diagonal(density, best, rng, FEW_ROUNDS)]
    best = max(with_elbos(density, found, rng.standard_normal((DRAWS, len(init)))), key=elbo_of)
    found = [best, match_diagonal(density, best, rng)]
    return max(with_elbos(density, found, rng.standard_normal((CHECK_DRAWS, len(init)))), key=elbo_of)


def starting_points(density: Density, init: Array, rng: np.random.Generator) -> Iterator[Array]:
    """The initial point and some uniform draws, as far as the density is finite there.

    Raises:
        NowhereFiniteError: it is finite at none.
    """
    candidates = np.concatenate([init[None], rng.uniform(-RADIUS, RADIUS, (TRIES, len(init)))])
    values, gradients = density.value_and_gradient(candidates)
    fine = np.isfinite(values) & np.isfinite(gradients).all(axis=1)
    if not fine.any():
        raise NowhereFiniteError(
            f"the model's log density or its gradient is not finite at the initial point, nor at {TRIES} points drawn "
            f"from uniform(-{RADIUS}, {RADIUS}) in the unconstrained space; look for impossible data, or give an "
            "init_loc_fn that starts where it is finite."
        )
    yield from candidates[fine][: STARTS + int(fine[0])]


def optimisation_path(density: Density, start: Array, gradients: int = GRADIENTS) -> Array:
    """Points that L-BFGS visits on its way to a mode, ``(n, dim)``, from the start on."""

    def loss(z: Array) -> tuple[float, Array]:
        value, gradient = density.value_and_gradient(z[None])
        if not (np.isfinite(value[0]) and np.all(np.isfinite(gradient))):
            return MAX_VALUE, np.zeros_like(z)
        return -float(value[0]), -gradient[0]

    path = [start]
    minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=lambda z: path.append(np.array(z)),
        # centred hierarchies have no mode: their density grows without bound, and so would the path
        options={"maxfun": gradients, "maxcor": 20},
    )
    return np.stack(path)


def thin_path(path: Array, points: int) -> Array:
    """At most so many of the points, evenly spaced, both ends among them."""
    return np.asarray(path[np.unique(np.linspace(0, len(path) - 1, points).round().astype(int))])


def with_elbos(density: Density, candidates: list[Gaussian], noise: Array) -> list[Gaussian]:
    """The candidates with ELBO and KL, on the same noise ``(n, dim)``; minus infinity, nan where a draw is impossible.

    They are of log weights, whose spread is small near the posterior, and not by the known entropy.
    """
    z = np.concatenate([g.draw(noise) for g in candidates])
    values = density.value_and_gradient(z)[0].reshape(len(candidates), len(noise))
    made = []
    for g, log_p in zip(candidates, values, strict=True):
        log_q = -0.5 * (noise**2).sum(1) - g.log_det - 0.5 * len(g.mean) * np.log(2 * np.pi)
        log_weights = np.where(np.isfinite(log_p), log_p, -np.inf) - log_q
        elbo = float(log_weights.mean())
        with np.errstate(over="ignore"):
            kl = float(logsumexp(log_weights) - np.log(len(noise))) - elbo if np.isfinite(elbo) else np.nan
        made.append(replace(g, elbo=elbo, kl=kl))
    return made


def batch_and_match(density: Density, start: Gaussian, rng: np.random.Generator, rounds: int = REFINEMENTS) -> Gaussian:
    """Batch-and-Match: fits a Gaussian's score to that of the density on its own draws.

    In the coordinates in which ``start`` is standard normal. A round whose scores are not finite is left out.

    Reference: Cai et al. (2024), arXiv:2402.14758, algorithm 1 and eqs. 9 and 10 (their symbols).
    """
    dim = len(start.mean)
    mu, root = np.zeros(dim), np.eye(dim)
    for t in range(rounds):
        z = mu + rng.standard_normal((DRAWS, dim)) @ root.T
        _, scores = density.value_and_gradient(start.draw(z))
        g = scores @ start.factor  # of the density of z
        if not np.all(np.isfinite(g)):
            continue
        lam = DRAWS / (1 + t)
        z_mean, g_mean = z.mean(0), g.mean(0)
        z_off, g_off, off = z - z_mean, g - g_mean, mu - z_mean
        u = lam * g_off.T @ g_off / DRAWS + lam / (1 + lam) * np.outer(g_mean, g_mean)
        v = root @ root.T + lam * z_off.T @ z_off / DRAWS + lam / (1 + lam) * np.outer(off, off)
        try:
            # the solution of S U S + S = V, by a factor of V: symmetric, where the paper's (I + 4 U V)^(1/2) is not
            half = np.linalg.cholesky(v)
            values, vectors = eigh(half.T @ u @ half)
            wide = half @ (vectors * np.sqrt(2 / (1 + np.sqrt(1 + 4 * np.maximum(values, 0.0)))))
            new = np.linalg.cholesky(wide @ wide.T)
        except (np.linalg.LinAlgError, ValueError):
            continue
        root = new
        mu = mu / (1 + lam) + lam / (1 + lam) * (root @ (root.T @ g_mean) + z_mean)
    return Gaussian(start.draw(mu), start.factor @ root)


def match_diagonal(density: Density, start: Gaussian, rng: np.random.Generator, rounds: int = REFINEMENTS) -> Gaussian:
    """The refinement of ``mean_field``."""
    mean, log_scale = start.mean, np.log(start.factor)
    for t in range(rounds):
        z = mean + rng.standard_normal((DRAWS, len(mean))) * np.exp(log_scale)
        _, g = density.value_and_gradient(z)
        if not np.all(np.isfinite(g)):
            continue
        step = 1 / (1 + 0.1 * t)  # averages the later rounds
        spread, steepness = z.var(0), g.var(0)
        new = 0.25 * (np.log(spread) - np.log(np.maximum(steepness, 1e-300)))
        log_scale = log_scale + step * np.clip(new - log_scale, -1.0, 1.0)
        towards = z.mean(0) + np.exp(2 * log_scale) * g.mean(0)
        mean = mean + step * np.clip(towards - mean, -3 * np.exp(log_scale), 3 * np.exp(log_scale))
    return Gaussian(mean, np.exp(log_scale))


def with_curvature(density: Density, around: Gaussian) -> Gaussian:
    """The same mean, with the inverse curvature there, by differences of gradients over parts of its diagonal."""
    steps = STEP * around.diagonal
    ahead, behind = (density.value_and_gradient(around.mean + side * np.diag(steps))[1] for side in (1, -1))
    hessian = (ahead - behind) / (2 * steps[:, None])
    if not np.all(np.isfinite(hessian)):
        return Gaussian(around.mean, np.diag(around.diagonal))
    return Gaussian(around.mean, inverse_root(hessian))


def inverse_root(hessian: Array) -> Array:
    """Lower triangular R with ``R R^T = |-hessian|^-1``: absolute values, and a floor, make it positive definite."""
    h = -0.5 * (hessian + hessian.T)
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(h)), np.finfo(float).tiny ** 0.5))
    values, vectors = eigh(h * scale[:, None] * scale)
    wide = scale[:, None] * vectors / np.sqrt(np.maximum(np.abs(values), FLAT))
    lower = np.asarray(np.linalg.qr(wide.T, mode="r")).T
    return lower * np.sign(np.diag(lower))


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, -np.inf)
