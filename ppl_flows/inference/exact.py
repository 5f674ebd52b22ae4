"""Draws of the posterior itself, by chains that start at a guide's draws and move in the base space of its flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from ppl_flows.inference.bridge_evidence import bridge_evidence
from ppl_flows.inference.evidence import Evidence, withheld
from ppl_flows.inference.flow_chains import BaseSpace, Chains, Kept, Tilt
from ppl_flows.numerics.chain_diagnostics import bulk_ess, rank_rhat
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

Array = np.ndarray

PILOTS = 32  # draws of the guide for each chain, of which one is its start
WARM_UP, FEWEST = 40, 64  # moves of each chain: to find the angle, and that are kept
RHAT, TILTED_RHAT = 1.01, 1.1  # at most
TILTED = 100  # moves of each chain towards what the guide lacks
LEAST = PILOTS + 2 * WARM_UP + FEWEST + TILTED  # gradients for each chain, with which all is looked at once
EQUAL = 1e-4  # nats within which log weights are one number: such a guide is the posterior
HEAVY = 2.0  # nats above the log evidence from which chains are tilted
SPACE = "the log weight"  # beside the coordinates


class Checked(NamedTuple):
    """What is known of kept draws.

    Attributes:
        rhat: the largest, of all coordinates and of the log weight; and ``where``.
        ess: the smallest.
        excess: nats by which the largest log weight is above what so many draws should have; and ``lacking``, the
            coordinate that is most unusual there, with its value.
    """

    rhat: float
    where: str
    ess: float
    excess: float
    lacking: str


@dataclass
class ExactRun:
    """Chains until they agree.

    Attributes:
        latents: ``(chains, n, dim)``.
        kept: the same draws, where they were made.
        checked: of these.
        evidence: of the model.
        alarms: what is not right, in sentences; empty: nothing.
        gradients: of the log weight, in all.
    """

    latents: Array
    kept: Kept
    checked: Checked
    evidence: Evidence
    alarms: tuple[str, ...]
    gradients: int


def run_until_exact(
    space: BaseSpace, num_samples: int, *, num_chains: int, max_gradients: int, missed: str, seed: int
) -> ExactRun:
    """Runs chains until R-hat, effective sample size and weights are right, or so many gradients are spent.

    Args:
        max_gradients: at least ``LEAST`` for each chain.
        missed: what the guide is known to lack, where no chain would find it; empty: nothing.

    Raises:
        ValueError: no draw of the guide has a density under the model.
    """
    chains, pilots = start_chains(space, num_chains, np.random.default_rng(seed))
    chains.run(WARM_UP, adapt=True)
    budget = max_gradients - (WARM_UP + TILTED) * num_chains  # for the last look
    affordable = (budget - chains.gradients) // num_chains
    kept, more = None, max(FEWEST, min(affordable, -(-num_samples // num_chains)))
    while True:
        new = chains.run(more)
        kept = new if kept is None else kept.and_then(new)
        proposed = np.concatenate([pilots, kept.proposed])
        latents = _latents(space, kept)
        checked = check(space, latents, kept, log_mean(proposed))
        if checked.rhat < RHAT and checked.ess >= num_samples and checked.excess <= 0:
            break
        more = kept.z.shape[1]
        if chains.gradients + more * num_chains > budget:
            break
        if not checked.rhat < RHAT:
            kept = kept.second_half()
    alarms = _alarms(checked, num_samples, chains.gradients)
    if not alarms and kept.log_weights.max() > log_mean(proposed) + HEAVY:
        alarms = _disagreement(space, chains, log_mean(proposed))
    if missed:
        alarms = (f"chains that start at the guide's draws do not reach what it lacks: {missed}", *alarms)
    evidence = withheld(alarms[0]) if alarms else bridge_evidence(proposed, kept.log_weights)
    return ExactRun(latents, kept, checked, evidence, alarms, chains.gradients)


def start_chains(space: BaseSpace, num_chains: int, rng: np.random.Generator) -> tuple[Chains, Array]:
    """Chains at different draws of the guide, taken by their smoothed weights; and the log weights of all draws."""
    n = PILOTS * num_chains
    flow = rng.choice(len(space.shares), n, p=space.shares)
    z = rng.standard_normal((n, len(space.coordinates)))
    log_weights, gradients = space.weigh(z, flow)
    log_weights = np.where(np.isfinite(gradients).all(-1) & np.isfinite(log_weights), log_weights, -np.inf)
    possible = np.count_nonzero(np.isfinite(log_weights))
    if possible < num_chains:
        raise ValueError(
            f"exact: {possible} of {n} draws of the guide are possible under the model, and each of {num_chains} "
            "chains has to start at one; train the guide longer, or another."
        )
    weights = softmax(smoothed_log_weights(log_weights)[0])
    first = rng.choice(n, num_chains, replace=bool(np.count_nonzero(weights) < num_chains), p=weights)
    chains = Chains(space, z[first], flow[first], log_weights[first], gradients[first], rng, gradients=n)
    return chains, log_weights


def check(space: BaseSpace, latents: Array, kept: Kept, log_evidence: float) -> Checked:
    """R-hat, effective sample size and the largest weight."""
    every, names = latents, space.coordinates
    if np.ptp(kept.log_weights) > EQUAL:
        every, names = np.concatenate([latents, kept.log_weights[..., None]], axis=-1), (*names, SPACE)
    rhat, ess = rank_rhat(every), bulk_ess(every)
    worst = int(np.argmax(np.where(np.isnan(rhat), np.inf, rhat)))
    excess = kept.log_weights.max() - log_evidence - np.log(kept.log_weights.size)
    rows = latents.reshape(-1, latents.shape[-1])
    heaviest = rows[np.argmax(kept.log_weights)]
    spread = rows.std(0)
    unusual = int(np.argmax(np.abs(heaviest - rows.mean(0)) / np.where(spread > 0, spread, np.inf)))
    # chains that all stand still have no R-hat
    return Checked(
        float(rhat[worst]) if np.isfinite(rhat[worst]) else np.inf,
        names[worst],
        float(np.min(np.where(np.isnan(ess), 0.0, ess))),
        float(excess),
        f"{names[unusual]} near {heaviest[unusual]:.3g} on the unconstrained scale",
    )


def log_mean(log_weights: Array) -> float:
    """Log evidence by smoothed importance sampling."""
    smoothed = smoothed_log_weights(log_weights)[0]
    return float(np.logaddexp.reduce(smoothed) - np.log(len(smoothed)))


def _latents(space: BaseSpace, kept: Kept) -> Array:
    rows = space.to_latents(kept.z.reshape(-1, kept.z.shape[-1]), kept.flow.ravel())
    return rows.reshape(kept.z.shape)


def _alarms(checked: Checked, num_samples: int, gradients: int) -> tuple[str, ...]:
    found = []
    if not checked.rhat < RHAT:
        found.append(f"the chains do not agree: R-hat of {checked.where} is {checked.rhat:.3f}, above {RHAT}")
    if checked.excess > 0:
        found.append(
            "the posterior has a part that the guide lacks and the chains have hardly seen: a draw has "
            f"{checked.excess:.1f} nats more weight than so many should have, at {checked.lacking}"
        )
    if checked.ess < num_samples and not found:
        found.append(f"the effective sample size is {checked.ess:.0f} of {num_samples} after {gradients:,} gradients")
    return tuple(found)


def _disagreement(space: BaseSpace, chains: Chains, log_evidence: float) -> tuple[str, ...]:
    """Chains that go on with more weight where the guide lacks most: they disagree if there is more to find."""
    chains.tilt = Tilt(log_evidence)
    chains.run(WARM_UP, adapt=True)
    kept = chains.run(TILTED)
    chains.tilt = None
    checked = check(space, _latents(space, kept), kept, log_evidence)
    if checked.rhat < TILTED_RHAT:
        return ()
    return (
        "the posterior has a part that the guide lacks: chains that are drawn there do not agree, R-hat of "
        f"{checked.where} is {checked.rhat:.2f}",
    )
