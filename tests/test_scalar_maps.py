"""Splines, polynomials and mixtures against other libraries' maps with the same parameters, and known values."""

import math

import jax
import numpy as np
import pytest
import torch
from scipy.interpolate import BPoly, CubicHermiteSpline
from scipy.special import expit, logit, softmax
from zuko.transforms import CircularShiftTransform, MonotonicRQSTransform, SOSPolynomialTransform

import ppl_flows as pf

X = np.linspace(-6.5, 6.5, 202)  # misses the knots of theta = 0


def drawn(h, scale=1.0):
    return scale * np.random.default_rng(17).standard_normal((1, h.size))


def run(h, theta, x, direction="forward"):
    """(value, slope) of the one map that theta, ``(1, size)``, describes at the points x."""
    y, log_slope = getattr(h, direction)(theta, x[:, None])
    return y[:, 0], np.exp(log_slope[:, 0])


def zukos_spline(table, bound):
    x, y, slopes = (torch.tensor(row) for row in table)
    zeros = torch.zeros(len(x) - 1, dtype=x.dtype)
    theirs = MonotonicRQSTransform(zeros, zeros, zeros[1:], bound=bound)
    theirs.horizontal, theirs.vertical, theirs.derivatives = x, y, slopes
    return theirs


def test_rational_quadratic_is_zukos_spline():
    h = pf.RationalQuadratic()
    theta = drawn(h)
    sizes = (
        2 * h.bound * (h.min_bin + (1 - h.bins * h.min_bin) * softmax(theta[0, : 2 * h.bins].reshape(2, -1), axis=-1))
    )
    knots = np.concatenate([np.full((2, 1), -h.bound), np.cumsum(sizes, axis=-1) - h.bound], axis=-1)
    slopes = h.min_slope + np.logaddexp(0, theta[0, 2 * h.bins :] + np.log(np.expm1(1 - h.min_slope)))
    y, log_slope = zukos_spline([*knots, [1.0, *slopes, 1.0]], h.bound).call_and_ladj(torch.tensor(X))
    np.testing.assert_allclose(run(h, theta, X)[0], y, rtol=1e-12)
    np.testing.assert_allclose(run(h, theta, X)[1], log_slope.exp(), rtol=1e-12)


def test_circular_spline_is_zukos_spline_then_its_rotation():
    h = pf.CircularRationalQuadratic(bins=5)
    theta = drawn(h)
    x = np.linspace(-3.1, 3.1, 100)
    sizes = 2 * np.pi * (h.min_bin + (1 - 5 * h.min_bin) * softmax(theta[0, :10].reshape(2, 5), axis=-1))
    knots = np.concatenate([np.full((2, 1), -np.pi), np.cumsum(sizes, axis=-1) - np.pi], axis=-1)
    slopes = h.min_slope + np.logaddexp(0, theta[0, 10:15] + np.log(np.expm1(1 - h.min_slope)))
    spline = zukos_spline([*knots, [*slopes, slopes[0]]], np.pi)
    turned, log_slope = spline.call_and_ladj(torch.tensor(x))
    y = CircularShiftTransform(bound=np.pi)(turned + theta[0, -1] + np.pi)
    np.testing.assert_allclose(run(h, theta, x)[0], y, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(run(h, theta, x)[1], log_slope.exp(), rtol=1e-11)


def test_circular_spline_has_no_seam_and_goes_round_once():
    h = pf.CircularRationalQuadratic()
    theta = drawn(h)
    seam = np.array([-np.pi, np.pi - 1e-9, 5 * np.pi, -20 * np.pi + 0.3, 0.3])
    y, slope = run(h, theta, seam)
    np.testing.assert_allclose(np.exp(1j * y[[1, 2, 3]]), np.exp(1j * y[[0, 0, 4]]), atol=1e-7)
    np.testing.assert_allclose(slope[[1, 2, 3]], slope[[0, 0, 4]], rtol=1e-6)
    circle = np.linspace(-np.pi, np.pi, 100_000, endpoint=False)
    assert np.mean(run(h, theta, circle)[1]) == pytest.approx(1.0, abs=1e-6)  # the trapezoid rule
    back, _ = run(h, theta, run(h, theta, seam)[0], "inverse")
    np.testing.assert_allclose(np.exp(1j * back), np.exp(1j * seam), atol=1e-8)


def test_linear_spline_is_interpolation():
    h = pf.LinearSpline(bins=6)
    theta = drawn(h)
    share = h.min_bin + (1 - 6 * h.min_bin) * softmax(theta[0])
    knots = np.linspace(-5, 5, 7), np.concatenate([[-5.0], 10 * np.cumsum(share) - 5])
    y, slope = run(h, theta, X)
    inside = np.abs(X) < 5
    np.testing.assert_allclose(y, np.where(inside, np.interp(X, *knots), X), rtol=1e-12)
    np.testing.assert_allclose(slope[inside].max(), (share * 6).max(), rtol=1e-12)


@pytest.mark.parametrize("h", [pf.QuadraticSpline(), pf.CubicSpline()], ids=["quadratic", "cubic"])
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_smooth_splines_are_scipys_hermite_spline(h, scale):
    theta = drawn(h, scale)
    x, y, slopes = h._table(theta)[0]
    theirs = CubicHermiteSpline(x, y, slopes)
    inside = np.abs(X) < 5
    got, slope = run(h, theta, X)
    np.testing.assert_allclose(got, np.where(inside, theirs(X), X), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(slope, np.where(inside, theirs(X, 1), 1.0), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(y[[0, -1]], [-5, 5])
    if isinstance(h, pf.QuadraticSpline):
        np.testing.assert_allclose(theirs.c[0] * np.diff(x) ** 3, 0.0, atol=1e-9)  # no cubic part
        np.testing.assert_allclose(slopes[[0, -1]], 1.0)


def test_cubic_splines_slopes_are_steffens():
    h = pf.CubicSpline(bins=5)
    x, y, slopes = h._table(drawn(h))[0]
    s, w = np.diff(y) / np.diff(x), np.diff(x)
    for i in range(1, 5):
        p = (s[i - 1] * w[i] + s[i] * w[i - 1]) / (w[i - 1] + w[i])
        steffen = (np.sign(s[i - 1]) + np.sign(s[i])) * min(abs(s[i - 1]), abs(s[i]), 0.5 * abs(p))
        assert slopes[i] == pytest.approx(steffen, rel=1e-9)
    np.testing.assert_allclose(slopes[[0, -1]], np.minimum(1, 2 * s[[0, -1]]), rtol=1e-9)


def test_bernstein_polynomial_is_scipys_with_straight_tails():
    h = pf.BernsteinPolynomial(degree=7, bound=4.0)
    theta = drawn(h)
    slopes = h.min_slope + np.logaddexp(0, theta[0, 1:] + np.log(np.expm1(1 - h.min_slope)))
    beta = np.cumsum([theta[0, 0] - 4.0, *(slopes * 8.0 / 7)])
    theirs = BPoly(beta[:, None], [-4.0, 4.0])
    y, slope = run(h, theta, X)
    end = np.clip(X, -4, 4)
    np.testing.assert_allclose(y, theirs(end) + theirs.derivative()(end) * (X - end), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slope, theirs.derivative()(end), rtol=1e-12)


def test_sum_of_squares_is_zukos_polynomial():
    h = pf.SumOfSquares(polynomials=3, degree=4, scale=2.0)
    theta = drawn(h)
    a = theta[0, 1:].reshape(3, 5) + np.array([1, 2, 3])[:, None] / 14**0.5 * np.eye(5)[0]
    theirs = SOSPolynomialTransform(
        torch.tensor((3 * (1 - h.min_slope)) ** 0.5 * a - np.eye(5)[0]), slope=h.min_slope, bound=h.scale
    )
    y, log_slope = theirs.call_and_ladj(torch.tensor(X))
    np.testing.assert_allclose(run(h, theta, X)[0], y + theta[0, 0], rtol=1e-12)
    np.testing.assert_allclose(run(h, theta, X)[1], log_slope.exp(), rtol=1e-9)


def test_mixture_logistic_cdf_is_the_papers_formula():
    h = pf.MixtureLogisticCDF(components=3, max_log_scale=None)
    theta = drawn(h)
    b, a, logits, mu, s = theta[0, 0], theta[0, 1], theta[0, 2:5], theta[0, 5:8] + [-0.25, 0, 0.25], theta[0, 8:]
    cdf = np.sum(softmax(logits) * expit((X[:, None] - mu) * np.exp(-s)), axis=-1)
    y = (h.min_slope * X + (1 - h.min_slope) * logit(cdf)) * np.exp(a) + b
    np.testing.assert_allclose(run(h, theta, X)[0], y, rtol=1e-9)
    far = np.array([1e6, 2e6])  # where the CDF itself is 1 in floating point, the widest component rules
    slope = h.min_slope + (1 - h.min_slope) * np.exp(-s.max())
    np.testing.assert_allclose(np.diff(run(h, theta, far)[0]), 1e6 * np.exp(a) * slope, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("h", [pf.MixtureLogisticCDF(components=3), pf.SumOfSquares(polynomials=3)], ids=repr)
def test_components_that_start_equal_get_different_gradients(h):
    gradient = jax.grad(lambda theta: jax.numpy.sum(h.forward(theta, jax.numpy.array([[0.7]]))[0]))(
        np.zeros((1, h.size))
    )
    groups = gradient[0, 2:].reshape(3, 3) if isinstance(h, pf.MixtureLogisticCDF) else gradient[0, 1:].reshape(3, -1).T
    assert np.all(np.ptp(np.abs(groups), axis=-1) > 1e-4)


def test_sinh_arcsinh_has_known_values():
    h, t = pf.SinhArcsinh(max_skew=1e9, max_log_tail=1e9), math.log(2)
    y, slope = run(h, np.array([[0.0, t]]), X)
    np.testing.assert_allclose(y, 2 * X * np.sqrt(1 + X**2), rtol=1e-12)  # sinh(2 a) = 2 sinh(a) cosh(a)
    np.testing.assert_allclose(slope, (2 + 4 * X**2) / np.sqrt(1 + X**2), rtol=1e-12)
    np.testing.assert_allclose(run(h, np.array([[0.5, 0.0]]), X)[0], np.sinh(np.arcsinh(X) + 0.5), rtol=1e-12)


def test_leaky_relu_is_torchs_prelu():
    h = pf.LeakyReLU()
    slope = math.exp(3 * math.tanh(0.8 / 3))
    expected = torch.nn.functional.prelu(torch.tensor(X), torch.tensor([slope], dtype=torch.float64))
    np.testing.assert_allclose(run(h, np.array([[0.8]]), X)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("recipe", [pf.flowpp, pf.gaussianization, pf.bernstein_flow, pf.sos_flow])
@pytest.mark.parametrize(("dim", "context_dim"), [(1, 0), (3, 0), (3, 2)])
def test_recipes_start_near_the_identity_and_invert(recipe, dim, context_dim):
    flow, rng = recipe(dim, context_dim=context_dim), np.random.default_rng(0)
    params, x = flow.init(rng), rng.standard_normal((20, dim))
    context = rng.standard_normal((20, context_dim)) if context_dim else None
    y, log_det = flow.inverse(params, x, context)
    if recipe is pf.bernstein_flow:  # near a permutation
        assert np.abs(np.sort(y) - np.sort(x)).max() < 0.2
    else:
        assert np.abs(y - x).max() < 0.2
    back, back_log_det = flow.forward(params, y, context)
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.LinearSpline(bins=1), "bins must be at least 2"),
        (lambda: pf.QuadraticSpline(bins=2), "bins must be at least 3"),
        (lambda: pf.CubicSpline(bound=0.0), "bound must be positive"),
        (lambda: pf.CircularRationalQuadratic(min_bin=0.5), "min_bin must lie between"),
        (lambda: pf.RationalQuadratic(min_slope=1.0), "min_slope must lie between"),
        (lambda: pf.MixtureGaussianization(components=0), "components must be at least 1"),
        (lambda: pf.MixtureLogisticCDF(components=0), "components must be at least 1"),
        (lambda: pf.BernsteinPolynomial(degree=0), "degree must be at least 1"),
        (lambda: pf.SumOfSquares(scale=-1.0), "scale must be positive"),
        (lambda: pf.SinhArcsinh(max_skew=0.0), "must be positive"),
        (lambda: pf.LeakyReLU(max_log_slope=0.0), "must be positive"),
    ],
)
def test_fields_outside_their_range_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_the_splines_gradient_by_hand_in_torch_is_autograds(direction):
    h, rng = pf.RationalQuadratic(bins=5), np.random.default_rng(0)
    theta = torch.tensor(rng.standard_normal((40, 3, h.size)), requires_grad=True)
    x = torch.tensor(rng.uniform(-6, 6, (40, 3)), requires_grad=True)  # some beyond the bound
    weights = torch.tensor(rng.standard_normal((2, 40, 3)))

    def loss(theta, x):
        y, log_slope = getattr(h, direction)(theta, x)
        return (weights[0] * y + weights[1] * log_slope).sum()

    by_hand = torch.autograd.grad(loss(theta, x), (theta, x), create_graph=True)
    by_rule = torch.func.grad(loss, (0, 1))(theta.detach(), x.detach())  # torch.func takes autograd's own rules
    for a, b in zip(torch.autograd.grad(loss(theta, x), (theta, x)), by_rule, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    second = torch.autograd.grad(sum((g**2).sum() for g in by_hand), x)[0]
    step = 1e-6
    moved = [
        sum((g**2).sum() for g in torch.func.grad(loss, (0, 1))(theta.detach(), x.detach() + e)) for e in (step, -step)
    ]
    torch.testing.assert_close(second.sum(), (moved[0] - moved[1]) / (2 * step), rtol=1e-4, atol=1e-6)
