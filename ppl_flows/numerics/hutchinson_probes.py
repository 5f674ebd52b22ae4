"""Random numbers for estimators inside pure functions: looked up by a hash of the row and of a step counter.

Numbers that ``observe`` is given would reach training alone, through every container and both hosts' loops; ``inverse``
of a trained flow, and of a file in any library, must be one function all the same. That function is part of the format
of files: another hash, or another table, would change densities that were saved. The price is 1.8 ms in torch and
0.9 ms in JAX at 512 rows of 64, 1 % of a training step of ``ContractiveResidual(64, exact=False)`` by ``inverse`` and
6 % by ``forward`` (one core, medians of CPU seconds).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array

SIZE = 4096  # of the tables; a product of two numbers below it is exact in float32
RESOLUTION = 2.0**14  # rows that agree to its inverse share their numbers: forward and inverse see the same noise
PERIOD = float(SIZE**2)  # of the step counter, exact in float32


def random_probes(x: Array, step: Array) -> tuple[Array, Array]:
    """``(v, u)`` for every row: signs v, ``(*batch, dim)``, and a uniform number u in (0, 1), ``(*batch,)``.

    A function of x and step alone, without gradient. Over the ``PERIOD`` of the step every row meets every v of the
    table with every u (to 12 bits), and the mean of ``v v^T`` over the table is the unit matrix: that the tables are
    finite biases no estimator.

    Args:
        x: rows, ``(*batch, dim)``, dim at most 4,095.
        step: the counter, a float scalar with an integer value.
    """
    xp, dim = namespace(x), x.shape[-1]
    signs, order, codes, shifts, step_codes = (xp.constant(table, x) for table in _tables(dim))
    q = xp.floor(RESOLUTION * xp.clip(xp.stop_gradient(x), -1e30, 1e30))
    digits = xp.concat([_modulo(a) for a in (q, xp.floor(q / SIZE), xp.floor(q / SIZE**2))], axis=-1)
    scattered = order[_index(_modulo(digits[..., None, :] * codes) + shifts)]
    t = xp.floor(xp.stop_gradient(step))
    time = xp.stack([_modulo(t), _modulo(xp.floor(t / SIZE))])
    key = xp.sum(scattered, axis=-1) + xp.sum(_modulo(time * step_codes), axis=-1)
    i, j, fine = (_index(key[..., n]) for n in range(3))
    return signs[i], (order[j] + (order[fine] + 0.5) / SIZE) / SIZE


def first_step(rng: np.random.Generator) -> np.ndarray:
    """Where a layer's counter starts: at random, so that layers which hardly move x have noise of their own."""
    return np.asarray(float(rng.integers(int(PERIOD))))


def next_step(step: Array) -> Array:
    """step + 1, from 0 again after ``PERIOD``."""
    xp = namespace(step)
    return xp.where(step + 1 < PERIOD, step + 1, xp.zeros_like(step))


def check_dim(owner: str, dim: int) -> None:
    """Raises ValueError for more coordinates than the table of signs has columns."""
    if dim >= SIZE:
        raise ValueError(
            f"{owner}(dim={dim}): random probes exist up to dim={SIZE - 1}; split the event, or exact=True."
        )


def _modulo(a: Array) -> Array:
    """a modulo SIZE, a power of two: exact, as dividing by it only moves the exponent."""
    return a - SIZE * namespace(a).floor(a / SIZE)


def _index(a: Array) -> Array:
    """a modulo SIZE as integers; nan, which a diverged x brings, is looked up anywhere."""
    xp, a = namespace(a), _modulo(a)
    return xp.astype(xp.where(a >= 0, a, xp.zeros_like(a)), xp.int32)


@cache
def _tables(dim: int) -> tuple[np.ndarray, ...]:
    """Signs ``(SIZE, dim)``, a random order of ``0, ..., SIZE - 1``, and the numbers of three hashes.

    A hash of digits d is ``sum_j order[a_j d_j + b_j]``, with odd a: the lookup breaks the regularity of data on
    a grid.
    """
    rng = np.random.default_rng(dim)
    # columns of a Hadamard matrix, +-1 and orthogonal, in random order as are its rows
    rows, columns = rng.permutation(SIZE), 1 + rng.permutation(SIZE - 1)[:dim]
    signs = 1.0 - 2.0 * (np.bitwise_count(rows[:, None] & columns) % 2)
    order = rng.permutation(SIZE)
    codes, shifts = 1 + 2 * rng.integers(0, SIZE // 2, (3, 3 * dim)), rng.integers(0, SIZE, (3, 3 * dim))
    step_codes = 1 + 2 * rng.integers(0, SIZE // 2, (3, 2))
    step_codes[0, 1] -= 1  # an odd determinant: the first two hashes take every pair of values over a period
    return tuple(a.astype(np.float32) for a in (signs, order, codes, shifts, step_codes))
