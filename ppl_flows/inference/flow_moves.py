"""Moves of Markov chains in the base space of a flow, where the posterior is a normal distribution times a weight.

A point z has density ``w(z) N(z; 0, I)``; were w constant, the flow would be right, and every rotation of z and a
normal momentum a perfect move. Arrays of any library, rows ``(n, dim)``; log weights in nats.
"""

from __future__ import annotations

from typing import NamedTuple

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array

QUARTER = 1.5707963267948966  # of a turn: the new point is the momentum, so that without kicks it is a draw of the flow
INDEPENDENT = 0.25  # share of draws of the flow among the moves
SHORT, SHORTER = 0.2, 5.0  # share of short ones among the others, and how many times shorter their angle is
TARGET = 0.8  # acceptance that the angle of the others is adapted to
FIRST_ANGLE, LEAST_ANGLE = 1.0, 1e-4


class Moving(NamedTuple):
    """Rows on their way: ``kick`` is half the angle, times the gradient of the log weight, or nothing.

    A move without kicks by a quarter of a turn is independence Metropolis with the flow as its proposal; one with
    kicks is a step of Hamiltonian Monte Carlo whose normal part is solved exactly.

    Attributes:
        z, momentum: after the first kick and the rotation.
        energy: ``(|z|^2 + |momentum|^2) / 2`` before them.
        kick: ``(n, 1)``.
    """

    z: Array
    momentum: Array
    energy: Array
    kick: Array


def set_out(z: Array, gradient: Array, momentum: Array, angle: Array, kick: Array) -> Moving:
    """The first half of a move; ``gradient`` is of the log weight at z, ``angle`` and ``kick`` are ``(n, 1)``."""
    xp = namespace(z)
    kicked = momentum + kick * gradient
    cos, sin = xp.cos(angle), xp.sin(angle)
    return Moving(cos * z + sin * kicked, cos * kicked - sin * z, _energy(z, momentum), kick)


def log_acceptance(moving: Moving, log_weight: Array, new_log_weight: Array, new_gradient: Array) -> Array:
    """Log of the Metropolis ratio, ``(n,)``; nan where the new point has no density."""
    arrived = moving.momentum + moving.kick * new_gradient
    return new_log_weight - log_weight + moving.energy - _energy(moving.z, arrived)


def _energy(z: Array, momentum: Array) -> Array:
    return 0.5 * namespace(z).sum(z**2 + momentum**2, axis=-1)
