"""Pictures depend on what they are of, and what they cannot show is an error in words."""

import importlib.util
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from matplotlib.collections import LineCollection
from scipy.stats import norm

import ppl_flows as pf
from ppl_flows import plots
from ppl_flows.core.params import map_params
from ppl_flows.inference.density_results import AmortizedFit, DensityFit
from ppl_flows.inference.evidence import withheld
from ppl_flows.inference.fit_error import FitError
from ppl_flows.inference.fitted import WeightedDraws
from ppl_flows.inference.kl_estimate import NOT_LOOKED, Estimate, Scores
from ppl_flows.inference.results import FitResult
from ppl_flows.plots.calibration import simultaneous_band
from ppl_flows.plots.layers import layers_of
from ppl_flows.plots.loss import smoothed

DOCS = Path(__file__).parent.parent / "docs"
FLOW = pf.nsf(2, flow_layers=2, hidden=(4,))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def rng():
    return np.random.default_rng(0)


def perturbed(bijection, scale=0.5):
    draw = rng()
    return map_params(lambda _, a: a + scale * draw.standard_normal(a.shape), bijection.init(rng()))


class Gaussian:
    """A Fitted whose weights are those of a normal guide of this scale for a standard normal."""

    def __init__(self, scale):
        self.scale = scale

    def draw(self, num_samples, seed):
        return {"z": self.scale * np.random.default_rng(seed).standard_normal((num_samples, 2))}

    def weigh(self, num_samples, seed):
        z = self.draw(num_samples, seed)["z"][:, 0]
        return WeightedDraws({"z": z}, Scores(norm.logpdf(z), norm.logpdf(z, scale=self.scale)), None)


def fit_result(losses=None, scale=0.8, **changes):
    losses = -np.linspace(-30, -10, 200) if losses is None else losses
    elbo, kl = Estimate(-10.5, 0.01), Estimate(0.01, 0.001)
    evidence, fitted = withheld("a test"), Gaussian(scale)
    made = FitResult(losses, 0, {}, False, elbo, kl, 0.3, 0.9, evidence, 0.0, "", NOT_LOOKED, fitted, lambda *_: None)
    return replace(made, **changes)


def density_fit(bijection=FLOW, **changes):
    made = DensityFit(np.linspace(3, 1, 200), 0, bijection, perturbed(bijection), None, _write=lambda *_: None)
    return replace(made, **changes)


def lines(ax):
    return {line.get_label(): np.asarray(line.get_xydata()) for line in ax.lines}


def words(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# losses


def test_the_elbo_goes_up_and_a_density_loss_down():
    of_guide = lines(plots.plot_loss(fit_result()))
    assert of_guide["ELBO of a step"][-1, 1] == -10
    assert np.all(np.diff(of_guide["smoothed"][:, 1]) > 0)
    assert of_guide["trained guide: -10.500 ± 0.010"][0, 1] == -10.5
    fit = density_fit(validation_losses=np.r_[np.linspace(3, 2, 12), np.linspace(2.1, 3, 8)])
    for result in (fit, AmortizedFit(fit, lambda *_: {})):
        of_density = lines(plots.plot_loss(result))
        assert np.all(np.diff(of_density["smoothed"][:, 1]) < 0)
        np.testing.assert_array_equal(of_density["held-out rows"][:, 0], 10 * np.arange(1, 21))
        np.testing.assert_array_equal(of_density["kept: 2.000"], [[120, 2]])


def test_smoothing_is_a_mean_of_the_finite_losses_around():
    losses = np.sin(np.arange(1000.0))
    losses[:3] = [1e30, np.inf, np.nan]
    steps, means = smoothed(losses)
    assert len(steps) == 400
    np.testing.assert_allclose(means[-1], losses[999 - 25 :].mean())
    middle = steps[200] - 1
    np.testing.assert_allclose(means[200], losses[middle - 25 : middle + 26].mean())
    assert np.all(np.abs(means[steps > 40]) < 0.1), "the first losses leave nothing in the later means"


def test_the_axis_leaves_out_the_huge_first_losses():
    losses = np.r_[np.geomspace(1e9, 20, 60), 10 + 0.5 * rng().standard_normal(940)]
    low, high = plots.plot_loss(fit_result(losses)).get_ylim()
    assert -30 < low < -12
    assert -10 < high < 0
    low, high = plots.plot_loss(density_fit(losses=losses)).get_ylim()
    assert 0 < low < 10
    assert 12 < high < 30


@pytest.mark.parametrize(
    ("result", "steps", "end"),
    [
        (fit_result(), 1000, "converged after 200 of 1,000 steps"),
        (fit_result(interrupted=True), None, "interrupted after 200 steps"),
        (FitError(150, np.r_[np.ones(150), np.full(20, np.nan)], {}), None, "not finite since step 150"),
    ],
)
def test_the_end_of_a_training_is_marked(result, steps, end):
    ax = plots.plot_loss(result, steps=steps)
    assert lines(ax)[end][0, 0] == len(result.losses)
    assert ax.get_xlim()[1] == steps or len(result.losses)
    assert not any("after" in w for w in words(plots.plot_loss(fit_result(), steps=200)))


# posteriors


def draws(n=400, shift=0.0):
    z = rng().standard_normal((n, 3))
    return {"mu": z[:, 0] + shift, "theta": z[:, 1:] * [1.0, 5.0]}


def test_a_posterior_is_drawn_pair_by_pair_with_names():
    panels = plots.plot_posterior(draws(), draws(shift=4.0))
    assert panels.shape == (3, 3)
    assert [ax.get_xlabel() for ax in panels[-1]] == ["mu", "theta[0]", "theta[1]"]
    assert [ax.get_ylabel() for ax in panels[1:, 0]] == ["theta[0]", "theta[1]"]
    assert words(panels[0, -1]) == ["guide", "reference"]
    x, y = lines(panels[0, 0])["guide"].T
    assert abs(np.trapezoid(x * y, x)) < 0.2, "the guide is around 0"
    filled = panels[0, 0].collections[0].get_paths()[0].vertices
    assert filled[filled[:, 1].argmax(), 0] == pytest.approx(4.0, abs=0.5), "the reference is around 4"
    assert panels[0, 0].get_xlim()[1] > 6, "both fit in"
    assert panels[2, 2].get_xlim()[1] > 2 * panels[1, 1].get_xlim()[1]


def test_contours_enclose_the_shares_of_the_draws_that_they_say():
    table = rng().standard_normal((4000, 2)) @ np.array([[1.0, 0.9], [0.0, 0.3]])
    ax = plots.plot_posterior(table)[1, 0]
    outer, inner = ax.collections[-1].get_paths()
    assert outer.contains_points(table).mean() == pytest.approx(0.9, abs=0.03)
    assert inner.contains_points(table).mean() == pytest.approx(0.5, abs=0.05)


def test_modes_far_apart_look_no_wider_than_they_are():
    one = rng().standard_normal(4000)
    two = one + np.where(np.arange(4000) % 3 == 0, 30.0, 0.0)
    x, y = lines(plots.plot_posterior(two[:, None], two[:, None])[0, 0])["guide"].T
    near = np.abs(x) < 5
    spread = np.sqrt((x[near] ** 2 * y[near]).sum() / y[near].sum())
    assert spread == pytest.approx(1.0, abs=0.15)
    assert y[near].sum() / y.sum() == pytest.approx(2 / 3, abs=0.03)


def test_coordinates_are_chosen_by_name_and_draws_are_of_any_library():
    chosen = plots.plot_posterior({k: jnp.asarray(v) for k, v in draws().items()}, coordinates=["theta[1]", "mu"])
    assert [ax.get_xlabel() for ax in chosen[-1]] == ["theta[1]", "mu"]
    scatter = plots.plot_posterior(torch.tensor(draws()["theta"]), kind="scatter")[1, 0]
    np.testing.assert_allclose(scatter.collections[0].get_offsets(), draws()["theta"])
    of_result = plots.plot_posterior(fit_result(), coordinates=["z"], num_samples=300, kind="scatter")[1, 0]
    np.testing.assert_allclose(of_result.collections[0].get_offsets(), fit_result().sample(300)["z"])


# weights


def test_weights_are_sorted_shares_and_the_title_says_what_they_are_worth():
    log_weights = rng().standard_normal(500)
    ax = plots.plot_weights(log_weights + 700.0)
    raw = lines(ax)["raw"][:, 1]
    np.testing.assert_allclose(raw, np.sort(np.exp(log_weights) / np.exp(log_weights).sum())[::-1])
    assert f"k-hat {pf.numerics.pareto_smoothing.pareto_khat(log_weights):.2f}" in ax.get_title()
    assert not np.allclose(raw, lines(ax)["Pareto-smoothed"][:, 1])
    assert lines(ax)["all equal"][0, 1] == 1 / 500
    narrow, wide = (plots.plot_weights(fit_result(scale=s), num_samples=2_000) for s in (0.5, 1.0001))
    assert lines(narrow)["raw"][0, 1] > 10 * lines(wide)["raw"][0, 1]
    assert "100.0% of 2,000 draws" in wide.get_title()


# densities


def test_a_density_is_that_of_the_flow_in_any_library():
    params = perturbed(FLOW)
    in_torch, in_jax = (map_params(lambda _, a, f=f: f(a), params) for f in (torch.tensor, jnp.asarray))
    shades = [
        plots.plot_density(FLOW, ((-2, 2), (-1, 3)), params=p, resolution=20).collections[0].get_array()
        for p in (params, in_torch, in_jax)
    ]
    y, x = np.meshgrid(np.linspace(-1, 3, 20), np.linspace(-2, 2, 20), indexing="ij")
    back, log_det = FLOW.inverse(params, np.stack([x, y], axis=-1))
    np.testing.assert_allclose(shades[0].reshape(20, 20), np.exp(norm.logpdf(back).sum(-1) + log_det))
    for other in shades[1:]:
        np.testing.assert_allclose(other, shades[0], rtol=1e-6)


def test_a_density_in_one_dimension_has_its_base_its_context_and_its_support():
    affine = pf.Chain([pf.TriangularAffine(1), pf.Elementwise(1, pf.Softplus())])
    base = pf.StudentT(1)
    fit = density_fit(affine, base=base, base_params=base.init(rng()))
    ax = plots.plot_density(fit, (-1, 30), resolution=3000)
    x, y = lines(ax)["density"].T
    assert np.all(y[x <= 0] == 0)
    assert 0.5 < np.trapezoid(y, x) < 1.01
    plain = plots.plot_density(affine, (-1, 30), params=fit.params, resolution=3000)
    assert not np.allclose(lines(plain)["density"][:, 1], y)
    given = pf.maf(1, flow_layers=1, hidden=(8,), context_dim=2)
    of = [plots.plot_density(given, (-3, 3), params=perturbed(given), context=[c, 1.0]) for c in (-2.0, 2.0)]
    assert not np.allclose(*(lines(ax)["density"][:, 1] for ax in of))


def test_data_are_drawn_over_a_density_and_give_it_bounds():
    data = rng().uniform(10, 20, (300, 2))
    ax = plots.plot_density(lambda y: norm.logpdf(y, 15).sum(-1), data=data)
    np.testing.assert_array_equal(ax.collections[1].get_offsets(), data)
    assert 8 < ax.get_xlim()[0] < 10
    ax = plots.plot_density(lambda y: torch.tensor(norm.logpdf(y[:, 0], 15)), (0, 30), data=data[:, 0])
    assert sum(p.get_height() * p.get_width() for p in ax.patches) == pytest.approx(1.0)
    assert lines(ax)["density"][:, 1].max() == pytest.approx(norm.pdf(0), rel=1e-2)


# grids


@pytest.mark.parametrize(
    "flow",
    [
        FLOW,
        pf.Inverse(pf.nsf(2, flow_layers=4, hidden=(4,))),
        pf.Chain({"a": pf.Frozen(pf.TriangularAffine(2)), "b": pf.Repeat(pf.iaf(2, flow_layers=1), times=2)}),
        pf.Chain([pf.Repeat(pf.Reverse(2), times=2), pf.Inverse(pf.Inverse(pf.iaf(2, flow_layers=2)))]),
    ],
)
def test_layers_one_after_another_are_the_flow(flow):
    params, x = perturbed(flow), rng().standard_normal((5, 2))
    y = x
    layers = layers_of(flow, params)
    for layer in layers:
        assert not isinstance(layer.bijection, pf.Chain | pf.Repeat)
        y, _ = layer.bijection.forward(layer.params, y)
    np.testing.assert_allclose(y, flow.forward(params, x)[0], atol=1e-8)
    assert len(layers) > 1


def test_a_grid_ends_where_the_flow_takes_it():
    params = perturbed(FLOW)
    panels = plots.plot_warped_grid(FLOW, params, num_draws=50)
    assert [ax.get_title() for ax in panels] == ["base", "1 LULinear", "2 Coupling", "3 Coupling"]
    base, last = (next(c for c in ax.collections if isinstance(c, LineCollection)) for ax in panels[[0, -1]])
    for before, after in zip(base.get_segments(), last.get_segments(), strict=True):
        np.testing.assert_allclose(FLOW.forward(params, before)[0], after, atol=1e-8)
    first, end = (ax.collections[1].get_offsets().data for ax in panels[[0, -1]])
    np.testing.assert_allclose(FLOW.forward(params, first)[0], end, atol=1e-8)


def test_of_many_layers_evenly_spaced_ones_are_drawn():
    deep = pf.real_nvp(2, flow_layers=20, hidden=(4,))
    panels = plots.plot_warped_grid(density_fit(deep), panels=5, num_draws=20)
    count = len(layers_of(deep, deep.init(rng())))
    numbers = [int(ax.get_title().split()[0]) for ax in panels[1:]]
    assert numbers[-1] == count
    assert np.ptp(np.diff([0, *numbers])) <= 1


# calibration


def test_uniform_ranks_stay_in_the_bands_and_narrow_posteriors_leave_them():
    theta = rng().standard_normal(400)
    y = theta + rng().spawn(1)[0].standard_normal(400)
    z = rng().spawn(2)[1].standard_normal((400, 99))
    ranks = {f"{sd}": (y[:, None] / 2 + sd * 0.5**0.5 * z < theta[:, None]).sum(1) for sd in (1.0, 0.6)}
    panels = plots.plot_calibration(ranks, 99)
    assert panels.shape == (2, 3)
    assert "0.6" in panels[1, 0].get_ylabel()
    outside = []
    for (histogram, difference, coverage), rank in zip(panels, ranks.values(), strict=True):
        bars = [p.get_height() for p in histogram.patches if isinstance(p, mpl.patches.Rectangle)]
        np.testing.assert_array_equal(bars, np.histogram(rank, np.arange(0, 101, 5) - 0.5)[0])
        x, gap = difference.lines[-1].get_data()
        np.testing.assert_allclose(gap, [(rank <= r).mean() - (r + 1) / 100 for r in range(99)])
        low, high = simultaneous_band(x, 400, 0.95)
        outside.append(bool(np.any((gap + x < low - 1e-9) | (gap + x > high + 1e-9))))
        nominal, seen = coverage.lines[-1].get_data()
        half = nominal[20] / 2
        assert seen[20] == pytest.approx(np.mean(np.abs((rank + 0.5) / 100 - 0.5) <= half + 1e-9))
    assert outside == [False, True]
    assert seen[nominal > 0.45][0] < 0.37, "intervals of narrow posteriors hold too rarely"


def test_the_band_holds_whole_curves_as_often_as_it_says():
    expected = np.arange(1, 50) / 50
    low, high = simultaneous_band(expected, 200, 0.9)
    sample = np.random.default_rng(5).integers(0, 50, (4000, 200))
    curves = np.stack([np.mean(sample < k, axis=1) for k in range(1, 50)], axis=1)
    inside = np.all((curves >= low - 1e-9) & (curves <= high + 1e-9), axis=1).mean()
    assert inside == pytest.approx(0.9, abs=0.02)  # three standard errors of both simulations


# images


def test_images_lie_in_rows_between_white_lines():
    images = rng().uniform(size=(5, 4, 3))
    shown = plots.plot_images(images, columns=3, limits=(0, 1)).images[0].get_array()
    assert shown.shape == (9, 11, 3)
    np.testing.assert_allclose(shown[5:, 4:7, 1], images[4])
    assert np.all(shown[4] == 1)
    assert np.all(shown[5:, 8:] == 1), "there is no sixth"
    in_colour = rng().uniform(-1, 3, size=(2, 4, 3, 3))
    shown = plots.plot_images(torch.tensor(in_colour)).images[0].get_array()
    low, high = in_colour.min(), in_colour.max()
    np.testing.assert_allclose(shown[:, 4:], (in_colour[1] - low) / (high - low))


def test_an_interpolation_ends_at_its_images_and_is_straight_in_the_base():
    shape = (2, 3, 1)
    flow = pf.Chain([pf.nice(6, hidden=(8,)), pf.Reshape(shape), pf.LogitTransform(shape)])
    params = perturbed(flow)
    start, end = rng().uniform(0.1, 0.9, (2, 2, *shape))
    ax = plots.plot_interpolation(flow, params, start=start, end=end, steps=3, limits=(0, 1))
    shown = ax.images[0].get_array()[..., :1]
    np.testing.assert_allclose(shown[:2, :3], start[0], atol=1e-6)
    np.testing.assert_allclose(shown[3:, 8:], end[1], atol=1e-6)
    middle = (flow.inverse(params, start[0])[0] + flow.inverse(params, end[0])[0]) / 2
    np.testing.assert_allclose(shown[:2, 4:7], flow.forward(params, middle)[0], atol=1e-6)


# all


def test_pictures_go_into_the_axes_that_are_given():
    ax = plt.figure().add_subplot()
    for draw in (
        lambda: plots.plot_loss(fit_result(), ax=ax),
        lambda: plots.plot_weights(rng().standard_normal(100), ax=ax),
        lambda: plots.plot_density(lambda y: norm.logpdf(y[:, 0]), (-1, 1), ax=ax),
        lambda: plots.plot_images(np.zeros((1, 2, 2)), ax=ax),
    ):
        assert draw() is ax
        ax.clear()
    axes = plt.subplots(3, 3)[1]
    assert plots.plot_posterior(draws(), axes=axes)[2, 1] is axes[2, 1]
    assert plots.plot_calibration({n: rng().integers(0, 20, 50) for n in "abc"}, 19, axes=axes)[1, 2] is axes[1, 2]
    assert plots.plot_warped_grid(FLOW, perturbed(FLOW), axes=axes[0], panels=3)[1] is axes[0, 1]
    assert len(plt.get_fignums()) == 2


NAN = np.r_[np.nan, np.zeros(99)]
FOREIGN = density_fit(_write=None)


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (
            lambda: plots.plot_loss([1.0, 2.0]),
            TypeError,
            "takes a result of fit, fit_density or fit_amortized, got list",
        ),
        (lambda: plots.plot_loss(fit_result(), steps=100), ValueError, "200 steps were taken, more than steps=100"),
        (lambda: plots.plot_loss(fit_result(np.full(9, np.nan))), ValueError, "none of the 9 losses is finite"),
        (
            lambda: plots.plot_loss(fit_result(), ax=plt.figure()),
            TypeError,
            "ax must be one Axes of matplotlib, got Figure",
        ),
        (
            lambda: plots.plot_posterior({"x": np.zeros((99, 9))}),
            ValueError,
            "at most 8 coordinates .*got 9; choose coord",
        ),
        (lambda: plots.plot_posterior(draws(), coordinates=["nu"]), ValueError, "no 'nu'; there are mu, theta"),
        (lambda: plots.plot_posterior(draws(), coordinates="mu"), TypeError, "must be a list of names"),
        (lambda: plots.plot_posterior(draws(), coordinates=[]), ValueError, "no coordinates to draw"),
        (lambda: plots.plot_posterior(draws(), {"mu": draws()["mu"]}), ValueError, r"reference has no 'theta\[0\]'"),
        (lambda: plots.plot_posterior(draws(20)), ValueError, "at least 25 draws, got 20"),
        (lambda: plots.plot_posterior({"mu": NAN}), ValueError, "draws of 'mu' are not all finite"),
        (lambda: plots.plot_posterior({"mu": np.ones(99)}), ValueError, "draws of 'mu' are all equal"),
        (lambda: plots.plot_posterior({"a": NAN, "b": NAN[1:]}), ValueError, "as many draws of every site"),
        (lambda: plots.plot_posterior({"a": ["x"] * 99}), TypeError, "must be an array"),
        (lambda: plots.plot_posterior(np.repeat(draws()["theta"][:, :1], 2, 1)), ValueError, "lie on a line"),
        (lambda: plots.plot_posterior(draws(), labels=("a", "a")), ValueError, r"two different ones.*got \('a', 'a'\)"),
        (lambda: plots.plot_posterior(draws(), labels="ab"), ValueError, "labels must be two different ones"),
        (lambda: plots.plot_posterior(draws(), kind="kde"), ValueError, "unknown kind 'kde'"),
        (lambda: plots.plot_posterior(draws(), axes=plt.subplots(2, 2)[1]), ValueError, "must be 3 x 3 Axes.*got 4"),
        (lambda: plots.plot_posterior(draws(), axes=[1] * 9), TypeError, "axes must be an array of Axes"),
        (lambda: plots.plot_weights(np.zeros((99, 2))), ValueError, r"a vector of at least 25.*got shape \(99, 2\)"),
        (lambda: plots.plot_weights(NAN), ValueError, "1 of 100 are not"),
        (lambda: plots.plot_weights(np.full(99, -np.inf)), ValueError, "must be finite"),
        (lambda: plots.plot_weights(fit_result(kl=Estimate(np.nan, np.nan))), ValueError, "likelihood is sub-sampled"),
        (lambda: plots.plot_density(FLOW, (-1, 1)), TypeError, "a bijection needs its parameters"),
        (lambda: plots.plot_density(pf.nsf, (-1, 1), params={}), TypeError, "go with a bijection"),
        (
            lambda: plots.plot_density(dist.Normal(0.0, 1.0), (-1, 1)),
            TypeError,
            "of a distribution give the log density",
        ),
        (lambda: plots.plot_density("flow", (-1, 1)), TypeError, "takes bijections such as"),
        (lambda: plots.plot_density(FLOW, params=perturbed(FLOW)), ValueError, "needs bounds such as"),
        (lambda: plots.plot_density(density_fit(), (-1, 1)), ValueError, "the density 2, bounds 1"),
        (lambda: plots.plot_density(density_fit(), data=NAN[1:]), ValueError, "the density 2, bounds 1, data 1"),
        (lambda: plots.plot_density(density_fit(), params={}), TypeError, "params and a base of its own"),
        (
            lambda: plots.plot_density(density_fit(pf.iaf(3)), (-1, 1)),
            ValueError,
            r"size 1 or 2, got one of shape \(3,\)",
        ),
        (lambda: plots.plot_density(FOREIGN, ((-1, 1), (-1, 1))), ValueError, "a base of the language's own"),
        (lambda: plots.plot_density(lambda y: y, (-1, 1)), ValueError, r"must give shape \(200,\)"),
        (lambda: plots.plot_density(lambda y: y[:, 0] * np.nan, (-1, 1)), ValueError, "nan at 200 of 200 points"),
        (lambda: plots.plot_density(np.log, (1, -1)), ValueError, "low below high"),
        (lambda: plots.plot_density(np.log, (1, 2, 3)), ValueError, "once or twice"),
        (lambda: plots.plot_density(np.log, data=np.zeros((9, 3))), ValueError, r"got \(9, 3\)"),
        (lambda: plots.plot_density(density_fit(), ((0, 1),) * 2, context=[1.0]), ValueError, "size 0, got shape"),
        (lambda: plots.plot_warped_grid(density_fit(pf.iaf(3))), ValueError, r"size 2, got one from shape \(3,\)"),
        (
            lambda: plots.plot_warped_grid(density_fit(pf.maf(2, context_dim=1))),
            ValueError,
            "vector of size 1, got none",
        ),
        (lambda: plots.plot_warped_grid(density_fit(), panels=1), ValueError, "panels must be at least 2"),
        (lambda: plots.plot_warped_grid(FLOW, pf.iaf(2).init(rng())), ValueError, "params"),
        (lambda: plots.plot_calibration(np.full(99, 0.5), 100), ValueError, "whole numbers from 0 to num_draws=100"),
        (lambda: plots.plot_calibration(np.full(99, 101), 100), ValueError, "run from 101 to 101"),
        (lambda: plots.plot_calibration(np.zeros((99, 2)), 100), ValueError, r"as a dict"),
        (lambda: plots.plot_calibration(np.zeros(9), 100), ValueError, "at least 10 data sets"),
        (lambda: plots.plot_calibration(np.zeros(99), 5, bins=7), ValueError, "6 ranks, fewer than bins=7"),
        (lambda: plots.plot_calibration({"a": np.zeros((99, 13))}, 5), ValueError, "at most 12 rows"),
        (lambda: plots.plot_images(np.zeros((8, 8))), ValueError, r"one image is images\[None\]"),
        (lambda: plots.plot_images(np.zeros((2, 3, 8, 8))), ValueError, "the channels last"),
        (lambda: plots.plot_images(np.full((2, 8, 8), np.nan)), ValueError, "128 of the 128 pixels"),
        (lambda: plots.plot_images(np.zeros((2, 8, 8)), limits=(1, 0)), ValueError, "limits must be"),
        (lambda: plots.plot_interpolation(FLOW, perturbed(FLOW), start=0, end=0), ValueError, "takes flows of images"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_in_words(draw, error, message):
    with pytest.raises(error, match=message):
        draw()


def test_images_that_a_flow_does_not_take_are_an_error():
    shape = (2, 3, 1)
    fit = density_fit(pf.Chain([pf.Reshape(shape), pf.LogitTransform(shape)]))
    inside, outside = np.full(shape, 0.5), np.full(shape, 16.0)
    with pytest.raises(ValueError, match=r"pixels from 0.5 to 16.*\(image \+ 0.5\) / levels"):
        plots.plot_interpolation(fit, start=inside, end=outside)
    with pytest.raises(ValueError, match=r"of shape \(2, 3, 1\).*got \(2, 3\) and \(2, 3\)"):
        plots.plot_interpolation(fit, start=inside[..., 0], end=inside[..., 0])


def test_without_matplotlib_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from ppl_flows import plots\n"
        "try: plots.plot_images([[[1.0]]])\n"
        "except ImportError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "pip install ppl_flows[arviz]" in run.stdout


@pytest.mark.slow
def test_the_pages_code_runs_and_makes_its_figures(tmp_path):
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "make_figures.py")
    make_figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_figures)
    made = make_figures.draw(tmp_path, most_steps=20)
    shown = re.findall(r"\(figures/(\w+\.png)\)", (DOCS / "plots.md").read_text())
    assert [path.name for path in made] == shown
    assert {path.name for path in (DOCS / "figures").iterdir()} == set(shown), "run `make docs`"
    assert all((DOCS / "figures" / name).stat().st_size < 60_000 for name in shown)
