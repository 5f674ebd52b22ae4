"""Where the flows of a guide with several modes start, and the weights that they have in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

from ppl_flows.core.types import Params
from ppl_flows.inference.auto_flow import Quality, guide_params
from ppl_flows.inference.gaussian import Gaussian, gaussian_of_draws
from ppl_flows.inference.gaussian_start import Density
from ppl_flows.inference.kl_estimate import Map, student_t_draws, student_t_log_density
from ppl_flows.inference.lbfgs import maximise
from ppl_flows.inference.local_gaussians import Landscape, new_modes, refined, starts
from ppl_flows.inference.warn_user import warn_user

Array = np.ndarray

ROUNDS = (32, 32, 64, 128, 256, 512)  # starts, while new modes turn up
MOST = 64  # modes
NEGLIGIBLE = 2e-4  # share of the posterior, below which one is left out
FAINT = 12.0  # nats below the largest, by which a Gaussian's mass shows that an end is no mode worth a look
DRAWS, MOVED = 500, 4_000  # of each Gaussian: for the shares, and on the way from coordinates to the latent space
VALLEY, STEPS_BETWEEN = 0.1, 12  # nats that the density falls between two modes, along so many steps
ITERATIONS = 200  # of EM
TOGETHER = 0.005  # nats of KL, from which the flows are trained together, too

SIZES = {  # of each flow, and the draws of each
    "quick": Quality(flow_layers=8, steps=500, num_particles=32),
    "standard": Quality(flow_layers=8, steps=1_000, num_particles=32),
    "thorough": Quality(flow_layers=16, steps=4_000, num_particles=32),
}


def check_modes(modes: int | str, start: Any, informed: bool | str) -> None:
    """Raises ValueError for a number of modes that is none, or one that does not go with the other options."""
    if modes != "auto" and (isinstance(modes, bool) or not isinstance(modes, int) or modes < 1):
        raise ValueError(f"modes must be 'auto' or a number of modes, at least 1; got {modes!r}.")
    if modes == 1:
        return
    if isinstance(start, Mapping | Gaussian) or start != "auto":
        raise ValueError(
            f"modes={modes!r} looks for its own starts, one for each mode, and goes with start='auto' alone; got "
            f"start={start!r:.100}."
        )
    if informed is True:
        raise ValueError(
            f"informed=True goes with modes=1: each mode of modes={modes!r} has a flow of the latent vector itself; "
            "leave informed='auto'."
        )


class Mode(NamedTuple):
    """A Gaussian at a mode, and about which share of the posterior it has."""

    gaussian: Gaussian
    share: float


@np.errstate(all="ignore")  # far out, numbers overflow
def find_modes(landscape: Landscape, wish: int | str, seed: int) -> list[Mode]:
    """A Gaussian at each mode that optimisations find, those with the largest shares of the posterior first.

    Starts double while new modes turn up.

    Args:
        wish: "auto", or how many at most.

    Warns:
        UserWarning: there are fewer.
    """
    density, rng = landscape.density, np.random.default_rng(seed)
    place, unplace = landscape.ways or (None, None)
    found: list[Gaussian] = []
    masses: list[float] = []
    for i, n in enumerate(ROUNDS):
        known = np.array([g.mean for g in found]).reshape(-1, landscape.dim)
        scale = np.mean([g.diagonal for g in found], axis=0) if found else np.ones(landscape.dim)
        points, _ = starts(landscape, n, seed + i, place(known)[0] if place and found else known, scale)
        ends, values = maximise(density, unplace(points)[0] if unplace else points)
        new, rows = new_modes(density, ends, values, found, MOST - len(found))
        new_masses = [_log_mass(g, values[row]) for g, row in zip(new, rows, strict=True)]
        highest = max([*masses, *new_masses], default=-np.inf)
        worth = [mass > highest - FAINT for mass in new_masses]
        found += [g for g, kept in zip(new, worth, strict=True) if kept]
        masses += [mass for mass, kept in zip(new_masses, worth, strict=True) if kept]
        if i and not any(worth):
            break
    if not found:
        return []
    distinct: list[Gaussian] = []
    for gaussian in sorted((refined(density, g, rng) for g in found), key=lambda g: -g.elbo):
        if all(_valley_between(density, other.mean, gaussian.mean) for other in distinct):
            distinct.append(gaussian)
    share = _shares(landscape, distinct, rng)
    kept = [Mode(distinct[k], float(share[k])) for k in np.argsort(-share) if share[k] > NEGLIGIBLE]
    if place:
        kept = [Mode(_moved(mode.gaussian, place, rng), mode.share) for mode in kept]
    if wish == "auto":
        return kept
    if len(kept) < int(wish):
        warn_user(f"AutoFlow: modes={wish}, but {len(kept)} were found; the guide has these.")
    return kept[: int(wish)]


def _moved(gaussian: Gaussian, place: Map, rng: np.random.Generator) -> Gaussian:
    """The Gaussian of the latent vectors that are placed from draws of one of coordinates."""
    placed = place(gaussian.draw(rng.standard_normal((MOVED, len(gaussian.mean)))))[0]
    return gaussian_of_draws(placed[np.isfinite(placed).all(-1)])


def _valley_between(density: Density, one: Array, other: Array) -> bool:
    """Whether the log density falls and rises again on the straight way: a neck, or a tail, has none to its mode."""
    way = one + np.linspace(0.0, 1.0, STEPS_BETWEEN + 1)[:, None] * (other - one)
    values = density.value_and_gradient(way)[0]
    return bool(np.min(np.where(np.isfinite(values), values, -np.inf)) < min(values[0], values[-1]) - VALLEY)


def _log_mass(gaussian: Gaussian, log_p: float) -> float:
    """Laplace's approximation."""
    return float(log_p + gaussian.log_det + len(gaussian.mean) / 2 * np.log(2 * np.pi))


def _shares(landscape: Landscape, gaussians: Sequence[Gaussian], rng: np.random.Generator) -> Array:
    """Of the posterior, of each, by importance sampling from all of them, as Student-ts, together."""
    points = np.concatenate([student_t_draws(g, DRAWS, rng) for g in gaussians])
    log_t = np.stack([student_t_log_density(g, points) for g in gaussians], axis=-1)
    log_p = landscape.density.value_and_gradient(points)[0]
    if not np.isfinite(log_p).any():
        return np.zeros(len(gaussians))
    return mixture_weights(np.where(np.isfinite(log_p), log_p, -np.inf), log_t)


def mixture_weights(log_p: Array, log_q: Array) -> Array:
    """Weights of components that bring their mixture nearest to p, in KL(p || mixture): EM on importance weights.

    Args:
        log_p: at draws of the components, as many of each, ``(n,)``.
        log_q: of each component there, ``(n, K)``.
    """
    k = log_q.shape[1]
    importance = softmax(log_p - logsumexp(log_q, axis=1))
    weights = np.full(k, 1 / k)
    for _ in range(ITERATIONS):
        new = importance @ responsibilities(log_q, weights)
        if np.abs(new - weights).max() < 1e-7:
            break
        weights = new
    return np.asarray(np.maximum(weights, 1e-12) / np.maximum(weights, 1e-12).sum())


def responsibilities(log_q: Array, weights: Array) -> Array:
    """Of each component for each draw, ``(n, K)``."""
    return np.asarray(softmax(log_q + np.log(np.maximum(weights, 1e-300)), axis=1))


class Regions(NamedTuple):
    """The part of the posterior that each flow is to cover, while they are trained each by itself.

    The shares ``softmax_k(log share_k + log N_k)`` of the Gaussians that the flows start at, at a vector: without them
    a flow whose neighbour is near would stretch over both.

    Attributes:
        means: ``(K, dim)``.
        whiten: inverse factors, ``(K, dim, dim)``.
        constants: of the log densities, log shares included, ``(K,)``.
    """

    means: Array
    whiten: Array
    constants: Array


def regions(gaussians: Sequence[Gaussian], shares: Sequence[float]) -> Regions:
    factors = [g.triangle() for g in gaussians]
    constants = [np.log(share) - g.log_det for g, share in zip(gaussians, shares, strict=True)]
    return Regions(
        np.stack([g.mean for g in gaussians]),
        np.stack([np.linalg.inv(factor) for factor in factors]),
        np.array(constants),
    )


def mixture_params(bijection: Any, gaussians: Sequence[Gaussian], seed: int) -> Params:
    """Initial parameters of ``guide_bijection(...)`` for each of these, stacked."""
    stacked: Params = _stacked([guide_params(bijection, g, seed, fixed=True) for g in gaussians])
    return stacked


def _stacked(trees: Sequence[Any]) -> Any:
    if isinstance(trees[0], dict):
        return {name: _stacked([tree[name] for tree in trees]) for name in trees[0]}
    return np.stack([np.asarray(tree) for tree in trees])


def one_transform(modes: int) -> ValueError:
    """The error of what wants one transform."""
    return ValueError(
        f"get_transform: the guide has {modes} modes, each with a flow of its own, and no one transform for NeuTra and "
        "others; guide.components gives all, get_posterior their mixture; or use AutoFlow(model, modes=1)."
    )


def own_training(modes: int) -> NotImplementedError:
    """The error of a training that is not ``fit``'s."""
    return NotImplementedError(
        f"a guide with {modes} modes is trained by fit, its flows one by one and then their weights: an ELBO of the "
        "mixture alone would move all of them into one mode. Use fit, or AutoFlow(model, modes=1)."
    )


def own_parameters() -> ValueError:
    """The error of a model that trains."""
    return ValueError(
        "AutoFlow: the model has parameters of its own, and each of several modes would train them to other values; "
        "use modes=1, or give the parameters priors."
    )
