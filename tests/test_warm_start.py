"""Gaussians that a guide starts at, found from densities whose best Gaussian is known."""

import warnings
from dataclasses import dataclass
from functools import partial

import arviz as az
import numpy as np
import pytest
from scipy import special, stats
from scipy.linalg import solve_triangular

from ppl_flows.inference.gaussian import Gaussian, gaussian_of_draws
from ppl_flows.inference.gaussian_start import batch_and_match, full_rank, laplace, mean_field, optimisation_path
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

DIM = 5


@dataclass
class Normal:
    """A Gaussian log density, not normalised, with a covariance from a factor; infinite where told so."""

    mean: np.ndarray
    factor: np.ndarray

    def __post_init__(self):
        inverse = solve_triangular(self.factor, np.eye(len(self.mean)), lower=True)
        self.precision = inverse.T @ inverse

    def value_and_gradient(self, z):
        gradient = -(z - self.mean) @ self.precision
        return 0.5 * np.sum(gradient * (z - self.mean), axis=1), gradient

    def hessian(self, z):
        return np.broadcast_to(-self.precision, (len(z), *self.precision.shape))

    @property
    def log_evidence(self):
        return np.sum(np.log(np.diag(self.factor))) + 0.5 * len(self.mean) * np.log(2 * np.pi)


class Diagonal:
    """A Gaussian log density with independent coordinates."""

    def __init__(self, mean, scale):
        self.mean, self.scale = mean, scale

    def value_and_gradient(self, z):
        u = (z - self.mean) / self.scale
        return -0.5 * np.sum(u**2, axis=1), -u / self.scale


class Funnel:
    """Neal's funnel: z0 ~ N(0, 3), the others N(0, exp(z0 / 2)); normalised, its mode far from its mass."""

    def value_and_gradient(self, z):
        z0, rest = z[:, 0], z[:, 1:]
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = rest**2 * np.exp(-z0)[:, None]
            value = -(z0**2) / 18 - 0.5 * rest.shape[1] * z0 - 0.5 * np.sum(scaled, axis=1)
            first = -z0 / 9 - 0.5 * rest.shape[1] + 0.5 * np.sum(scaled, axis=1)
            gradient = np.concatenate([first[:, None], -rest * np.exp(-z0)[:, None]], axis=1)
        return value - 0.5 * z.shape[1] * np.log(2 * np.pi) - np.log(3), gradient

    def hessian(self, z):
        n, dim = z.shape
        inverse = np.exp(-z[:, 0])
        h = np.zeros((n, dim, dim))
        h[:, 0, 0] = -1 / 9 - 0.5 * np.sum(z[:, 1:] ** 2, axis=1) * inverse
        h[:, 0, 1:] = h[:, 1:, 0] = z[:, 1:] * inverse[:, None]
        h[:, range(1, dim), range(1, dim)] = -inverse[:, None]
        return h


class NotFinite:
    """Another density, nan where a condition on the points holds."""

    def __init__(self, density, where):
        self.density, self.where, self.hessian = density, where, density.hessian

    def value_and_gradient(self, z):
        value, gradient = self.density.value_and_gradient(z)
        bad = self.where(z)
        return np.where(bad, np.nan, value), np.where(bad[:, None], np.nan, gradient)


def turned(condition, dim=DIM, seed=0):
    """A Gaussian of this condition number of the covariance, in no coordinate's direction."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    sds = np.logspace(0, -0.5 * np.log10(condition), dim)
    factor = np.linalg.qr((rotation * sds).T, mode="r").T
    return Normal(rng.standard_normal(dim), factor * np.sign(np.diag(factor)))


def whitened(density, gaussian):
    """Mean and covariance of a Gaussian in the coordinates in which the density is standard normal."""
    factor = np.diag(gaussian.factor) if gaussian.factor.ndim == 1 else gaussian.factor
    root = solve_triangular(density.factor, factor, lower=True)
    return solve_triangular(density.factor, gaussian.mean - density.mean, lower=True), root @ root.T


def kl(density, gaussian):
    """KL(gaussian || density) in nats."""
    mean, covariance = whitened(density, gaussian)
    return 0.5 * (np.trace(covariance) + mean @ mean - len(mean) - np.linalg.slogdet(covariance)[1])


@pytest.mark.parametrize("condition", [1.0, 1e4, 1e10])
def test_full_rank_finds_a_gaussian_of_any_condition(condition):
    density = turned(condition)
    found = full_rank(density, np.zeros(DIM))
    mean, covariance = whitened(density, found)
    # the scores of a Gaussian are exact, so Batch-and-Match converges to it; what stays is the rounding of the
    # density, about 1e-16 * 1e10 in the flattest direction, and of the last rounds
    np.testing.assert_allclose(mean, 0, atol=1e-3)
    np.testing.assert_allclose(covariance, np.eye(DIM), atol=1e-3)
    # of CHECK_DRAWS draws; but at the optimum log p - log q is constant, and there is no noise
    assert found.elbo == pytest.approx(density.log_evidence, abs=0.5)


def test_full_rank_is_near_the_best_gaussian_on_a_funnel():
    dim = 4
    found = full_rank(Funnel(), np.zeros(dim))
    # the ELBO of N(m, s^2) x N(0, t^2)^(dim - 1), in closed form by E exp(-z0) = exp(-m + s^2 / 2); best where
    # t^2 = exp(m - s^2 / 2), which leaves -(dim - 1) s^2 / 4 of the coupling: s^-2 = 1/9 + (dim - 1) / 2, m = 0
    n = dim - 1
    s2 = 1 / (1 / 9 + n / 2)
    best = -0.5 * (np.log(9 / s2) + s2 / 9 - 1) - n * s2 / 4
    noise = np.random.default_rng(1).standard_normal((20_000, dim))
    values = Funnel().value_and_gradient(found.draw(noise))[0]
    elbo, se = values.mean() + found.entropy(), values.std() / len(values) ** 0.5
    assert elbo > best - 0.5, "nats; the coordinates of both may be correlated, which gains nothing here"
    assert elbo < 4 * se, "an ELBO cannot exceed the log evidence, here 0"
    assert found.elbo == pytest.approx(elbo, abs=1.0), "that of 256 draws"


@pytest.mark.parametrize("init", [0.0, 1.9])
def test_mean_field_finds_scales_over_four_decades(init):
    rng = np.random.default_rng(0)
    scale = np.logspace(-3, 1, 300)[rng.permutation(300)]
    density = Diagonal(rng.standard_normal(300), scale)
    found = mean_field(density, np.full(300, init))
    assert found.factor.shape == (300,)
    # log p - log q is constant at the optimum, but scales come from the variances of 32 draws, averaged over the
    # later rounds: some per cent
    np.testing.assert_allclose(found.factor / scale, 1, atol=0.15)
    np.testing.assert_allclose((found.mean - density.mean) / scale, 0, atol=0.15)


def test_laplace_is_exact_on_a_gaussian():
    density = turned(1e4)
    mean, covariance = whitened(density, laplace(density, np.full(DIM, 1.5)))
    np.testing.assert_allclose(mean, 0, atol=0.05)  # where L-BFGS stops: gradients of 1e-5, function values of 1e-9
    np.testing.assert_allclose(covariance, np.eye(DIM), atol=1e-9)


@pytest.mark.parametrize("find", [full_rank, mean_field, laplace])
def test_a_density_that_is_not_finite_at_the_initial_point_is_rescued(find):
    density = turned(4.0)
    found = find(NotFinite(density, lambda z: np.all(np.abs(z - 5.0) < 1e-9, axis=1)), np.full(DIM, 5.0))
    assert kl(density, found) < (0.5 if find is mean_field else 2e-3)


@pytest.mark.parametrize("find", [full_rank, mean_field, laplace])
def test_a_density_with_a_wall_gives_a_gaussian_that_is_finite(find):
    density = NotFinite(turned(4.0), lambda z: z[:, 0] < -3.5)
    found = find(density, np.zeros(DIM))
    assert np.all(np.isfinite(found.mean))
    assert np.all(np.isfinite(found.factor))
    assert np.all(found.diagonal > 0)


@pytest.mark.parametrize("find", [full_rank, mean_field, laplace])
def test_a_density_that_is_finite_nowhere_is_an_error(find):
    density = NotFinite(turned(4.0), lambda z: np.ones(len(z), dtype=bool))
    with pytest.raises(ValueError, match="not finite at the initial point, nor at 100 points"):
        find(density, np.zeros(DIM))


def test_the_same_seed_gives_the_same_start():
    first, again, other = (mean_field(turned(4.0), np.zeros(DIM), seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.factor, again.factor)
    assert not np.array_equal(first.factor, other.factor)


def test_matching_converges_from_a_displaced_start():
    density = turned(1e4)
    start = Gaussian(density.mean + density.factor @ np.full(DIM, 5.0), 0.1 * density.factor)
    assert kl(density, start) > 50
    # of exact scores: the error falls in every round, until rounding
    assert kl(density, batch_and_match(density, start, np.random.default_rng(0))) < 1e-4


def test_matching_leaves_out_rounds_that_are_not_finite():
    density = turned(4.0)
    nowhere = NotFinite(density, lambda z: np.ones(len(z), dtype=bool))
    start = Gaussian(np.ones(DIM), np.eye(DIM))
    same = batch_and_match(nowhere, start, np.random.default_rng(0))
    np.testing.assert_array_equal(same.mean, start.mean)
    np.testing.assert_array_equal(same.factor, start.factor)


def test_a_path_starts_at_the_start_and_climbs_to_the_mode():
    density = turned(100.0)
    path = optimisation_path(density, np.full(DIM, 2.0))
    np.testing.assert_array_equal(path[0], np.full(DIM, 2.0))
    values = density.value_and_gradient(path)[0]
    assert np.all(np.diff(values) >= 0)
    np.testing.assert_allclose(path[-1], density.mean, atol=1e-3)


# --- draws


def test_draws_give_their_mean_and_covariance():
    density = turned(1e6)
    draws = Gaussian(density.mean, density.factor).draw(np.random.default_rng(0).standard_normal((500, DIM)))
    found = gaussian_of_draws(draws)
    np.testing.assert_allclose(found.mean, draws.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.factor @ found.factor.T, np.cov(draws.T), rtol=1e-2, atol=1e-8)
    assert np.all(np.triu(found.factor, 1) == 0)


def test_few_draws_give_variances_only():
    draws = np.random.default_rng(0).standard_normal((2 * DIM - 1, DIM))
    np.testing.assert_allclose(gaussian_of_draws(draws).factor, draws.std(0))
    assert gaussian_of_draws(np.concatenate([draws, draws])).factor.shape == (DIM, DIM)


@pytest.mark.parametrize("draws", [np.zeros((1, 2)), np.array([[0.0, 1.0], [0.0, 2.0]])])
def test_draws_that_have_no_spread_are_an_error(draws):
    with pytest.raises(ValueError, match="at least 2, and differ in every coordinate"):
        gaussian_of_draws(draws)


@pytest.mark.parametrize("factor", [np.array([0.5, 2.0]), np.array([[0.5, 0.0], [1.0, 2.0]])])
def test_a_gaussians_draws_and_entropy_are_those_of_its_factor(factor):
    g = Gaussian(np.array([1.0, -1.0]), factor)
    square = np.diag(factor) if factor.ndim == 1 else factor
    exact = stats.multivariate_normal(g.mean, square @ square.T)
    assert g.entropy() == pytest.approx(exact.entropy(), rel=1e-12)
    u = np.random.default_rng(0).standard_normal((3, 2))
    np.testing.assert_allclose(g.draw(u), g.mean + u @ square.T, rtol=1e-12)


# --- weights


@pytest.mark.parametrize("shape", [-0.3, 0.3, 0.6, 1.0])
def test_smoothed_weights_are_arvizs(shape):
    log_weights = np.log(stats.genpareto(shape).rvs(2_000, random_state=0)) - 321.0
    smoothed, khat = smoothed_log_weights(log_weights)
    theirs, their_khat = az.psislw(log_weights)
    assert khat == pytest.approx(float(their_khat), abs=1e-6)
    np.testing.assert_allclose(smoothed - special.logsumexp(smoothed), theirs, atol=1e-5)


def test_smoothing_keeps_the_order_and_all_but_the_tail():
    log_weights = np.log(stats.genpareto(0.6).rvs(2_000, random_state=1))
    smoothed, _ = smoothed_log_weights(log_weights)
    order = np.argsort(log_weights)
    assert np.all(np.diff(smoothed[order]) >= 0)
    tail = int(np.ceil(3 * 2_000**0.5))  # eq. 10 of Vehtari et al. (2024)
    body = order[:-tail]
    np.testing.assert_array_equal(smoothed[body], log_weights[body])


@pytest.mark.parametrize("spread", [1e-12, 30.0, 300.0, 1e5])
def test_many_weights_of_any_spread_raise_no_warning(spread):
    log_weights = np.random.default_rng(0).standard_normal(100_000) * spread + 1e4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        smoothed, khat = smoothed_log_weights(log_weights)
    assert np.all(np.isfinite(smoothed))
    assert smoothed.max() <= log_weights.max()
    assert khat > 0.7 or spread < 1


def test_importance_weights_correct_a_mean():
    normal = partial(stats.norm.logpdf, loc=0.7)  # the target, by draws of a wider one that is off
    draws = stats.norm(scale=1.5).rvs(20_000, random_state=0)
    smoothed, khat = smoothed_log_weights(normal(draws) - stats.norm.logpdf(draws, scale=1.5))
    weights = special.softmax(smoothed)
    assert khat < 0.5
    se = np.sqrt(np.sum(weights**2 * (draws - 0.7) ** 2))
    assert weights @ draws == pytest.approx(0.7, abs=5 * se)
