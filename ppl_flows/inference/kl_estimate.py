"""KL(guide || posterior) from importance weights: of the guide's own draws, and of draws from where it might not be.

Vectors u are the random numbers of a guide on the unconstrained scale, ``(n, dim)``; log p is the model's log density
of what the guide makes of them, as one of u, and log q the guide's. In nats, NumPy only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, logsumexp

from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

Array = np.ndarray

WIDE_DRAWS, FREEDOM = 500, 5.0  # from a Student-t: heavier tails than a posterior's, at little cost in many dimensions
MISSED = 10.0  # times that the guide's density is too small where it misses mass


class Estimate(NamedTuple):
    """Monte Carlo mean and its standard error."""

    mean: float
    se: float


class Scores(NamedTuple):
    """log p and log q of vectors, ``(n,)`` each."""

    log_p: Array
    log_q: Array


Map = Callable[[Array], tuple[Array, Array]]


class Near(NamedTuple):
    """A Gaussian near the posterior, of the latent vector or of coordinates of it.

    Attributes:
        gaussian: of them.
        place: coordinates ``(n, dim)`` to latent vectors and log det, ``(n,)``; None: they are the same.
        unplace: the way back.
    """

    gaussian: Gaussian
    place: Map | None = None
    unplace: Map | None = None


class WideCheck(NamedTuple):
    """What draws that are not the guide's own say of it.

    Attributes:
        kl: log evidence by importance sampling from the guide's draws and the wide ones together, minus the ELBO.
        log_z_se: standard error of that log evidence.
        missed: share of the posterior where its density is more than ten times the guide's.
        elsewhere: the part of it that Gaussians have, which are not where the guide is thought to be.
        found: of each of these, and each draw, the term of that mean, ``(Gaussians, n)``.
    """

    kl: Estimate
    log_z_se: float
    missed: Estimate
    elsewhere: Estimate
    found: Array


class ModesSeen(NamedTuple):
    """What looking for other modes has shown.

    Attributes:
        words: what was looked for, and found; empty: it was not looked for.
        missed: at least so much of the posterior is in modes that the guide does not reach.
        unclear: whether nothing certain can be said.
    """

    words: str
    missed: float
    unclear: bool


NOT_LOOKED = ModesSeen("", 0.0, unclear=False)


def kl_of_own_draws(log_weights: Array) -> Estimate:
    """Log evidence by smoothed importance sampling from the guide, minus the ELBO.

    Infinite where a draw is impossible under the model, or its density is no number.
    """
    if not np.all(np.isfinite(log_weights)):
        return Estimate(np.inf, 0.0)
    smoothed = smoothed_log_weights(log_weights)[0]
    log_z = logsumexp(smoothed) - np.log(len(smoothed))
    influence = np.exp(smoothed - log_z) - log_weights
    return Estimate(float(log_z - log_weights.mean()), float(influence.std(ddof=1) / len(smoothed) ** 0.5))


class WideSample:
    """Draws of a guide at these vectors, and draws from around Gaussians beside them, all scored.

    They are weighed as draws of the mixture of guide and Student-ts, each with the share of its draws, whichever they
    are from (the balance heuristic).

    Reference: Veach & Guibas (1995), Optimally Combining Sampling Techniques for Monte Carlo Rendering.
    """

    def __init__(self, vectors: Array, own: Scores) -> None:
        self._points, self._scores = [vectors], [own]
        self._near: list[Near] = []
        self._log_t: list[list[Array]] = []  # of each Student-t, at each block of points

    def add(self, near: Near, score: Callable[[Array], Scores], seed: int, n: int = WIDE_DRAWS) -> None:
        """So many draws from around a Gaussian."""
        drawn = student_t_draws(near.gaussian, n, np.random.default_rng(seed))
        points, log_det = near.place(drawn) if near.place else (drawn, np.zeros(n))
        of_itself = student_t_log_density(near.gaussian, drawn) - log_det
        for known, columns in zip(self._near, self._log_t, strict=True):
            columns.append(_log_t(known, points))
        self._points.append(points)
        self._scores.append(score(points))
        self._near.append(near)
        self._log_t.append([*(_log_t(near, block) for block in self._points[:-1]), of_itself])

    def __len__(self) -> int:
        return len(self._near)

    @property
    def log_z(self) -> float:
        """Log evidence by the guide's own draws."""
        own = self._scores[0]
        return float(logsumexp(own.log_p - own.log_q) - np.log(len(own.log_p)))

    def check(self, elsewhere: int = 0) -> WideCheck:
        """What they say of the guide; the first so many Gaussians are where it is thought to be."""
        sizes = [len(block) for block in self._points]
        n, n_guide = sum(sizes), sizes[0]
        share = n_guide / n
        log_p, log_q = (np.concatenate(parts) for parts in zip(*self._scores, strict=True))
        log_p = _no_nan(log_p)  # where a model's distributions have no parameters
        log_q = _no_nan(log_q)  # or a flow overflows
        log_t = [np.log(s / n) + _no_nan(np.concatenate(t)) for s, t in zip(sizes[1:], self._log_t, strict=True)]
        log_mixture = np.logaddexp.reduce([np.log(share) + log_q, *log_t])
        log_mixture = np.where(log_p == -np.inf, 0.0, log_mixture)  # which may be minus infinity there, too
        log_z = logsumexp(log_p - log_mixture) - np.log(n)
        weights = np.exp(log_p - log_mixture - log_z)

        def standard_error(terms: Array) -> float:
            """Of the mean of terms over draws of several kinds, whose numbers are fixed."""
            parts = np.split(terms, np.cumsum(sizes)[:-1])
            return float(np.sqrt(sum(len(part) * part.var() for part in parts)) / n)

        def mean(terms: Array) -> Estimate:
            return Estimate(float(terms.mean()), standard_error(terms))

        own = self._scores[0]
        elbo_terms = np.concatenate([(own.log_p - own.log_q) / share, np.zeros(n - n_guide)])
        missed = weights * (log_p > log_q + log_z + np.log(MISSED))
        found = np.exp(np.array(log_t[elsewhere:]).reshape(-1, n) - log_mixture) * missed
        return WideCheck(
            Estimate(float(log_z - elbo_terms.mean()), standard_error(weights - elbo_terms)),
            standard_error(weights),
            mean(missed),
            mean(found.sum(0)),
            found,
        )


def _no_nan(log_density: Array) -> Array:
    return np.where(np.isnan(log_density), -np.inf, log_density)


def _log_t(near: Near, vectors: Array) -> Array:
    """Log density of a Student-t, as one of latent vectors; no number where the way to coordinates overflows."""
    if near.unplace is None:
        return student_t_log_density(near.gaussian, vectors)
    coordinates, log_det = near.unplace(vectors)
    return student_t_log_density(near.gaussian, coordinates) + log_det


def student_t_draws(around: Gaussian, n: int, rng: np.random.Generator) -> Array:
    """Draws ``(n, dim)`` of the Student-t with this Gaussian's location and scale."""
    normal = rng.standard_normal((n, len(around.mean)))
    return around.draw(normal * np.sqrt(FREEDOM / rng.chisquare(FREEDOM, (n, 1))))


def student_t_log_density(around: Gaussian, u: Array) -> Array:
    """Log density of the same Student-t at vectors ``(n, dim)``."""
    dim, z = len(around.mean), around.standardise(u)
    constant = gammaln((FREEDOM + dim) / 2) - gammaln(FREEDOM / 2) - dim / 2 * np.log(FREEDOM * np.pi)
    log_density = constant - (FREEDOM + dim) / 2 * np.log1p((z**2).sum(1) / FREEDOM) - around.log_det
    return np.asarray(log_density)
