"""Where an informed guide starts: its pseudo-observations, and a Gaussian in its coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ppl_flows.inference.gaussian import Gaussian, elbo_of
from ppl_flows.inference.gaussian_start import (
    CHECK_DRAWS,
    MATCHED_DIM,
    Density,
    correlated,
    laplace,
    match_diagonal,
    mean_field,
    with_elbos,
)
from ppl_flows.inference.low_rank import stretched
from ppl_flows.inference.model_map import ModelMap, Observations
from ppl_flows.inference.site_priors import Independent, Prior, Pseudo

Array = np.ndarray

LEAST, MOST = 1e-3, 1e6  # precision of a pseudo-observation, in units of the prior's
FAINT = 1e-9  # one that can train, and says nothing
ROUNDS = 2
WORTH = 1.0  # nats that covariances must gain in more than MATCHED_DIM dimensions
SLACK = 0.01  # nats that a round may cost, if the start before lacks as many
DRAWS = 512  # that show how the likelihood's gradient changes along a chain


class Coordinates(Protocol):
    """The coordinates of an informed guide, of a language."""

    informed: ModelMap

    def of(self, informed: ModelMap) -> Coordinates:
        """Those of another map of the model."""

    def density(self, seen: Observations) -> Density:
        """The model's log density as one of the coordinates."""

    def to_latents(self, seen: Observations, w: Array) -> Array:
        """Latent vectors of coordinates, ``(n, dim)``."""

    def to_coordinates(self, seen: Observations, u: Array) -> Array:
        """The way back."""

    def priors(self, u: Array) -> Mapping[str, Prior]:
        """Those of the placed sites at latent vectors."""

    def curvature(self, u: Array) -> tuple[Array, Array]:
        """Of the map's block at latent vectors, as of ``ModelWalk``."""


def informed_start(
    kind: str, coordinates: Coordinates, density: Density, init: Array, seed: int
) -> tuple[Gaussian, Observations]:
    """A Gaussian in the coordinates, and the pseudo-observations that these have.

    A mean-field Gaussian in the non-centred form shows how much the likelihood says of each coordinate.
    """
    rng, seen = np.random.default_rng(seed), coordinates.informed.no_observations()
    noise = rng.standard_normal((CHECK_DRAWS, len(init)))
    placed = np.zeros(len(init), dtype=bool)
    for site in coordinates.informed.sites:
        placed[site.at] = site.pseudo is not None
    best = mean_field(coordinates.density(seen), coordinates.to_coordinates(seen, init[None])[0], seed)
    informed = coordinates.density(seen)
    for _ in range(ROUNDS):
        now = observe(coordinates, density, best, seen, rng)
        mean = coordinates.to_coordinates(now, coordinates.to_latents(seen, best.mean[None]))[0]
        start = Gaussian(mean, np.where(placed, 1.0, best.factor))
        found = [start, match_diagonal(coordinates.density(now), start, rng)]
        found = with_elbos(coordinates.density(now), found, noise)
        if (moved := max(found, key=elbo_of)).elbo > best.elbo - min(SLACK, best.kl):
            best, seen, informed = moved, now, coordinates.density(now)
    if not seen.precision.any():  # then they would not train, as they are on the log scale
        seen = observe(coordinates, density, best, seen, rng, most=FAINT)
    if kind == "mean_field":
        return best, seen
    if kind == "low_rank":
        return stretched(informed, best, rng), seen
    if kind == "laplace":
        return with_elbos(informed, [laplace(informed, best.mean, seed)], noise)[0], seen
    full = correlated(informed, best, rng)
    # where priors leave coordinates nearly independent, covariances of many train more slowly than they help
    return best if len(init) > MATCHED_DIM and full.elbo < best.elbo + WORTH else full, seen


def observe(
    coordinates: Coordinates,
    density: Density,
    fit: Gaussian,
    seen: Observations,
    rng: np.random.Generator,
    most: float = MOST,
) -> Observations:
    """What pseudo-observations a mean-field Gaussian in the coordinates with others, ``seen``, stands for.

    Where coordinates are independent given the sites before, its precision is that of the prior and the likelihood
    together. Along chains, and in multivariate normals, the likelihood's gradient is regressed on the latent vector,
    over draws.
    """
    u = coordinates.to_latents(seen, fit.mean[None])
    at, made = coordinates.priors(u), [np.array(a) for a in seen]
    placed = [site for site in coordinates.informed.sites if site.pseudo is not None]
    if not all(isinstance(at[site.name], Independent) for site in placed):
        draws = coordinates.to_latents(seen, fit.draw(rng.standard_normal((DRAWS, len(fit.mean)))))
        gradients, priors = density.value_and_gradient(draws)[1], coordinates.priors(draws)
        fine = np.isfinite(gradients).all(axis=1)
    for site in placed:
        prior = at[site.name]
        if isinstance(prior, Independent):
            pseudo = Pseudo(*(a[site.pseudo_at].reshape(site.numbers) for a in seen[:2]))
            loc, scale = (a[0] for a in prior)
            mean, log_slope = Independent(loc, scale).place(fit.mean[site.at].reshape(site.numbers), pseudo)
            sd = np.exp(log_slope) * fit.factor[site.at].reshape(site.numbers)
            ratio = np.clip((scale / sd) ** 2 - 1, min(LEAST, most), most)
            found = _observations(ratio, mean + (mean - loc) / ratio * (ratio > LEAST), scale)
        else:
            v, g = (a[fine][:, site.at].reshape(-1, *site.numbers) for a in (draws, gradients))
            found = _regression(type(prior)(*(a[fine] for a in priors[site.name])), v, g, most)
        for array, part in zip(made[:3], found, strict=True):
            array[site.pseudo_at] = np.ravel(part)
    return Observations(*made)


def _regression(prior: Prior, v: Array, gradient: Array, most: float) -> tuple[Array, Array, Array]:
    likelihood = gradient + prior.pull(v)
    off = v - v.mean(0)
    slope = -(off * (likelihood - likelihood.mean(0))).mean(0) / np.maximum((off**2).mean(0), 1e-300)
    scale = prior.spread.mean(0)
    ratio = np.clip(slope * scale**2, min(LEAST, most), most)
    value = v.mean(0) + likelihood.mean(0) * scale**2 / ratio
    return _observations(ratio, np.where(ratio > LEAST, value, v.mean(0)), scale)


def _observations(ratio: Array, value: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Of precisions in units of the prior's."""
    unit = scale * np.sqrt(1 + ratio) / np.maximum(ratio, 0.1)  # about what moves the site by a standard deviation
    return ratio / scale**2, value, unit
