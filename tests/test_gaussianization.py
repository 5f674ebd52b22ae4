"""Gaussianization: SciPy's quantiles of a mixture, a normal quantile without end, and a flow that learns by them."""

import jax
import numpy as np
import pytest
import torch
from cases import JAX, NUMPY, TORCH
from scipy.special import ndtri_exp, softmax
from scipy.stats import logistic, multivariate_normal, norm
from sklearn.datasets import make_moons

import ppl_flows as pf
from ppl_flows.core.params import flatten, map_params
from ppl_flows.pyro import fit_density
from ppl_flows.transformers.mixture_gaussianization import normal_quantile_of_logit

T = np.concatenate([[0.0], np.geomspace(1e-6, 1e12, 400)])


def test_mixture_gaussianization_is_scipys_quantile_of_the_mixtures_cdf():
    h = pf.MixtureGaussianization(components=3, max_log_scale=None)
    theta = np.random.default_rng(17).standard_normal((1, h.size))
    pi, mu, scale = theta[0, :3], theta[0, 3:6], np.exp(theta[0, 6:])
    (pi_0, mu_0, scale_0), x = starting_mixture(3), np.linspace(-6, 6, 201)
    mixture = logistic(mu + mu_0, scale * scale_0), softmax(pi + np.log(pi_0))
    z = norm.ppf(mixture[0].cdf(x[:, None]) @ mixture[1])
    slope = mixture[0].pdf(x[:, None]) @ mixture[1] / norm.pdf(z)
    y, log_slope = h.forward(theta, x[:, None])
    e = h.min_slope
    np.testing.assert_allclose(y[:, 0], e * x + (1 - e) * z, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(np.exp(log_slope[:, 0]), e + (1 - e) * slope, rtol=1e-8)


def starting_mixture(k):
    """Weights, centres and scales at ``theta = 0``: equidistant, normal weights, variance 1 in all."""
    centres = np.linspace(-1, 1, k) * (k - 1) ** 0.5
    scale = 1 / np.sqrt(2 + 1.7 * k)
    weights = norm(0, np.sqrt(1 - logistic(scale=scale).var())).pdf(centres)
    return weights / weights.sum(), centres, scale


def test_it_starts_as_near_to_the_identity_as_it_says():
    h, x = pf.MixtureGaussianization(), np.linspace(-6, 6, 601)[:, None]
    distance = np.abs(h.forward(np.zeros((1, h.size)), x)[0] - x)
    assert distance[np.abs(x) < 3].max() < 0.011
    assert 0.3 < distance.max() < 0.41


@pytest.mark.parametrize("library", [NUMPY, TORCH, JAX], ids=lambda library: library.name)
@pytest.mark.parametrize(("dtype", "precision"), [("float32", 3e-7), ("float64", 1e-12)])
def test_normal_quantile_is_scipys_for_every_logit(library, dtype, precision):
    t = np.concatenate([-T, T])
    z, log_slope = library.run(normal_quantile_of_logit, library.array(t, dtype))
    left = ndtri_exp(-np.logaddexp(0, T))  # of log sigmoid(-t)
    expected = np.concatenate([left, -left])
    np.testing.assert_allclose(z, expected, rtol=precision, atol=precision)
    near = np.abs(t) < 1e3  # dz/dt = p (1 - p) / phi(z), in logs that cancel further out
    slope = -np.logaddexp(0, t[near]) - np.logaddexp(0, -t[near]) - norm.logpdf(expected[near])
    np.testing.assert_allclose(log_slope[near], slope, rtol=0, atol=10 * precision)


def test_its_derivative_is_its_slope_even_far_out():
    t = np.concatenate([-T, T])
    derivative, bend = jax.jit(jax.vmap(jax.value_and_grad(jax.grad(lambda t: normal_quantile_of_logit(t)[0]))))(t)
    np.testing.assert_allclose(derivative, np.exp(normal_quantile_of_logit(t)[1]), rtol=1e-8)
    assert np.all(np.isfinite(bend))
    in_torch = torch.tensor(t, requires_grad=True)
    normal_quantile_of_logit(in_torch)[0].sum().backward()
    np.testing.assert_allclose(in_torch.grad, derivative, rtol=1e-8)


def test_gradients_are_finite_far_out_in_float32():
    h = pf.MixtureGaussianization()
    x = torch.tensor([[s * m] for m in (10.0, 1e3, 1e6) for s in (1, -1)], requires_grad=True)
    theta = torch.zeros((1, h.size), requires_grad=True)
    for run in (h.forward, h.inverse):
        gradients = torch.autograd.grad(sum(out.sum() for out in run(theta, x)), (theta, x))
        assert all(torch.all(torch.isfinite(g)) for g in gradients)


def test_the_recipe_takes_turns_between_marginals_and_rotations():
    parts = pf.gaussianization(3, flow_layers=3, reflections=2, components=4).part.parts
    assert [type(part).__name__ for part in parts] == ["Elementwise", "Householder"] * 2 + ["Elementwise"]
    assert {part.reflections for part in parts[1::2]} == {2}
    assert {part.transformer.components for part in parts[::2]} == {4}
    assert all(isinstance(part, pf.Elementwise) for part in pf.gaussianization(1).part.parts)


@pytest.mark.slow
def test_it_learns_what_a_normal_cannot():
    moons = make_moons(2000, noise=0.1, random_state=0)[0]
    train, test = moons[:1500], moons[1500:]
    fit = fit_density(pf.gaussianization(2, flow_layers=3), torch.tensor(train), steps=200, lr=3e-2, progress=False)
    start = dict(flatten(fit.bijection.init(np.random.default_rng(0))))
    params = map_params(lambda _, a: a.detach().numpy(), fit.params)
    assert all(np.abs(a - start[name]).max() > 0.05 for name, a in flatten(params)), "some layers did not train"
    assert fit.losses[-50:].mean() < fit.losses[:10].mean() - 0.5
    scores = []
    for library in (TORCH, JAX):
        z, log_det = library.run(fit.bijection.inverse, library.params(params), library.array(test))
        scores.append(norm.logpdf(z).sum(-1) + log_det)
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-9, atol=1e-9)
    normal = multivariate_normal(train.mean(0), np.cov(train.T)).logpdf(test)
    assert scores[0].mean() > normal.mean() + 0.4
