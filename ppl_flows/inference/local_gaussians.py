"""Modes of a log density, and a Gaussian at each: what looking for missed modes and covering them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ppl_flows.inference.gaussian import Gaussian, elbo_of
from ppl_flows.inference.gaussian_start import (
    CHECK_DRAWS,
    FULL_RANK_DIM,
    RADIUS,
    Density,
    batch_and_match,
    match_diagonal,
    with_curvature,
    with_elbos,
)
from ppl_flows.inference.kl_estimate import Map

Array = np.ndarray

FIRST_SCALE = 0.1  # in which curvatures are looked at first
ROUNDS = 30  # of its refinement
FAR = 10.0  # standard deviations
CLOSE = 2.0  # standard deviations within which two ends are of one mode


class Landscape(Protocol):
    """The log density of a model's latent vector, of a language, and where one may start on it."""

    @property
    def density(self) -> Density:
        """Of the latent vector, or of coordinates of it."""

    @property
    def ways(self) -> tuple[Map, Map] | None:
        """From these coordinates to latent vectors, and back; None: they are the same."""

    @property
    def dim(self) -> int: ...

    def starts(self, n: int) -> int:
        """How many optimisations are affordable, at most so many."""

    def prior_draws(self, n: int, seed: int) -> Array | None:
        """Latent vectors, ``(n, dim)``; None where the model's prior cannot be drawn from."""


def starts(landscape: Landscape, n: int, seed: int, around: Array, scale: Array) -> tuple[Array, bool]:
    """Some uniform, as the hosts' initial points, some draws of the prior, and half of all displaced from points.

    They are displaced by differences of two draws of the prior: a mode beyond those that are known, as seen from where
    the prior is, has hardly a draw of the prior near it. Where the prior cannot be drawn from, by ``FAR`` times a scale
    instead.

    Args:
        n: about how many, at most.
        around: ``(m, dim)``; none: the prior has their part.
        scale: of displacements without a prior, ``(dim,)``.

    Returns:
        Points, ``(at most n, dim)``, and whether draws of the prior are among them.
    """
    rng = np.random.default_rng(seed)
    n = landscape.starts(n)
    displaced = n // 2 if len(around) else 0
    uniform = rng.uniform(-RADIUS, RADIUS, (max(1, n // 6), landscape.dim))
    prior = landscape.prior_draws(n - len(uniform) - displaced, seed)
    if prior is not None:
        prior = prior[np.isfinite(prior).all(-1)]
    if prior is None or not len(prior):
        parts, ways = [uniform], FAR * scale * rng.standard_normal((displaced, landscape.dim))
    else:
        one, other = rng.integers(len(prior), size=(2, displaced))
        parts, ways = [prior, uniform], prior[one] - prior[other]
    if displaced:
        parts.append(around[rng.integers(len(around), size=displaced)] + ways)
    return np.concatenate(parts), len(parts) > 1 + bool(displaced)


def gaussian_at(density: Density, point: Array) -> Gaussian:
    """Of the curvature at a mode: from a first guess, then by differences over parts of the scales it gave.

    Of the diagonal alone in more than ``FULL_RANK_DIM`` dimensions.
    """
    found = with_curvature(density, Gaussian(point, np.full(len(point), FIRST_SCALE)))
    found = with_curvature(density, Gaussian(point, found.diagonal))
    return found if len(point) <= FULL_RANK_DIM else Gaussian(point, found.diagonal)


def refined(density: Density, gaussian: Gaussian, rng: np.random.Generator) -> Gaussian:
    """The better of a Gaussian and what matching of scores makes of it, with its ELBO."""
    match = match_diagonal if gaussian.factor.ndim == 1 else batch_and_match
    found = [gaussian, match(density, gaussian, rng, ROUNDS)]
    return max(with_elbos(density, found, rng.standard_normal((CHECK_DRAWS, len(gaussian.mean)))), key=elbo_of)


def new_modes(
    density: Density, ends: Array, values: Array, known: Sequence[Gaussian], limit: int
) -> tuple[list[Gaussian], list[int]]:
    """Gaussians at the ends of optimisations, the highest first, that are at none of the known ones, nor of each other.

    Returns:
        At most so many, and the row of each.
    """
    found: list[Gaussian] = []
    rows: list[int] = []
    for i in np.argsort(-values, kind="stable"):
        if not np.isfinite(values[i]) or len(found) == limit:
            break
        if all(distance(g, ends[i]) > CLOSE for g in (*known, *found)):
            found.append(gaussian_at(density, ends[i]))
            rows.append(int(i))
    return found, rows


def distance(gaussian: Gaussian, point: Array) -> float:
    """Of a point from the mean, in standard deviations (Mahalanobis)."""
    return float(np.linalg.norm(gaussian.standardise(point[None])))
