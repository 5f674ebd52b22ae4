"""The estimate of KL(guide || posterior), where the KL is known."""

import numpy as np
import pytest
from scipy import stats

from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.kl_estimate import (
    Near,
    Scores,
    WideSample,
    kl_of_own_draws,
    student_t_draws,
    student_t_log_density,
)

DIM, DRAWS, LOG_Z = 3, 10_000, -7.0
STANDARD = Gaussian(np.zeros(DIM), np.ones(DIM))


def log_p(z):
    """A posterior: standard normal vectors, and a log evidence."""
    return stats.norm.logpdf(z).sum(-1) + LOG_Z


def check_widely(vectors, own, score, around, seed):
    sample = WideSample(vectors, own)
    sample.add(Near(around), score, seed)
    return sample.check(elsewhere=1)


class Guide:
    """A normal guide that is moved, stretched, and cut off above a number along the first axis."""

    def __init__(self, shift=0.0, scale=1.0, cut=np.inf):
        self.shift, self.scale, self.cut = shift, scale, cut
        kl = (scale**2 - 1 - 2 * np.log(scale) + shift**2) / 2 * DIM
        self.kl = kl - stats.norm.logcdf(cut) if cut < np.inf else kl  # cut where it is standard

    def draws(self, rng):
        u = rng.standard_normal((DRAWS, DIM))
        u[:, 0] = stats.norm.ppf(stats.norm.cdf(u[:, 0]) * stats.norm.cdf(self.cut))
        return self.shift + self.scale * u

    def score(self, z):
        log_q = stats.norm.logpdf(z, self.shift, self.scale).sum(-1) - stats.norm.logcdf(self.cut)
        return Scores(log_p(z), np.where((z[:, 0] - self.shift) / self.scale <= self.cut, log_q, -np.inf))

    def estimates(self, seed=0):
        z = self.draws(np.random.default_rng(seed))
        own = self.score(z)
        return kl_of_own_draws(own.log_p - own.log_q), check_widely(z, own, self.score, STANDARD, seed)


@pytest.mark.parametrize(
    "guide", [Guide(), Guide(shift=0.2), Guide(scale=1.5), Guide(scale=0.8), Guide(shift=-0.5, scale=1.2)]
)
def test_the_kl_of_normal_guides_is_found(guide):
    own, wide = guide.estimates()
    assert own.mean == pytest.approx(guide.kl, abs=4 * own.se + 1e-12)
    assert wide.kl.mean == pytest.approx(guide.kl, abs=4 * wide.kl.se)
    assert own.se < 0.05
    assert wide.log_z_se < 0.05


def test_a_tail_that_is_cut_off_is_seen_by_wide_draws_alone():
    guide = Guide(cut=0.5)
    own, wide = guide.estimates()
    assert guide.kl > 0.3
    assert own.mean == pytest.approx(0, abs=1e-9)
    assert wide.kl.mean == pytest.approx(guide.kl, abs=4 * wide.kl.se)
    assert wide.missed.mean == pytest.approx(stats.norm.sf(0.5), abs=4 * wide.missed.se)
    assert Guide().estimates()[1].missed.mean == 0


@pytest.mark.parametrize("guide", [Guide(shift=0.2, scale=0.9), Guide(cut=1.0)])
def test_standard_errors_are_those_of_repetitions(guide):
    own, wide = zip(*(guide.estimates(seed) for seed in range(100)), strict=True)
    for estimates in (own, [w.kl for w in wide], [w.missed for w in wide if w.missed.se > 0]):
        means, errors = np.array(estimates).T if estimates else np.zeros((2, 1))
        assert means.std() == pytest.approx(errors.mean(), rel=0.3, abs=1e-9)  # 100 repetitions: 7 % of it


def test_where_the_models_density_is_no_number_it_is_zero():
    guide = Guide(cut=0.5)

    def score(z):
        scores = guide.score(z)
        return Scores(np.where(scores.log_q == -np.inf, np.nan, scores.log_p), scores.log_q)

    z = guide.draws(np.random.default_rng(0))
    wide = check_widely(z, guide.score(z), score, STANDARD, 0)
    assert wide.kl.mean == pytest.approx(0, abs=4 * wide.kl.se)
    assert wide.missed.mean == 0


@pytest.mark.parametrize("impossible", [-np.inf, np.nan])
def test_a_draw_that_is_impossible_makes_the_kl_infinite(impossible):
    assert kl_of_own_draws(np.array([0.0, 0.1, impossible])).mean == np.inf


@pytest.mark.parametrize("factor", [np.array([0.5, 2.0]), np.array([[0.5, 0.0], [1.0, 2.0]])])
def test_wide_draws_are_a_student_t(factor):
    around = Gaussian(np.array([1.0, -2.0]), factor)
    square = np.diag(factor) if factor.ndim == 1 else factor
    exact = stats.multivariate_t(around.mean, square @ square.T, df=5)
    z = student_t_draws(around, 4_000, np.random.default_rng(0))
    np.testing.assert_allclose(student_t_log_density(around, z), exact.logpdf(z), rtol=1e-10)
    np.testing.assert_allclose(np.cov(z.T), square @ square.T * 5 / 3, rtol=0.2, atol=0.1)


def test_draws_that_overflow_on_the_way_to_a_gaussians_coordinates_are_none_of_its():
    guide = Guide()
    z = guide.draws(np.random.default_rng(0))

    def unplace(vectors):
        with np.errstate(over="ignore", invalid="ignore"):
            cubes = vectors.astype(np.float32) ** 3  # infinite far out
            return vectors + (cubes - cubes), np.zeros(len(vectors))

    sample = WideSample(z, guide.score(z))
    sample.add(
        Near(Gaussian(np.zeros(DIM), np.eye(DIM)), lambda v: (v, np.zeros(len(v))), unplace), guide.score, seed=1
    )
    sample.add(Near(Gaussian(np.zeros(DIM), np.full(DIM, 1e13))), guide.score, seed=2)
    seen = sample.check()
    assert seen.missed.mean == 0
    assert seen.kl.mean == pytest.approx(0, abs=1e-3)
