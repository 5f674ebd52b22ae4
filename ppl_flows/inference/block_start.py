"""A block that a model's log density places: which one, and where a guide with it starts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppl_flows.inference.gaussian import Gaussian, elbo_of
from ppl_flows.inference.gaussian_start import CHECK_DRAWS, batch_and_match, match_diagonal, with_elbos
from ppl_flows.inference.informed_start import Coordinates
from ppl_flows.inference.model_map import LatentSite, ModelMap, Observations

Array = np.ndarray

LARGEST = 64  # numbers of a block: their second derivatives are as many gradients, in every step
POINTS, WIDE = 64, 3.0  # draws that the curvature is looked at, as many again so much wider
MARGIN = 1e-6  # least eigenvalue of a precision, of unit diagonal


class BlockStart(NamedTuple):
    """A Gaussian in the coordinates of a map with a block, and what the map starts from."""

    gaussian: Gaussian
    observations: Observations
    informed: ModelMap


def block_start(
    coordinates: Coordinates, found: Gaussian, seen: Observations, seed: int, *, gain: float
) -> BlockStart | None:
    """From a Gaussian in the coordinates of a map without a block; None where no block can be placed, or none need be.

    It need not where its precision hardly varies with the rest, as then a Gaussian has it: one with a fixed covariance
    loses ``(log |E P| - E log |P|) / 2`` nats.

    Args:
        gain: nats that are worth it.
    """
    rng, dim = np.random.default_rng(seed), len(found.mean)
    noise = rng.standard_normal((POINTS, dim))
    draws = np.concatenate([found.draw(noise), found.draw(WIDE * noise)])
    u, mean = np.array(coordinates.to_latents(seen, draws)), coordinates.to_latents(seen, found.mean[None])[0]
    chosen, fine = _candidates(coordinates, mean, rng), False
    while not fine:  # without the sites of which the log density is not concave
        if sum(site.size for site in chosen) < 2:
            return None
        other = coordinates.of(coordinates.informed.with_block([site.name for site in chosen]))
        at = other.informed.block_at
        u[:, at] = mean[at]
        precision = other.curvature(u)[1]
        left = [site for site in chosen if _is_definite(_of(precision, at, site))]
        fine = _is_definite(precision)
        if len(left) == len(chosen) and not fine:
            return None
        chosen = left
    usual = precision[:POINTS]
    if np.linalg.slogdet(usual.mean(0))[1] - np.linalg.slogdet(usual)[1].mean() < 2 * gain:
        return None
    now = _without(seen, coordinates.informed, other.informed)._replace(reference=mean[at])
    start, density = _standard_on(found, at), other.density(now)
    refine = match_diagonal if found.factor.ndim == 1 else batch_and_match
    tried = with_elbos(density, [start, refine(density, start, rng)], rng.standard_normal((CHECK_DRAWS, dim)))
    best = max(tried, key=elbo_of)
    return BlockStart(with_elbos(density, [best], rng.standard_normal((CHECK_DRAWS, dim)))[0], now, other.informed)


def _candidates(coordinates: Coordinates, mean: Array, rng: np.random.Generator) -> list[LatentSite]:
    """Real sites of not too many numbers, the largest first, on which no prior depends that places another one."""
    sites = coordinates.informed.sites
    real = [site for site in sites if site.kind == "real" and site.size <= LARGEST]
    moved = np.repeat(mean[None], 1 + len(real), axis=0)
    for row, site in zip(moved[1:], real, strict=True):
        row[site.at] += rng.uniform(0.5, 1, site.size)
    priors = coordinates.priors(moved) if any(site.pseudo is not None for site in sites) else {}
    free, size = [], 0
    for i, site in sorted(enumerate(real, 1), key=lambda pair: -pair[1].size):
        others = [priors[s.name] for s in sites if s.pseudo is not None and s.name != site.name]
        if size + site.size <= LARGEST and all(np.array_equal(a[0], a[i]) for prior in others for a in prior):
            free.append(site)
            size += site.size
    return free


def _is_definite(precision: Array) -> bool:
    """Whether all matrices, scaled to a unit diagonal, are positive definite by a margin."""
    diagonal = np.diagonal(precision, axis1=-2, axis2=-1)
    if not (np.all(np.isfinite(precision)) and np.all(diagonal > 0)):
        return False
    scale = 1 / np.sqrt(diagonal)
    return bool(np.linalg.eigvalsh(precision * scale[..., None] * scale[..., None, :]).min() > MARGIN)


def _of(precision: Array, at: Array, site: LatentSite) -> Array:
    """The part of one site."""
    own = np.isin(at, np.arange(site.first, site.first + site.size))
    return precision[:, own][:, :, own]


def _without(seen: Observations, old: ModelMap, new: ModelMap) -> Observations:
    """Those of the sites that the priors still place."""
    kept = [a.pseudo_at for a, b in zip(old.sites, new.sites, strict=True) if b.pseudo is not None]
    precision, value, unit = (np.concatenate([np.zeros(0), *(array[at] for at in kept)]) for array in seen[:3])
    return Observations(precision, value, unit, seen.reference)


def _standard_on(found: Gaussian, at: Array) -> Gaussian:
    """The same Gaussian of the others, and independent of them a standard normal one of these numbers."""
    mean, factor = found.mean.copy(), found.factor.copy()
    mean[at] = 0
    if factor.ndim == 1:
        factor[at] = 1
        return Gaussian(mean, factor)
    covariance = factor @ factor.T
    covariance[at], covariance[:, at] = 0, 0
    covariance[at, at] = 1
    return Gaussian(mean, np.linalg.cholesky(covariance))
