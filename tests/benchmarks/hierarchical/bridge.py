"""Log evidence by bridge sampling between draws of the posterior and a normal proposal, the locals summed out.

What is summed out leaves few dimensions, in which a normal proposal is near. Densities are in JAX, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import logsumexp
from jax.scipy.stats import norm
from numpyro.diagnostics import effective_sample_size
from scipy.special import ndtri

ITERATIONS = 200
PROPOSALS = 20_000  # draws, for each half of the chains


class Collapsed(NamedTuple):
    """The model's joint density with its locals summed out."""

    log_density: Callable[[Array], Array]  # of a point ``(dim,)``
    points: Callable[[dict[str, np.ndarray]], np.ndarray]  # of draws of the quantities, ``(*batch, dim)``


class Estimate(NamedTuple):
    log_z: float
    se: float  # with autocorrelation (Fruehwirth-Schnatter 2004, section 3.2)
    halves: tuple[float, float]


def normal_of_tail(log_s: np.ndarray) -> np.ndarray:
    """From log s, s half-Cauchy of scale one, to a standard normal."""
    below = 2 / np.pi * np.arctan(np.exp(-np.abs(log_s)))  # the smaller tail keeps its digits
    return -np.sign(log_s) * ndtri(below)


def log_half_cauchy_of(w: Array) -> Array:
    """From a standard normal to log s, s half-Cauchy of scale one."""
    return -jnp.sign(w) * jnp.log(jnp.tan(jnp.pi / 2 * norm.cdf(-jnp.abs(w))))


class Coefficients(NamedTuple):
    """A linear regression's coefficients given all scales, the intercept last: ``scales * (mean + root^-T e)``."""

    log_likelihood: Array  # with them summed out
    scales: Array
    mean: Array
    root: Array  # lower triangular

    def at(self, e: Array) -> Array:
        return self.scales * (self.mean + solve_triangular(self.root.T, e))


def regression(X: np.ndarray, y: np.ndarray, scales: Array, sigma: Array) -> Coefficients:
    """Of ``y ~ Normal(X beta + alpha, sigma)``, scales those of beta's prior, and the intercept's 5."""
    X = np.concatenate([X, np.ones((len(y), 1))], axis=1)
    scales = jnp.append(scales, 5.0)
    root = jnp.linalg.cholesky(jnp.eye(len(scales)) + scales[:, None] * (X.T @ X) * scales / sigma**2)
    white = solve_triangular(root, scales * (X.T @ y) / sigma**2, lower=True)
    log_likelihood = -0.5 * (y @ y / sigma**2 - white @ white + len(y) * jnp.log(2 * jnp.pi * sigma**2))
    mean = solve_triangular(root.T, white)
    return Coefficients(log_likelihood - jnp.log(jnp.diag(root)).sum(), scales, mean, root)


def horseshoe(X: np.ndarray, y: np.ndarray) -> Collapsed:
    """Scales in coordinates that are normal a priori."""
    k = X.shape[1]

    def log_density(point: Array) -> Array:
        w, log_sigma = point[: k + 1], point[k + 1]
        log_s = log_half_cauchy_of(w)
        log_prior = norm.logpdf(w).sum() + jnp.log(2) + norm.logpdf(jnp.exp(log_sigma), 0, 5) + log_sigma
        return log_prior + regression(X, y, jnp.exp(log_s[1:] + log_s[0]), jnp.exp(log_sigma)).log_likelihood

    def points(q: dict[str, np.ndarray]) -> np.ndarray:
        scales = normal_of_tail(np.concatenate([q["tau"][..., None], q["lambda"]], axis=-1))
        return np.concatenate([scales, q["sigma"][..., None]], axis=-1)

    return Collapsed(log_density, points)


def item_response(correct: np.ndarray) -> Collapsed:
    """Given the items, persons are independent, each in one dimension: the trapezoidal rule."""
    items = correct.shape[1]
    theta = np.linspace(-7.5, 7.5, 61)
    log_weight = norm.logpdf(theta) + np.log(theta[1] - theta[0])

    def log_density(point: Array) -> Array:
        mu_a, log_sigma_a, mu_b, log_sigma_b = point[:4]
        log_a, b = point[4 : 4 + items], point[4 + items :]
        logits = jnp.exp(log_a) * (theta[:, None] - b)
        right, wrong = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        log_likelihood = logsumexp(correct @ right.T + (1 - correct) @ wrong.T + log_weight, axis=1).sum()
        log_prior = norm.logpdf(mu_a) + norm.logpdf(mu_b, 0, 5)
        for log_s in (log_sigma_a, log_sigma_b):
            log_prior += jnp.log(2 / (jnp.pi * 2)) - jnp.log1p(jnp.exp(2 * log_s) / 4) + log_s
        log_prior += norm.logpdf(log_a, mu_a, jnp.exp(log_sigma_a)).sum()
        log_prior += norm.logpdf(b, mu_b, jnp.exp(log_sigma_b)).sum()
        return log_likelihood + log_prior

    def points(q: dict[str, np.ndarray]) -> np.ndarray:
        hyper = [q[n][..., None] for n in ("mu_a", "sigma_a", "mu_b", "sigma_b")]
        return np.concatenate([*hyper, q["a"], q["b"]], axis=-1)

    return Collapsed(log_density, points)


def irt501(student: np.ndarray, question: np.ndarray, correct: np.ndarray) -> Collapsed:
    """Given the questions, students are independent; on one grid of mean plus ability."""
    answered = np.zeros((student.max() + 1, question.max() + 1))
    right = np.zeros_like(answered)
    answered[student, question], right[student, question] = 1, correct
    u = np.linspace(-5.5, 7.0, 76)

    def log_density(point: Array) -> Array:
        mean, difficulty = point[0], point[1:]
        log_likelihood = right.sum(1)[:, None] * u - (right @ difficulty)[:, None]
        log_likelihood -= answered @ jax.nn.softplus(u - difficulty[:, None])
        log_weight = norm.logpdf(u - mean) + np.log(u[1] - u[0])
        log_prior = norm.logpdf(mean - 0.75) + norm.logpdf(difficulty).sum()
        return log_prior + logsumexp(log_likelihood + log_weight, axis=1).sum()

    def points(q: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([q["mean_student_ability"][..., None], q["question_difficulty"]], axis=-1)

    return Collapsed(log_density, points)


COLLAPSED = {f.__name__: f for f in (horseshoe, item_response, irt501)}


def log_evidence(collapsed: Collapsed, quantities: dict[str, np.ndarray], seed: int = 0) -> Estimate:
    """From draws ``(chains, draws, ...)``: the proposal is of one half of the chains, the bridge to the other half."""
    z = collapsed.points(quantities)
    half, rng = len(z) // 2, np.random.default_rng(seed)
    density = jax.jit(lambda rows: jax.lax.map(collapsed.log_density, rows, batch_size=64))
    parts = [_bridge(density, z[:half], z[half:], rng), _bridge(density, z[half:], z[:half], rng)]
    mean = float(np.mean([p[0] for p in parts]))
    se = float(np.hypot(parts[0][1], parts[1][1]) / 2)
    return Estimate(mean, se, (parts[0][0], parts[1][0]))


def _bridge(density: Callable, fitted: np.ndarray, z: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Meng & Wong (1996), eq. 4.1, iterated; log evidence and its standard error."""
    flat = fitted.reshape(-1, fitted.shape[-1])
    mean, root = flat.mean(0), np.linalg.cholesky(np.cov(flat.T))
    noise = rng.standard_normal((PROPOSALS, len(mean)))

    def log_q(rows: np.ndarray) -> np.ndarray:
        white = np.linalg.solve(root, (rows - mean).T)
        return np.asarray(norm.logpdf(white).sum(0)) - np.log(np.diag(root)).sum()

    proposed = mean + noise @ root.T
    posterior = z.reshape(-1, z.shape[-1])
    l_p = np.asarray(density(posterior)) - log_q(posterior)
    l_q = np.asarray(density(proposed)) - log_q(proposed)
    chains = l_p.reshape(z.shape[:2])
    n_p, n_q = effective_sample_size(chains), len(l_q)
    s_p, s_q, log_z = n_p / (n_p + n_q), n_q / (n_p + n_q), float(np.median(l_q))
    for _ in range(ITERATIONS):
        over = l_q - np.logaddexp(np.log(s_p) + l_q, np.log(s_q) + log_z)
        under = -np.logaddexp(np.log(s_p) + l_p, np.log(s_q) + log_z)
        log_z = float(logsumexp(over) - np.log(len(l_q)) - logsumexp(under) + np.log(len(l_p)))
    f_q, f_p = np.exp(over - over.max()), np.exp(under - under.max()).reshape(z.shape[:2])
    variance = f_q.var() / f_q.mean() ** 2 / n_q + f_p.var() / f_p.mean() ** 2 / effective_sample_size(f_p)
    return log_z, float(np.sqrt(variance))
