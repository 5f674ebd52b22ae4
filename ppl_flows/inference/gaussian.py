"""Normal distributions near a posterior, in NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

Array = np.ndarray


class Stretch(NamedTuple):
    """Scales ``(rank,)`` along orthonormal directions, the columns of ``(dim, rank)``; a symmetric map."""

    directions: Array
    scales: Array

    def __call__(self, u: Array) -> Array:
        return np.asarray(u + (u @ self.directions * (self.scales - 1)) @ self.directions.T)

    def inverse(self, u: Array) -> Array:
        return Stretch(self.directions, 1 / self.scales)(u)


@dataclass(frozen=True)
class Gaussian:
    """The normal distribution of ``mean + factor @ u``, u standard normal; factor lower triangular, or its diagonal.

    A diagonal one may have, before it, a stretch of u along some orthogonal directions: a low rank plus diagonal.

    ``elbo`` is that of the density it was found for; ``kl``, log evidence by its weights minus that, is about its KL to
    the posterior, or less; both in nats, of a few draws.
    """

    mean: Array
    factor: Array
    elbo: float = -np.inf
    kl: float = np.nan
    stretch: Stretch | None = None

    @property
    def diagonal(self) -> Array:
        return self.factor if self.factor.ndim == 1 else np.diag(self.factor)

    @property
    def log_det(self) -> float:
        stretch = 0.0 if self.stretch is None else np.log(self.stretch.scales).sum()
        return float(np.log(self.diagonal).sum() + stretch)

    def triangle(self) -> Array:
        """The factor as a lower triangular matrix."""
        if self.factor.ndim == 2:
            return self.factor
        if self.stretch is None:
            return np.diag(self.factor)
        rows = self.factor[:, None] * self.stretch(np.eye(len(self.mean)))
        return np.asarray(np.linalg.cholesky(rows @ rows.T))

    def draw(self, u: Array) -> Array:
        """Vectors ``(n, dim)`` of standard normal ones."""
        if self.stretch is not None:
            u = self.stretch(u)
        return np.asarray(self.mean + (u * self.factor if self.factor.ndim == 1 else u @ self.factor.T))

    def standardise(self, z: Array) -> Array:
        """The way back."""
        off = z - self.mean
        if self.factor.ndim == 2:
            return np.asarray(solve_triangular(self.factor, off.T, lower=True, check_finite=False).T)
        return off / self.factor if self.stretch is None else self.stretch.inverse(off / self.factor)

    def pull_back(self, gradient: Array) -> Array:
        """The gradient ``(dim,)`` of a function of a vector, as one of the standard normal vector."""
        if self.factor.ndim == 2:
            return np.asarray(gradient @ self.factor)
        pulled = gradient * self.factor
        return pulled if self.stretch is None else self.stretch(pulled)

    def entropy(self) -> float:
        return self.log_det + 0.5 * len(self.mean) * float(1 + np.log(2 * np.pi))


def elbo_of(gaussian: Gaussian) -> float:
    return gaussian.elbo


def gaussian_of_draws(z: Array) -> Gaussian:
    """Mean and covariance of draws, ``(n, dim)``; only the variances where there are not twice as many draws as dims.

    Raises:
        ValueError: fewer than 2 draws, draws outside of a support, or a coordinate that does not vary.
    """
    if not np.all(np.isfinite(z)):
        raise ValueError("the draws to start from must lie inside the supports of their sites, and some do not.")
    if len(z) < 2 or not np.all(z.std(0) > 0):
        raise ValueError("the draws to start from must be at least 2, and differ in every coordinate.")
    if len(z) < 2 * z.shape[1]:
        return Gaussian(z.mean(0), z.std(0))
    scale = z.std(0)
    return Gaussian(z.mean(0), scale[:, None] * np.linalg.cholesky(np.cov((z / scale).T).reshape(z.shape[1], -1)))
