"""Gaussians of low rank plus diagonal, and starts in more dimensions than have all covariances refined."""

import numpy as np
import pytest
from languages import identity_flow
from test_warm_start import Normal, kl

import ppl_flows as pf
from ppl_flows.inference.gaussian import Gaussian, Stretch
from ppl_flows.inference.gaussian_start import full_rank, mean_field
from ppl_flows.inference.low_rank import RANK, lanczos, low_rank, reflections

DIM = 40


def directions(rank, dim=DIM):
    return np.linalg.qr(np.random.default_rng(0).standard_normal((dim, rank)))[0]


def test_a_stretched_gaussian_is_that_of_its_covariance():
    rng = np.random.default_rng(1)
    gaussian = Gaussian(
        rng.standard_normal(DIM), rng.uniform(0.1, 2, DIM), stretch=Stretch(directions(2), np.array([3.0, 0.2]))
    )
    full = Gaussian(gaussian.mean, gaussian.triangle())
    u, z = rng.standard_normal((2, 5, DIM))
    columns = gaussian.draw(np.eye(DIM)) - gaussian.mean
    np.testing.assert_allclose(columns.T @ columns, full.factor @ full.factor.T, rtol=1e-10, atol=1e-12)
    assert gaussian.log_det == pytest.approx(full.log_det)
    assert gaussian.entropy() == pytest.approx(full.entropy())
    np.testing.assert_allclose(gaussian.standardise(gaussian.draw(u)), u)
    np.testing.assert_allclose((gaussian.standardise(z) ** 2).sum(1), (full.standardise(z) ** 2).sum(1))
    np.testing.assert_allclose(gaussian.pull_back(z[0]), (gaussian.draw(np.eye(DIM)) - gaussian.mean) @ z[0])


def test_lanczos_finds_all_of_a_matrix_with_few_eigenvalues():
    v = directions(4)
    matrix = np.eye(DIM) + v @ np.diag([50.0, 7.0, -0.9, -0.99]) @ v.T
    values, vectors = lanczos(matrix.__matmul__, DIM, 8, np.random.default_rng(2))
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(8), atol=1e-10)
    found = np.eye(DIM) + vectors @ np.diag(values - 1) @ vectors.T
    np.testing.assert_allclose(found, matrix, atol=1e-8)
    assert lanczos(lambda w: w * np.nan, DIM, 8, np.random.default_rng(2)) is None


def test_reflections_turn_axes_into_directions():
    v = directions(6)
    turn = pf.Householder(DIM, reflections=6)
    turned, _ = turn.forward({"v": reflections(v)}, np.eye(DIM)[:6])
    np.testing.assert_allclose(np.abs(turned @ v), np.eye(6), atol=1e-12)


def everywhere_correlated(dim, correlation=0.9):
    covariance = (1 - correlation) * np.eye(dim) + correlation
    scale = np.logspace(-2, 1, dim)
    factor = np.linalg.cholesky(covariance * scale[:, None] * scale)
    return Normal(np.random.default_rng(3).standard_normal(dim) * scale, factor)


def test_low_rank_finds_what_correlates_all_coordinates():
    density = everywhere_correlated(60)
    assert kl(density, mean_field(density, np.zeros(60))) > 0.5
    found = low_rank(density, np.zeros(60))
    assert found.stretch.directions.shape == (60, RANK)
    assert kl(density, Gaussian(found.mean, found.triangle())) < 0.01


def test_full_rank_is_exact_where_it_is_not_refined():
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((300, 210)) @ np.linalg.cholesky(0.1 * np.eye(210) + 0.9).T
    root = np.linalg.cholesky(np.linalg.inv(np.eye(210) + rows.T @ rows))
    density = Normal(rng.standard_normal(210), root)
    assert kl(density, full_rank(density, np.zeros(210))) < 1e-6


@pytest.mark.slow
def test_a_guide_of_many_dimensions_starts_there_and_a_file_keeps_it(lang, tmp_path):
    """A vector whose entries add up to about 0: one narrow direction in 401 dimensions."""
    dim = 401

    def model():
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(np.zeros(dim)), 1.0).to_event(1))
        lang.ppl.sample("sum", lang.dist.Normal(z.sum(-1), 0.1), obs=lang.array(0.0))

    guide = lang.AutoFlow(model, identity_flow)
    result = lang.fit(model, guide, steps=2, num_particles=8, draws=500, check_modes=False, progress=False)
    assert guide.start == "low_rank"
    log_z = -0.5 * np.log(2 * np.pi * (dim + 0.01))
    assert result.elbo.mean - log_z == pytest.approx(0, abs=max(4 * result.elbo.se, 0.02))
    path = tmp_path / "fit.safetensors"
    result.save(path)
    kept = pf.load(path).gaussian
    np.testing.assert_allclose(kept.triangle(), guide.near_posterior.triangle())
    assert kept.stretch.scales.shape == (RANK,)


@pytest.mark.slow
@pytest.mark.parametrize(("bound", "start"), [(False, "mean_field"), (True, "full_rank")])
def test_placed_sites_of_many_dimensions_have_covariances_where_these_gain_a_nat(lang, bound, start):
    """210 increments, observed one by one or as a walk."""

    def model():
        s = lang.ppl.sample("s", lang.dist.LogNormal(lang.array(0.0), 0.5))
        with lang.ppl.plate("steps", 210):
            z = lang.ppl.sample("z", lang.dist.Normal(0.0, s))
            seen = z.cumsum(-1) if bound else z
            lang.ppl.sample("y", lang.dist.Normal(seen, 1.0), obs=lang.array(np.linspace(-3.0, 3.0, 210)))

    guide = lang.AutoFlow(model, identity_flow)
    lang.set_up(guide)
    assert guide.informed == ("z",)
    assert guide.start == start
