"""Draws and density of a flow agree on every support, by the hosts' own chi-squared tests.

The probabilities of the cells are integrals of the density over the unit cube, by maps onto the supports written here
once more. The hosts' ``auto_goodness_of_fit`` has no place here: it takes the density as constant between nearest
neighbours, and rejects their own Dirichlet(0.4).
"""

from typing import NamedTuple

import jax
import numpy as np
import numpyro.distributions
import pyro.distributions
import pytest
import torch
from cases import perturbed
from numpyro.distributions import gof as numpyro_gof
from pyro.distributions.testing import gof as pyro_gof

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro

DRAWS, SUB_CELLS = 40_000, {2: 24, 3: 10}
CELLS = {2: 8, 3: 5}  # along each axis of the cube
FEWEST = 10  # expected draws in a cell; those with fewer go to the first
FAILURE_RATE = 1e-4  # of a test; draws are seeded


class Host(NamedTuple):
    """A language as this test needs it: NumPy in, NumPy out."""

    dist: object
    flow: type
    p_value: object  # (probabilities of cells, counts)

    def sample(self, distribution, n):
        torch.manual_seed(0)
        if self.dist is pyro.distributions:
            return distribution.sample((n,)).detach().numpy()
        return np.asarray(distribution.sample(jax.random.key(0), (n,)))

    def density(self, distribution, y):
        if self.dist is pyro.distributions:
            return distribution.log_prob(torch.tensor(y)).exp().detach().numpy()
        return np.exp(np.asarray(jax.jit(distribution.log_prob)(y)))

    def array(self, values):
        return torch.tensor(values) if self.dist is pyro.distributions else np.array(values)


def pyro_p_value(probabilities, counts):
    return pyro_gof.multinomial_goodness_of_fit(torch.tensor(probabilities), torch.tensor(counts))


HOSTS = {
    "pyro": Host(pyro.distributions, ppl_flows.pyro.Flow, pyro_p_value),
    "numpyro": Host(numpyro.distributions, ppl_flows.numpyro.Flow, numpyro_gof.multinomial_goodness_of_fit),
}


class Cube(NamedTuple):
    """A support as the image of the open unit cube."""

    support: object  # of a module of constraints: what ``Flow`` takes
    dim: int
    onto: object  # t (n, dim): y, and the volume of y's free coordinates per volume of t
    back: object  # y: t


def _real(t):
    return np.log(t / (1 - t)), 1 / (t * (1 - t))


def _logistic(x):
    return 1 / (1 + np.exp(-x))


def real(t):
    y, slope = _real(t)
    return y, slope.prod(-1)


def simplex(t):
    a, b = t.T
    return np.stack([a, (1 - a) * b, (1 - a) * (1 - b)], -1), 1 - a


def mixed(t):
    a, b, c = t.T
    y, slope = _real(a)
    return np.stack([y, b / (1 - b), 1 + 2 * c], -1), slope / (1 - b) ** 2 * 2


def ordered(t):
    first, slope = _real(t[:, 0])
    step = t[:, 1] / (1 - t[:, 1])
    return np.stack([first, first + step], -1), slope / (1 - t[:, 1]) ** 2


def corr_cholesky(t):
    u, slope = _real(t)
    partial = np.tanh(u)
    a, b, c = partial.T
    root = np.sqrt(1 - b**2)
    zero = np.zeros_like(a)
    rows = [[zero + 1, zero, zero], [a, np.sqrt(1 - a**2), zero], [b, c * root, root * np.sqrt(1 - c**2)]]
    return np.moveaxis(np.array(rows), -1, 0), (slope * (1 - partial**2)).prod(-1) * root


CUBES = {
    "real": Cube(lambda c: None, 2, real, _logistic),
    "unit interval": Cube(lambda c: c.unit_interval, 2, lambda t: (t, np.ones(len(t))), lambda y: y),
    "positive": Cube(lambda c: c.positive, 2, lambda t: (t / (1 - t), (1 - t).prod(-1) ** -2.0), lambda y: y / (1 + y)),
    "simplex": Cube(lambda c: c.simplex, 2, simplex, lambda y: np.stack([y[:, 0], y[:, 1] / (y[:, 1] + y[:, 2])], -1)),
    "ordered": Cube(
        lambda c: c.ordered_vector,
        2,
        ordered,
        lambda y: np.stack([_logistic(y[:, 0]), (s := y[:, 1] - y[:, 0]) / (1 + s)], -1),
    ),
    "mixed": Cube(
        lambda c: [(c.real, 1), (c.positive, 1), (c.interval(1.0, 3.0), 1)],
        3,
        mixed,
        lambda y: np.stack([_logistic(y[:, 0]), y[:, 1] / (1 + y[:, 1]), (y[:, 2] - 1) / 2], -1),
    ),
    "correlation": Cube(
        lambda c: c.corr_cholesky,
        3,
        corr_cholesky,
        lambda y: _logistic(
            np.arctanh(np.stack([y[:, 1, 0], y[:, 2, 0], y[:, 2, 1] / np.sqrt(1 - y[:, 2, 0] ** 2)], -1))
        ),
    ),
}
FLOWS = {
    "nsf": lambda dim: pf.nsf(dim, flow_layers=2, hidden=(8,)),
    "real_nvp": lambda dim: pf.real_nvp(dim, flow_layers=2, hidden=(8,), activation="tanh"),
}


def fit_of(host, distribution, cube, draws):
    """The p-value of draws as draws of the distribution, and the integral of its density."""
    t = cube.back(draws)
    k, m = CELLS[cube.dim], SUB_CELLS[cube.dim]
    edges = [np.r_[0.0, np.quantile(column[::2], np.arange(1, k) / k), 1.0] for column in t.T]
    widths = [np.repeat(np.diff(e) / m, m) for e in edges]
    points = [(e[:-1, None] + np.diff(e)[:, None] * (np.arange(m) + 0.5) / m).ravel() for e in edges]
    grid = np.stack(np.meshgrid(*points, indexing="ij"), -1).reshape(-1, cube.dim)
    volume = np.stack(np.meshgrid(*widths, indexing="ij"), -1).reshape(-1, cube.dim).prod(-1)
    y, jacobian = cube.onto(grid)
    mass = (host.density(distribution, y) * jacobian * volume).reshape((k, m) * cube.dim)
    cells = mass.sum(axis=tuple(range(1, 2 * cube.dim, 2))).ravel()
    counts = np.histogramdd(t[1::2], edges)[0].ravel().astype(int)
    cell_of = np.where(large := cells * counts.sum() >= FEWEST, np.cumsum(large) - 1, 0)
    probabilities, counts = (np.bincount(cell_of, v) for v in (cells / cells.sum(), counts))
    return host.p_value(probabilities, counts.astype(int)), cells.sum()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("support", CUBES)
@pytest.mark.parametrize("recipe", ["nsf", pytest.param("real_nvp", marks=pytest.mark.slow)])
@pytest.mark.slow_in_numpyro
def test_draws_follow_the_density_on_every_support(host, support, recipe):
    host, cube = HOSTS[host], CUBES[support]
    bijection = FLOWS[recipe](cube.dim)
    params = perturbed(bijection, 0.05)  # at 0.2 a spline's density has peaks narrower than any affordable cell
    flow = host.flow(bijection, params, support=cube.support(host.dist.constraints))
    draws = host.sample(flow, DRAWS)
    p_value, integral = fit_of(host, flow, cube, draws)
    assert integral == pytest.approx(1, abs=5e-3)
    assert p_value > FAILURE_RATE


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.slow_in_numpyro
def test_the_maps_of_this_test_are_right_and_see_a_wrong_density(host):
    host = HOSTS[host]
    d, array = host.dist, host.array
    known = {
        "real": d.Normal(array([0.3, -1.0]), array([1.0, 0.5])).to_event(1),
        "unit interval": d.Beta(array([2.0, 3.0]), array([2.0, 1.5])).to_event(1),
        "positive": d.Gamma(array([2.0, 3.0]), array([1.0, 2.0])).to_event(1),
        "simplex": d.Dirichlet(array([2.0, 3.0, 4.0])),
        "correlation": d.LKJCholesky(3, array(1.5)),
    }
    # torch's sampler of this distribution does not follow its density: the correlations are no Beta variables
    sound = {"correlation": numpyro.distributions.LKJCholesky(3, np.array(1.5))}
    for support, distribution in known.items():
        draws = HOSTS["numpyro"].sample(sound[support], DRAWS) if support in sound else host.sample(distribution, DRAWS)
        p_value, integral = fit_of(host, distribution, CUBES[support], draws)
        assert integral == pytest.approx(1, abs=5e-3)
        assert p_value > FAILURE_RATE
    wrong = d.Dirichlet(array([2.1, 3.0, 4.0]))
    assert fit_of(host, wrong, CUBES["simplex"], host.sample(known["simplex"], DRAWS))[0] < FAILURE_RATE
