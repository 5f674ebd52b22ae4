"""A Gaussian of low rank plus diagonal, for posteriors with too many dimensions for all covariances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigh_tridiagonal

from ppl_flows.inference.gaussian import Gaussian, Stretch, elbo_of
from ppl_flows.inference.gaussian_start import (
    CHECK_DRAWS,
    FLAT,
    STEP,
    Array,
    Density,
    antithetic,
    centred,
    full_rank,
    laplace,
    mean_field,
    with_elbos,
)

RANK = 32  # directions
PROBES = 4  # that show what the curvature is in all other directions


def find_gaussian(kind: str, density: Density, init: Array, seed: int) -> Gaussian:
    """What the function called ``kind`` finds: ``full_rank``, ``low_rank``, ``mean_field`` or ``laplace``."""
    find = {"full_rank": full_rank, "low_rank": low_rank, "mean_field": mean_field, "laplace": laplace}
    return find[kind](density, init, seed)


def low_rank(density: Density, init: Array, seed: int = 0) -> Gaussian:
    """A Gaussian with independent coordinates, stretched along 32 directions, from that of ``mean_field``.

    Raises:
        NowhereFiniteError: the log density is finite at no initial point.
    """
    return stretched(density, mean_field(density, init, seed), np.random.default_rng(seed))


def stretched(density: Density, around: Gaussian, rng: np.random.Generator) -> Gaussian:
    """The best of a Gaussian with independent coordinates, the same where its ELBO is largest, and that with the
    curvature that the density has, in the mean over its draws, in a subspace. None of it takes ``dim`` gradients.

    Lanczos' iteration finds the subspace, the steepest directions first, and the flattest.

    Reference: Golub & Van Loan (2013), Matrix Computations, section 10.1.
    """
    dim = len(around.mean)
    noise = antithetic(rng, dim)
    found = [around, centred(density, around, noise)]
    curved = with_curvature_in_a_subspace(density, found[-1], noise, rng)
    if curved is not None:
        found += [curved, centred(density, curved, noise)]
    return max(with_elbos(density, found, rng.standard_normal((CHECK_DRAWS, dim))), key=elbo_of)


def with_curvature_in_a_subspace(
    density: Density, around: Gaussian, noise: Array, rng: np.random.Generator
) -> Gaussian | None:
    """The same mean; None where a gradient is not finite."""

    def curvature(w: Array) -> Array:
        """Mean of minus the Hessian times w, by differences of gradients, where ``around`` is standard normal."""
        ends = np.concatenate([noise + STEP * w, noise - STEP * w])
        ahead, behind = np.split(density.value_and_gradient(around.draw(ends))[1] * around.factor, 2)
        return np.asarray((behind - ahead).mean(0) / (2 * STEP))

    found = lanczos(curvature, len(around.mean), min(RANK, len(around.mean)), rng)
    if found is None:
        return None
    precisions, directions = found
    others = rng.standard_normal((PROBES, len(around.mean)))
    others = others - others @ directions @ directions.T
    rest = np.mean([w @ curvature(w) / (w @ w) for w in others])  # of all other directions
    floor = FLAT * np.max(np.abs(precisions))
    scales, scale = (1 / np.sqrt(np.maximum(np.abs(a), floor)) for a in (precisions, rest))
    return Gaussian(around.mean, around.factor * scale, stretch=Stretch(directions, scales / scale))


def lanczos(
    times: Callable[[Array], Array], dim: int, rank: int, rng: np.random.Generator
) -> tuple[Array, Array] | None:
    """Eigenvalues, ``(rank,)``, and vectors, ``(dim, rank)``, of a symmetric matrix in the subspace that its powers
    make of a random vector.

    Args:
        times: the matrix times a vector.

    Returns:
        None where a product is not finite.
    """
    start = rng.standard_normal(dim)
    basis, diagonal, beside = [start / np.linalg.norm(start)], [], []
    while True:
        product = times(basis[-1])
        if not np.all(np.isfinite(product)):
            return None
        diagonal.append(product @ basis[-1])
        span = np.stack(basis)
        for _ in range(2):  # once would not be enough for orthogonal vectors
            product = product - (product @ span.T) @ span
        if len(basis) == rank:
            break
        norm = float(np.linalg.norm(product))
        if norm < FLAT * abs(diagonal[0]):  # the subspace is whole: on in another
            other = rng.standard_normal(len(product))
            product, norm = other - (other @ span.T) @ span, 0.0
        beside.append(norm)
        basis.append(product / np.linalg.norm(product))
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
    return values, span.T @ vectors


def reflections(directions: Array) -> Array:
    """Vectors of Householder's reflections, ``(rank, dim)`` as of ``pf.Householder``, that turn the first axes into
    these directions, each up to its sign."""
    rows, vectors = np.array(directions.T), []
    for i in range(len(rows)):
        v = np.zeros(rows.shape[1])
        v[i:] = rows[i, i:]
        v[i] += np.copysign(np.linalg.norm(v), v[i])
        v /= np.linalg.norm(v)
        rows -= 2 * np.outer(rows @ v, v)
        vectors.append(v)
    return np.stack(vectors[::-1])
