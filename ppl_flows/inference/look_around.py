"""What a trained guide does not reach: near it, by wider draws; and far from it, by looking for other modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.fitted import Fitted, WeightedDraws
from ppl_flows.inference.gaussian import gaussian_of_draws
from ppl_flows.inference.kl_estimate import NOT_LOOKED, Estimate, ModesSeen, Near, WideCheck, WideSample
from ppl_flows.inference.lbfgs import maximise
from ppl_flows.inference.local_gaussians import Landscape, new_modes, refined, starts

Array = np.ndarray

GOOD_MISSED = 0.01  # share of the posterior where the guide has next to no draws
STARTS, EVALUATIONS = 48, 100  # of optimisations, and of each of them at most
MOST = 4  # ends that are looked at closer
WORTH = 2.0  # nats of log p/q above log Z, from which the guide does not explain an end
DRAWS = 250  # around each
UNSURE = 0.05  # standard error of a share


class Seen(NamedTuple):
    """What wide draws say of a guide.

    Attributes:
        kl: by draws around it, or by these and draws at other ends, where that is surer or larger.
        log_z_se: standard error of the log evidence, the smaller of both.
        missed: at least so much of the posterior lies where it has next to no draws.
        modes: what was found far from it.
    """

    kl: Estimate
    log_z_se: float
    missed: float
    modes: ModesSeen


def look_around(
    weighted: WeightedDraws, fitted: Fitted, near: Sequence[Near], landscape: Landscape | None, seed: int
) -> Seen | None:
    """Scores draws around Gaussians near the posterior, or else around the guide, and around what optimisations find.

    None where none can be made or scored.
    """
    if weighted.vectors is None:
        return None
    if not near:
        try:
            near = [Near(gaussian_of_draws(weighted.vectors))]
        except ValueError:  # a number that does not vary, or that is a function of others
            return None
    sample = WideSample(weighted.vectors, weighted.scores)
    try:
        for i, gaussian in enumerate(near):
            sample.add(gaussian, fitted.score, seed + i)
        check = sample.check(elsewhere=len(near))
        seen = Seen(check.kl, check.log_z_se, _at_least(check.missed), NOT_LOOKED)
        return seen if landscape is None else _look_for_modes(seen, check, sample, weighted, fitted, landscape, seed)
    except NotImplementedError:  # a density without an inverse
        return None


@np.errstate(all="ignore")  # far out, numbers overflow
def _look_for_modes(
    seen: Seen,
    check: WideCheck,
    sample: WideSample,
    weighted: WeightedDraws,
    fitted: Fitted,
    landscape: Landscape,
    seed: int,
) -> Seen:
    own = np.asarray(weighted.vectors)
    points, of_prior = starts(landscape, STARTS, seed, own, own.std(0))
    looked = f"from {len(points)} starts" + ("" if of_prior else ", none of them from the prior")
    none = ModesSeen(f"no other mode found {looked}", 0.0, unclear=False)
    # in the guide's coordinates, if it has any: in the latent space of a hierarchy all optimisations end in its necks
    place, unplace = ways = landscape.ways or (None, None)
    ends, values = maximise(landscape.density, unplace(points)[0] if unplace else points, EVALUATIONS)
    ends, values = ends[np.isfinite(values)], values[np.isfinite(values)]
    if not len(ends):
        return seen._replace(modes=none)
    scores = fitted.score(place(ends)[0] if place else ends)
    unexplained = ~(scores.log_p - scores.log_q <= sample.log_z + WORTH) & np.isfinite(scores.log_p)
    found, _ = new_modes(landscape.density, ends[unexplained], values[unexplained], (), MOST)
    if not found:
        return seen._replace(modes=none)
    known = len(sample)
    for i, gaussian in enumerate(found):
        sample.add(Near(gaussian, *ways), fitted.score, seed + 100 + i, DRAWS)
    joint = sample.check(elsewhere=known)
    if joint.elsewhere.mean > GOOD_MISSED >= _at_least(joint.elsewhere) or joint.elsewhere.se > UNSURE:
        # a Gaussian of the curvature may be a bad one of the mode
        rng, shares = np.random.default_rng(seed), joint.found.mean(1)
        worth = [g for g, share in zip(found, shares, strict=True) if share > GOOD_MISSED / MOST]
        found += [refined(landscape.density, gaussian, rng) for gaussian in worth]
        for i, gaussian in enumerate(found[len(shares) :]):
            sample.add(Near(gaussian, *ways), fitted.score, seed + 200 + i, DRAWS)
        joint = sample.check(elsewhere=known)
    kl, log_z_se = seen.kl, min(seen.log_z_se, joint.log_z_se)
    if joint.kl.se < kl.se or joint.kl.mean - 2 * joint.kl.se > kl.mean:  # its draws are those of the first, and more
        kl = joint.kl
    missed, mass = max(seen.missed, _at_least(joint.missed)), joint.elsewhere
    if _at_least(mass) > GOOD_MISSED:
        mode = found[int(np.argmax(joint.found.sum(1)))].mean[None]
        where = _where(place(mode)[0] if place else mode, weighted, fitted)
        words = f"about {mass.mean:.0%} of the posterior is somewhere this guide does not reach: {where}"
        return Seen(kl, log_z_se, missed, ModesSeen(words, _at_least(mass), unclear=False))
    if mass.se > UNSURE:
        words = f"{mass.mean:.0%} ± {mass.se:.0%} of the posterior may be in other modes"
        return Seen(kl, log_z_se, missed, ModesSeen(words, 0.0, unclear=True))
    return Seen(kl, log_z_se, missed, none)


def _at_least(share: Estimate) -> float:
    return share.mean - 2 * share.se


def _where(latent: Array, weighted: WeightedDraws, fitted: Fitted) -> str:
    """The numbers of sites at a vector, ``(1, dim)``, that differ most from the guide's draws, in sds of these."""
    there = fitted.place(latent).draws
    distances: list[tuple[float, str, float]] = []
    for name, value in there.items():
        point, draws = to_numpy(value)[0], to_numpy(weighted.draws[name])
        off = np.abs(point - draws.mean(0)) / np.maximum(draws.std(0), 1e-12)
        at = np.unravel_index(int(np.argmax(off)), off.shape)
        index = f"[{', '.join(map(str, at))}]" if at else ""
        distances.append((float(off[at]), f"{name}{index}", float(point[at])))
    distances.sort(reverse=True)
    return " and ".join(f"{name} near {value:.3g}" for off, name, value in distances[:2] if off >= distances[0][0] / 2)
