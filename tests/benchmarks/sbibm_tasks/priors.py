"""Numbers that the models of both languages share, as sbibm 1.1.0 has them."""

from __future__ import annotations

import math

import numpy as np

TASKS = (
    "two_moons",
    "gaussian_mixture",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "bernoulli_glm",
    "slcp",
    "sir",
    "lotka_volterra",
)
DATA_SHAPES = {
    "two_moons": (2,),
    "gaussian_mixture": (2,),
    "gaussian_linear": (10,),
    "gaussian_linear_uniform": (10,),
    "bernoulli_glm": (10,),
    "slcp": (4, 2),
    "sir": (10,),
    "lotka_volterra": (20,),
}

# two_moons: a crescent of radius RADIUS, give or take, around a centre that the parameters move
RADIUS, RADIUS_SD, OFFSET = 0.1, 0.01, 0.25
SCALE = math.sqrt(0.1)  # of gaussian_linear's prior and both gaussian_linear's noise: the package's 0.1 is a variance
MIXTURE_SCALES = (1.0, 0.1)

# ODEs
POPULATION, TESTS = 1_000_000.0, 1_000
SIR_LOC, SIR_SCALE = (math.log(0.4), math.log(0.125)), (0.5, 0.2)
SIR_TIMES = np.arange(10) * 17.0  # every seventeenth of 161 days
LOTKA_LOC, LOTKA_SCALE = (-0.125, -3.0, -0.125, -3.0), 0.5
LOTKA_TIMES = np.arange(10) * 2.1  # every twenty-first of 201 times, 0.1 apart
LOTKA_START, LOTKA_NOISE = (30.0, 1.0), 0.1
LOTKA_LIMITS = (math.log(1e-10), math.log(10_000.0))
MOST = 20.0  # logarithm of a population, beyond which a trial step of a solver would overflow; none comes near
# of the logarithms that are solved for; over 10,000 draws of the prior both solvers differ by 0.03 at most
TOLERANCE = 1e-5  # relative and absolute, of diffrax
SIR_STEP, LOTKA_STEP = 0.25, 0.021  # of torchdiffeq


def glm_precision() -> np.ndarray:
    """Of the prior of ``bernoulli_glm``: an offset, and nine weights that differ little from their neighbours."""
    m = 9
    D = np.eye(m) - np.eye(m, k=-1)
    F = D @ D + np.diag(np.arange(m) / m) ** 0.5
    precision = np.zeros((m + 1, m + 1))
    precision[0, 0] = 0.5
    precision[1:, 1:] = F.T @ F
    return precision
