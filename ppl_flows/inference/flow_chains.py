"""Markov chains that a flow drives, many side by side; NumPy, the language supplies the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ppl_flows.inference.flow_moves import (
    FIRST_ANGLE,
    INDEPENDENT,
    LEAST_ANGLE,
    QUARTER,
    SHORT,
    SHORTER,
    TARGET,
    log_acceptance,
    set_out,
)

Array = np.ndarray

RELABELLED = 0.2  # share of the moves of a guide of several flows, after which each chain may be in another of them


def coordinate_names(shapes: Mapping[str, Iterable[int]]) -> tuple[str, ...]:
    """Of the numbers of a latent vector, from the shapes of its sites: ``site``, or ``site[i, j]``."""
    return tuple(
        f"{name}[{', '.join(map(str, index))}]" if index else name
        for name, shape in shapes.items()
        for index in np.ndindex(*shape)
    )


class BaseSpace(Protocol):
    """The base spaces of a guide's flows, one for each mode; most guides have one.

    Attributes:
        coordinates: names of the numbers of the latent vector, ``site`` or ``site[i, j]``.
        shares: of the flows in the guide, ``(flows,)``.
    """

    coordinates: tuple[str, ...]
    shares: Array

    def weigh(self, z: Array, flow: Array) -> tuple[Array, Array]:
        """log of posterior over guide, ``(n,)`` in nats up to the log evidence, and its gradient in z, ``(n, dim)``.

        Args:
            z: points in the base space of the flow of that number, ``(n, dim)``; ``flow`` is ``(n,)``.
        """

    def to_latents(self, z: Array, flow: Array) -> Array:
        """Latent vectors, ``(n, dim)``."""

    def in_all_flows(self, z: Array, flow: Array) -> tuple[Array, Array]:
        """The points of all base spaces that become the same latent vectors, ``(n, flows, dim)``, and the log densities
        of the flows there, their shares in them, ``(n, flows)``."""


class Tilt(NamedTuple):
    """Another target: the posterior, more of it where the guide lacks most.

    The log weight is raised by half of what it is above ``log_evidence`` + 2, by 4 nats at most.
    """

    log_evidence: float

    def __call__(self, log_weight: Array, gradient: Array) -> tuple[Array, Array]:
        above = log_weight - self.log_evidence - 2.0
        slope = 1.0 + 0.5 * ((above > 0) & (above < 8.0))
        return log_weight + 0.5 * np.clip(above, 0.0, 8.0), gradient * slope[:, None]


class Kept(NamedTuple):
    """Draws of chains.

    Attributes:
        z: ``(chains, n, dim)``, and ``flow``, ``(chains, n)``, whose base space they are in.
        log_weights: ``(chains, n)``, before any tilt.
        acceptance: ``(chains, n)``, the probability of each move.
        proposed: log weights of all draws of the guide among the proposals, ``(m,)``.
    """

    z: Array
    flow: Array
    log_weights: Array
    acceptance: Array
    proposed: Array

    def and_then(self, more: Kept) -> Kept:
        """These draws, and those that follow."""
        joined = [np.concatenate(pair, axis=min(pair[0].ndim - 1, 1)) for pair in zip(self, more, strict=True)]
        return Kept(*joined)

    def second_half(self) -> Kept:
        """Without the first half of each chain."""
        half = self.z.shape[1] // 2
        z, flow, log_weights, acceptance = (a[:, half:] for a in self[:4])
        return Kept(z, flow, log_weights, acceptance, self.proposed)


@dataclass
class Chains:
    """Chains where they are.

    Attributes:
        space: that they are in.
        z, flow, log_weight, gradient: of each.
        angle: of the moves, in radians.
        adapted: how often it was changed.
        tilt: of the target.
        gradients: of the log weight that were computed, one with each value.
    """

    space: BaseSpace
    z: Array
    flow: Array
    log_weight: Array
    gradient: Array
    rng: np.random.Generator
    angle: float = FIRST_ANGLE
    adapted: int = 0
    tilt: Tilt | None = None
    gradients: int = 0

    def run(self, n: int, *, adapt: bool = False) -> Kept:
        """So many moves of each chain; ``adapt``: the angle, to an acceptance of ``TARGET``."""
        moves: list[tuple[Array, ...]] = []
        proposed = [np.empty(0)]
        for _ in range(n):
            independent = self.rng.random(len(self.z)) < INDEPENDENT
            short = ~independent & (self.rng.random(len(self.z)) < SHORT)
            angle = np.where(independent, QUARTER, np.where(short, self.angle / SHORTER, self.angle))
            rate, log_weight = self._move(independent, angle)
            full = ~independent & ~short
            if adapt and full.any():
                self.adapted += 1
                moved = self.angle * np.exp((rate[full].mean() - TARGET) / self.adapted**0.5)
                self.angle = float(np.clip(moved, LEAST_ANGLE, QUARTER))
            if len(self.space.shares) > 1 and self.rng.random() < RELABELLED:
                self._change_flows()
            moves.append((self.z, self.flow, self.log_weight, rate))
            proposed.append(log_weight[independent])
        z, flow, weights, rates = (np.stack(of_all, axis=1) for of_all in zip(*moves, strict=True))
        return Kept(z, flow, weights, rates, np.concatenate(proposed))

    def _move(self, independent: Array, angle: Array) -> tuple[Array, Array]:
        """Moves all chains; the probabilities of acceptance, and the log weights where they wanted to go."""
        flow = self.flow
        if len(self.space.shares) > 1:
            drawn = self.rng.choice(len(self.space.shares), len(flow), p=self.space.shares)
            flow = np.where(independent, drawn, flow)
        kick = np.where(independent, 0.0, angle / 2)[:, None]
        now, slope = self._tilted(self.log_weight, self.gradient)
        moving = set_out(self.z, slope, self.rng.standard_normal(self.z.shape), angle[:, None], kick)
        log_weight, gradient = self._weigh(moving.z, flow)
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = log_acceptance(moving, now, *self._tilted(log_weight, gradient))
            rate = np.exp(np.minimum(np.where(np.isnan(ratio), -np.inf, ratio), 0.0))
        taken = self.rng.random(len(rate)) < rate
        self.z = np.where(taken[:, None], moving.z, self.z)
        self.flow = np.where(taken, flow, self.flow)
        self.log_weight = np.where(taken, log_weight, self.log_weight)
        self.gradient = np.where(taken[:, None], gradient, self.gradient)
        return rate, log_weight

    def _change_flows(self) -> None:
        """To the same latent vectors, in the base space of a flow drawn by the density that each has there."""
        points, log_densities = self.space.in_all_flows(self.z, self.flow)
        gumbel = self.rng.gumbel(size=log_densities.shape)
        flow = np.argmax(np.where(np.isfinite(log_densities), log_densities, -np.inf) + gumbel, axis=1)
        changed = flow != self.flow
        self.z = np.where(changed[:, None], points[np.arange(len(flow)), flow], self.z)
        self.flow = flow
        if changed.any():
            self.log_weight, self.gradient = self._weigh(self.z, self.flow)

    def _weigh(self, z: Array, flow: Array) -> tuple[Array, Array]:
        """No density: minus infinity, where a move is refused."""
        self.gradients += len(z)
        log_weight, gradient = self.space.weigh(z, flow)
        fine = np.isfinite(log_weight) & np.isfinite(gradient).all(-1)
        return np.where(fine, log_weight, -np.inf), np.where(fine[:, None], gradient, 0.0)

    def _tilted(self, log_weight: Array, gradient: Array) -> tuple[Array, Array]:
        return (log_weight, gradient) if self.tilt is None else self.tilt(log_weight, gradient)
