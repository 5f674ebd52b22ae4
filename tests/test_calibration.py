"""Whether posteriors are right: ranks, joint coverage and classifiers, by models with an exact posterior."""

import builtins

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pytest
import torch
from scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows import plots
from ppl_flows.inference.expected_coverage import nearest_rows
from ppl_flows.inference.uniform_ranks import rank_thresholds, simultaneous_band, uniformity_p_value

mpl.use("Agg")
SHELLS = {"pyro": pfp, "numpyro": pfn}


def linear_gaussian(seed, *, n=200, num_draws=99, width=1.0, shift=0.0, blind=False, level=0.95):
    """Calibration of ``z ~ N(0, 1)``, ``y | z ~ N(z, 1)`` in two dimensions, whose posterior is ``N(y / 2, 1 / 2)``.

    The first coordinate's posterior is so many times as wide, and shifted by so many of its standard deviations.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(2, n, 2))
    y = z + rng.normal(size=(2, n, 2))
    noise = rng.normal(size=(n, num_draws, 2))
    draws = noise if blind else y[0][:, None] / 2 + 0.5**0.5 * (noise * [width, 1.0] + [shift, 0.0])
    references = z[1][nearest_rows(y[0], y[1])]
    return pf.Calibration.from_draws({"z": z[0]}, {"z": draws}, references={"z": references}, level=level)


# ranks and coverage


def test_right_posteriors_are_called_wrong_as_rarely_as_the_level_says():
    found = [linear_gaussian(seed, n=60, num_draws=19) for seed in range(400)]
    error = (0.05 * 0.95 / 400) ** 0.5
    of_one = [c.p_values["z[0]"] < 0.05 for c in found], [c.coverage_p_value < 0.05 for c in found]
    for wrong in (*of_one, [not c.calibrated for c in found]):
        assert np.mean(wrong) < 0.05 + 3 * error
        assert np.mean(wrong) > 0.05 - 4 * error, "ranks are discrete, so that a little less is right"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"width": 0.6}, "too narrow (50% and 90% intervals hold"),
        ({"width": 1.7}, "too wide (50% and 90% intervals hold"),
        ({"shift": 0.6}, "too high ("),
        ({"shift": -0.6}, "too low ("),
        ({"width": 0.5, "shift": 0.5}, "too narrow and too high ("),
    ],
)
def test_a_spoiled_posterior_is_found_and_named(spoil, words):
    calibration = linear_gaussian(0, **spoil)
    assert not calibration.calibrated
    assert "z[0]" in calibration.failures
    assert "z[1]" not in calibration.failures, "nothing is wrong with it"
    assert calibration.verdict.startswith(f"not calibrated: z[0] {words}")
    assert calibration.verdict in repr(calibration)
    shares = {"too high": 0.73, "too low": 0.73}  # P(truth below the median + 0.6 sd)
    share = next((v for k, v in shares.items() if words == f"{k} ("), None)
    if share:
        assert float(calibration.failures["z[0]"].split("(")[1].split("%")[0]) / 100 == pytest.approx(share, abs=0.08)


def test_draws_from_the_prior_pass_in_each_coordinate_but_not_the_joint_coverage():
    calibration = linear_gaussian(0, blind=True)
    assert list(calibration.failures) == [""]
    assert "blind to the data" in calibration.verdict
    assert min(calibration.p_values.values()) > 0.05


def test_a_p_value_is_below_five_percent_where_the_band_is_left():
    rng = np.random.default_rng(0)
    thresholds, expected = rank_thresholds(49)
    low, high = simultaneous_band(expected, 100, 0.95)
    seen = set()
    for _ in range(400):
        ranks = np.minimum((50 * rng.beta(1.0, rng.uniform(0.8, 1.3), 100)).astype(int), 49)
        curve = np.mean(ranks[:, None] <= thresholds, axis=0)
        within = bool(np.all((curve >= low - 1e-9) & (curve <= high + 1e-9)))
        p = uniformity_p_value(ranks, 49)
        assert within == (p > 0.05) or abs(p - 0.05) < 0.004, "curves that come as far as the band have one p-value"
        seen.add(within)
    assert seen == {True, False}


def test_expected_coverage_of_narrow_posteriors_is_that_of_the_two_distances():
    """Of references far off a region is a half-line, so that coverage is that of a quantile."""
    rng = np.random.default_rng(3)
    z, draws = rng.normal(size=4_000), 0.5 * rng.normal(size=(4_000, 99))
    calibration = pf.Calibration.from_draws({"z": z}, {"z": draws}, references={"z": np.full(4_000, -50.0)})
    masses = np.array([0.1, 0.5, 0.9])
    expected = stats.norm.cdf(0.5 * stats.norm.ppf(masses))
    np.testing.assert_allclose(calibration.expected_coverage(masses), expected, atol=0.03)
    assert calibration.expected_coverage(0.5).shape == ()


def test_ties_of_discrete_parameters_count_at_random():
    rng = np.random.default_rng(0)
    calibration = pf.Calibration.from_draws({"k": rng.poisson(1.0, 300)}, {"k": rng.poisson(1.0, (300, 50))})
    assert calibration.calibrated, calibration
    assert calibration.ranks["k"].max() > 45


# of models


def conjugate(shell):
    """A model of two data sites from one argument, and its exact posterior, a function of data and a seed."""
    lang, ones = (pytest.importorskip(m) for m in (shell, {"pyro": "torch", "numpyro": "jax.numpy"}[shell]))
    dist = lang.distributions

    def model(y):
        z = lang.sample("z", dist.Normal(ones.zeros(2), ones.ones(2)).to_event(1))
        lang.deterministic("twice", 2 * z)
        for i in range(2):
            lang.sample(f"y{i}", dist.Normal(z[..., i], 1.0), obs=None if y is None else y[i])

    def posterior(data, seed):
        mean = np.array([np.asarray(data["y0"]), np.asarray(data["y1"])]) / 2
        z = mean + 0.5**0.5 * np.random.default_rng(seed).normal(size=(50, 2))
        return {"z": z, "twice": 2 * z}

    return model, posterior, ones.zeros(2)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_model_and_its_exact_posterior_are_calibrated_and_a_narrow_one_is_not(shell):
    model, posterior, y = conjugate(shell)
    right = SHELLS[shell].calibrate(model, posterior, y, simulations=100, progress=False)
    assert right.calibrated, right
    assert list(right.ranks) == ["z[0]", "z[1]", "twice[0]", "twice[1]"]
    np.testing.assert_array_equal(right.ranks["z[1]"], right.ranks["twice[1]"])
    assert right.num_draws == 50

    def narrow(data, seed):
        z = posterior(data, seed)["z"]
        return {"z": z.mean(0) + 0.5 * (z - z.mean(0))}

    wrong = SHELLS[shell].calibrate(model, narrow, y, simulations=100, progress=False)
    assert {"z[0]", "z[1]", ""} == wrong.failures.keys()


@pytest.mark.parametrize("shell", ["pyro", pytest.param("numpyro", marks=pytest.mark.slow)])
def test_an_amortised_fit_is_asked_for_the_posterior_of_each_simulated_data_set(shell):
    model, _, y = conjugate(shell)
    fit = SHELLS[shell].fit_amortized(model, y, flow=pf.Elementwise, simulations=100, steps=2, progress=False)
    own = SHELLS[shell].calibrate(model, fit, y, simulations=20, num_samples=30, progress=False)

    def by_hand(data, seed):
        return fit.sample(30, [data["y0"], data["y1"]], seed=seed)

    asked = SHELLS[shell].calibrate(model, by_hand, y, simulations=20, progress=False)
    np.testing.assert_array_equal(own.ranks["z[0]"], asked.ranks["z[0]"])
    np.testing.assert_array_equal(own.coverage_ranks, asked.coverage_ranks)


def pyro_model(y):
    z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
    pyro.sample("y", pyro.distributions.Normal(z, 1.0), obs=y)


def test_posteriors_in_pyro_have_a_parameter_store_each():
    pyro.clear_param_store()
    kept = pyro.param("kept", torch.ones(1))

    def posterior(y, seed):
        assert not list(pyro.get_param_store())
        mean = pyro.param("mean", y / 2)
        return {"z": mean + 0.5**0.5 * torch.randn(30)}

    calibration = pfp.calibrate(pyro_model, posterior, torch.tensor(0.0), simulations=50, progress=False)
    assert calibration.calibrated, calibration
    assert list(pyro.get_param_store()) == ["kept"]
    assert pyro.param("kept") is kept


@pytest.mark.long
@pytest.mark.parametrize("shell", SHELLS)
def test_fits_of_simulated_data_are_calibrated(shell):
    model, _, y = conjugate(shell)

    def posterior(data, seed):
        lang = SHELLS[shell]
        own = [data["y0"], data["y1"]]
        result = lang.fit(model, lang.AutoFlow(model, pf.TriangularAffine), own, steps=50, seed=seed, progress=False)
        z = np.asarray(result.sample(1_000, seed=seed)["z"])
        errors.append((z.mean(0) - np.ravel(own) / 2) * 2**0.5)
        return {"z": z[:49]}

    errors = []
    calibration = SHELLS[shell].calibrate(model, posterior, y, simulations=20, seed=1, progress=False)
    assert calibration.calibrated, calibration
    np.testing.assert_allclose(errors, 0.0, atol=0.15)
    assert np.abs(np.mean(errors)) < 3 / (1_000 * 40) ** 0.5 + 0.005


# classifiers


def test_a_classifier_guesses_between_equal_samples_and_knows_shifted_ones():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 600, 1))
    assert pf.c2st(a, b, folds=2) == pytest.approx(0.5, abs=0.06)  # three standard errors
    best = stats.norm.cdf(1.0)  # of any classifier, for a distance of 2
    assert pf.c2st({"z": a}, {"z": b + 2.0}, folds=2) == pytest.approx(best, abs=0.04)


def test_without_scikit_learn_an_error_names_it(monkeypatch):
    load = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return load(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        pf.c2st(np.zeros((9, 1)), np.zeros((9, 1)))


# pictures and errors


def test_pictures_show_the_calibration():
    calibration = linear_gaussian(0, width=0.5)
    rows = plots.plot_calibration(calibration)
    assert rows.shape == (2, 3)
    assert "z[0]" in rows[0, 0].get_ylabel()
    ax = plots.plot_coverage(calibration)
    credibility, seen = ax.lines[-1].get_data()
    np.testing.assert_allclose(seen, [np.mean(calibration.coverage_ranks <= r) for r in range(99)])
    np.testing.assert_allclose(credibility, np.arange(1, 100) / 100)
    many = pf.Calibration.from_draws({"z": np.zeros((20, 30))}, {"z": np.zeros((20, 9, 30))})
    assert plots.plot_calibration(many).shape == (12, 3)
    plt.close("all")


N = np.zeros(20)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pf.Calibration.from_draws({"z": N}, {"z": np.zeros((19, 9))}), ValueError, r"\(19, 9\) and \(20,\)"),
        (lambda: pf.Calibration.from_draws({"z": N}, {"a": np.zeros((20, 9))}), ValueError, r"there are \['z'\]"),
        (lambda: pf.Calibration.from_draws({"z": N[:9]}, {"z": np.zeros((9, 9))}), ValueError, "at least 10 data"),
        (lambda: pf.Calibration.from_draws({"z": N}, {"z": np.full((20, 9), np.nan)}), ValueError, "180 are not"),
        (lambda: pf.Calibration.from_draws({"z": N}, np.zeros((20, 9))), TypeError, "must be {site: numbers}"),
        (
            lambda: pf.Calibration.from_draws({"z": N}, {"z": np.zeros((20, 9))}, references={"a": N}),
            ValueError,
            "those of 'z' are not",
        ),
        (lambda: pfn.calibrate(lambda y: None, lambda y: {}, 0.0), TypeError, r"data and a seed.*takes \(y\)"),
        (lambda: pfn.calibrate(lambda y: None, 3, 0.0), TypeError, "got 3"),
        (lambda: pfn.calibrate(lambda y: None, lambda y, seed: {}, 0.0, simulations=9), ValueError, "at least 10"),
        (lambda: pfp.calibrate(lambda: None, lambda y, seed: {}), ValueError, "needs sites with obs"),
        (lambda: plots.plot_coverage(N), TypeError, "as calibrate gives"),
        (lambda: plots.plot_calibration(N), TypeError, "num_draws"),
        (lambda: pf.c2st(np.zeros((9, 1)), np.zeros((9, 2))), ValueError, r"\(9, 1\) and \(9, 2\)"),
        (lambda: pf.c2st(np.zeros((9, 1)), np.zeros((9, 1))), ValueError, "is constant"),
        (lambda: pf.c2st({"z": N}, {"a": N}), ValueError, "the draws are of"),
        (lambda: pf.c2st({"z": N}, N[:, None]), TypeError, "must both be"),
        (lambda: pf.c2st(np.full((9, 1), np.inf), np.zeros((9, 1))), ValueError, "9 rows are not"),
        (lambda: pf.c2st(np.eye(3), np.eye(3)), ValueError, "folds=5 need"),
    ],
)
def test_errors_name_what_is_wrong(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_an_error_of_a_posterior_says_for_which_data_set_and_draws_must_be_of_latents():
    model, posterior, y = conjugate("pyro")

    def fails(data, seed):
        if seed > 3:
            raise RuntimeError("no")
        return posterior(data, seed)

    with pytest.raises(RuntimeError, match="no") as caught:
        pfp.calibrate(model, fails, y, simulations=10, progress=False)
    assert "data set 3 of 10, with seed 4" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="'other', which is no latent site"):
        pfp.calibrate(model, lambda data, seed: {"other": np.zeros(9)}, y, simulations=10, progress=False)
    with pytest.raises(TypeError, match="must return draws"):
        pfp.calibrate(model, lambda data, seed: [1.0], y, simulations=10, progress=False)
    with pytest.raises(ValueError, match="draws of the same shapes"):
        pfp.calibrate(model, lambda data, seed: {"z": np.zeros((seed + 2, 2))}, y, simulations=10, progress=False)
