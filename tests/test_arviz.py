"""Fits in ArviZ: the groups, and that they are what they say, in both languages and on ArviZ 0.x and 1.x."""

import builtins
import warnings
from functools import partial

import arviz as az
import numpy as np
import numpyro
import pandas as pd
import pyro
import pytest
import torch
import xarray
from languages import SHORT, STILL, identity_flow, small
from scipy import stats
from scipy.special import logsumexp
from test_guide_sites import mixture

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.inference.evidence import Evidence
from ppl_flows.inference.fit_groups import FitGroups
from ppl_flows.inference.inference_data import constants, labels
from ppl_flows.inference.model_runs import plate_names
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights

SIGMA = np.array([1.0, 2.0, 0.5, 1.5])
Y = np.array([0.3, -1.0, 2.0, 0.7])


def rows(lang):
    """A hierarchical model with data, a deterministic site and a factor; ``table`` is not used."""

    def model(y, sigma, table=None):
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 1.0))
        scale = lang.ppl.sample("scale", lang.dist.LogNormal(lang.array(0.0), 0.5))
        lang.ppl.factor("nothing", lang.array(0.0))
        with lang.ppl.plate("row", 4):
            theta = lang.ppl.sample("theta", lang.dist.Normal(mu, scale))
            lang.ppl.deterministic("double", 2 * theta)
            lang.ppl.sample("y", lang.dist.Normal(theta, sigma), obs=y)

    return model


@pytest.fixture
def result(lang):
    """Of a guide that is right enough, and compiles fast."""

    def guide(y, sigma, table=None):
        lang.ppl.sample("mu", lang.dist.Normal(lang.ppl.param("mu_loc", lang.array(0.4)), 0.6))
        lang.ppl.sample("scale", lang.dist.LogNormal(lang.array(0.0), 0.5))
        with lang.ppl.plate("row", 4):
            loc = lang.ppl.param("loc", lang.array(np.array([0.3, 0.0, 1.7, 0.5])))
            lang.ppl.sample("theta", lang.dist.Normal(loc, lang.array(np.array([0.7, 0.9, 0.5, 0.8]))))

    data = lang.array(Y), lang.array(SIGMA), pd.Series(SIGMA, index=list("abcd"))
    return lang.fit(rows(lang), guide, *data, **(STILL | {"draws": 2000}))


def groups_of(data):
    return set(data.groups()) if hasattr(data, "extend") else set(data.children)


def test_the_groups_are_what_they_say(result):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the verdict on a short fit
        data = result.to_arviz(600, prior=400, reweighted=False, seed=3)
    assert groups_of(data) == {
        *("posterior", "posterior_predictive", "log_likelihood", "sample_stats", "prior", "prior_predictive"),
        *("observed_data", "constant_data"),
    }
    posterior = data["posterior"]
    assert set(posterior.data_vars) == set(data["prior"].data_vars) == {"mu", "scale", "theta", "double"}
    for group in ("posterior_predictive", "log_likelihood", "observed_data", "prior_predictive"):
        assert set(data[group].data_vars) == {"y"}
    assert posterior["theta"].dims == posterior["double"].dims == ("chain", "draw", "row")
    assert posterior["theta"].shape == (1, 600, 4)
    assert list(posterior["row"].values) == list("abcd"), "of the index of the table"
    np.testing.assert_allclose(posterior["double"], 2 * posterior["theta"])

    theta, mu, scale = (posterior[name].values[0] for name in ("theta", "mu", "scale"))
    rows = stats.norm.logpdf(Y, theta, SIGMA)
    np.testing.assert_allclose(data["log_likelihood"]["y"].values[0], rows, rtol=1e-6)
    density = stats.norm.logpdf(mu) + stats.lognorm.logpdf(scale, 0.5) + np.log(scale) + rows.sum(-1)
    density += stats.norm.logpdf(theta, mu[:, None], scale[:, None]).sum(-1)
    np.testing.assert_allclose(data["sample_stats"]["lp"].values[0], density, rtol=1e-6)
    gap = data["sample_stats"]["lp"].values - data["sample_stats"]["log_q"].values
    assert gap.mean() == pytest.approx(result.elbo.mean, abs=5 * gap.std() / 600**0.5 + 5 * result.elbo.se)

    residual = (data["posterior_predictive"]["y"].values[0] - theta) / SIGMA
    assert stats.kstest(residual.ravel(), "norm").pvalue > 1e-4
    assert data["prior"]["mu"].shape == (1, 400)
    assert stats.kstest(data["prior"]["mu"].values.ravel(), "norm").pvalue > 1e-4
    np.testing.assert_allclose(data["prior"]["double"], 2 * data["prior"]["theta"])
    spread = data["prior_predictive"]["y"].values[0] - data["prior"]["theta"].values[0]
    assert stats.kstest((spread / SIGMA).ravel(), "norm").pvalue > 1e-4

    np.testing.assert_allclose(data["observed_data"]["y"], Y)
    assert data["observed_data"]["y"].dims == ("row",)
    assert set(data["constant_data"].data_vars) == {"sigma", "table"}
    assert posterior.attrs["draws"] == "of the guide"
    assert posterior.attrs["verdict"] == result.verdict
    assert posterior.attrs["elbo"] == result.elbo.mean
    assert data.attrs["inference_library"] == "ppl_flows"


def test_arviz_works_on_it(result, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = result.to_arviz(500, prior=0)
        assert "prior" not in groups_of(data)
        table = az.summary(data, var_names=["mu", "theta"])
        elpd = az.loo(data)
    assert table.shape[0] == 5
    own = np.log(np.mean(np.exp(data["log_likelihood"]["y"].values[0]), 0)).sum()
    estimate = elpd.elpd_loo if hasattr(elpd, "elpd_loo") else elpd.elpd
    assert own - 5 < estimate < own
    data.to_netcdf(tmp_path / "fit.nc")


def test_draws_are_resampled_where_the_verdict_asks_for_it(lang):
    def model():
        lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))

    def guide(scale):
        return lambda: lang.ppl.sample("z", lang.dist.Normal(lang.ppl.param("m", lang.array(0.0)), lang.array(scale)))

    usable = lang.fit(model, guide(1.4), **(STILL | {"draws": 2000}))
    assert usable.grade == "usable after reweighting"
    data = usable.to_arviz(2000, prior=0)["posterior"]
    assert data.attrs["draws"].startswith("of the guide, resampled")
    assert data["z"].values.std() == pytest.approx(1, abs=0.1)
    as_it_is = usable.to_arviz(2000, prior=0, reweighted=False)["posterior"]
    assert as_it_is.attrs["draws"] == "of the guide"
    assert as_it_is["z"].values.std() == pytest.approx(1.4, abs=0.1)

    with pytest.warns(UserWarning, match="the verdict on these draws is: do not trust"):
        lang.fit(model, guide(5.0), **(STILL | {"draws": 2000})).to_arviz(50, prior=0)


@pytest.mark.slow
@pytest.mark.slow_in_numpyro
def test_enumerated_sites_are_drawn_and_have_no_likelihood_of_rows(lang):
    model = mixture(lang)
    result = lang.fit(model, lang.AutoFlow(model, identity_flow, start="init"), **SHORT)
    with pytest.warns() as caught:
        found = result.to_arviz(40, prior=20, reweighted=False)
    assert any("sites are summed over" in str(warning.message) for warning in caught)
    names = set(result.sample(2)) | set(result.infer_discrete(2))
    assert set(found["posterior"].data_vars) == names
    assert "log_likelihood" not in groups_of(found)
    assert found["posterior_predictive"].sizes["draw"] == 40


def test_a_sub_sampled_fit_has_its_posterior_alone(lang):
    data = lang.array(np.zeros(10))

    def model():
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 1.0))
        with lang.ppl.plate("rows", 10, subsample_size=5) as rows:
            lang.ppl.sample("y", lang.dist.Normal(mu, 1.0), obs=data[rows])

    def guide():
        lang.ppl.sample("mu", lang.dist.Normal(lang.ppl.param("loc", lang.array(0.1)), 1.0))

    result = lang.fit(model, guide, **SHORT)
    assert groups_of(result.to_arviz(30)) == {"posterior"}
    with pytest.raises(ValueError, match="sub-sampled"):
        result.to_arviz(30, reweighted=True)


@pytest.mark.slow_in_numpyro
def test_a_loaded_fit_has_what_it_is_given_the_model_for(lang, tmp_path):
    path = tmp_path / "fit.safetensors"
    guide = lang.AutoFlow(rows(lang), small, start="init")
    lang.fit(rows(lang), guide, lang.array(Y), lang.array(SIGMA), **SHORT).save(path)
    pyro.clear_param_store()
    _, bare = lang.AutoFlow.load(path, rows(lang))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = bare.to_arviz(50, reweighted=False)
        assert groups_of(data) == {"posterior", "sample_stats"}
        assert set(data["posterior"].data_vars) == {"mu", "scale", "theta"}
        assert set(data["sample_stats"].data_vars) == {"log_q"}
        with pytest.raises(ValueError, match=r"AutoFlow.load\(path, model, \*args"):
            bare.to_arviz(50, reweighted=True)
        pyro.clear_param_store()
        _, whole = lang.AutoFlow.load(path, rows(lang), lang.array(Y), lang.array(SIGMA))
        data = whole.to_arviz(50, prior=10, reweighted=False)
    assert {"posterior", "log_likelihood", "prior", "observed_data"} <= groups_of(data)


def test_a_prior_that_cannot_be_drawn_from_is_left_out_and_says_so(lang):
    dist, array = lang.dist, lang.array

    def model(y):
        flat = dist.ImproperUniform(dist.constraints.real, (), ())
        mu = lang.ppl.sample("mu", flat)
        lang.ppl.sample("y", dist.Normal(mu, 1.0), obs=y)

    def guide(y):
        lang.ppl.sample("mu", dist.Normal(lang.ppl.param("loc", array(0.5)), 1.0))

    result = lang.fit(model, guide, array(0.5), **(STILL | {"draws": 500}))
    with pytest.warns(UserWarning, match="cannot be drawn from"):
        data = result.to_arviz(20)
    assert "prior" not in groups_of(data)
    assert "log_likelihood" in groups_of(data)


def test_axes_and_labels_can_be_given_and_must_fit(lang):
    def model(year):
        lang.ppl.sample("w", lang.dist.Normal(lang.array(np.zeros(3)), 1.0).to_event(1))
        with lang.ppl.plate("year", 2):  # named as the argument
            lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))

    def guide(year):
        lang.ppl.sample("w", lang.dist.Normal(lang.ppl.param("m", lang.array(np.zeros(3))), 1.0).to_event(1))
        with lang.ppl.plate("year", 2):
            lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))

    year = xarray.DataArray(np.zeros(2), dims="year", coords={"year": [1990, 2000]})
    result = lang.fit(model, guide, year, **(STILL | {"draws": 200}))
    data = result.to_arviz(20, prior=0, dims={"w": ["column"]}, coords={"column": ["u", "v", "s"]})
    posterior = data["posterior"]
    assert posterior["w"].dims == ("chain", "draw", "column")
    assert list(posterior["column"].values) == ["u", "v", "s"]
    assert posterior["z"].dims == ("chain", "draw", "year_dim"), "the variable of that name keeps it"
    assert list(posterior["year_dim"].values) == [1990, 2000]
    assert data["constant_data"]["year"].shape == (2,)
    with pytest.raises(ValueError, match="coords has 2 values of 'column', of size 3"):
        result.to_arviz(20, prior=0, dims={"w": ["column"]}, coords={"column": ["u", "v"]})
    with pytest.raises(ValueError, match="num_samples"):
        result.to_arviz(0)


def test_without_arviz_the_error_says_what_to_install(lang, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "arviz":
            raise ImportError("no arviz")
        return real(name, *args, **kwargs)

    def model():
        lang.ppl.sample("z", lang.dist.Normal(lang.ppl.param("m", lang.array(0.0)), 1.0))

    result = lang.fit(model, model, **(STILL | {"draws": 100}))
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install ppl_flows\[arviz\]"):
        result.to_arviz(10, prior=0)


def test_batches_of_draws_follow_the_guide_and_are_cut_to_the_number(result):
    draws = result.sample(1001, batch_size=400)
    assert {name: value.shape for name, value in draws.items()} == {
        "mu": (1001,),
        "scale": (1001,),
        "theta": (1001, 4),
        "double": (1001, 4),
    }
    assert all(isinstance(value, np.ndarray) for value in draws.values())
    assert stats.ks_2samp(draws["mu"], np.asarray(result.sample(1000, seed=5)["mu"])).pvalue > 1e-4
    assert len(np.unique(draws["mu"])) == 1001, "each batch has draws of its own"
    assert result.sample(5, deterministic=False).keys() == {"mu", "scale", "theta"}


@pytest.mark.slow_in_numpyro
def test_models_are_compared_by_their_evidence(lang):
    """Two normal models with known evidence, each with its exact posterior as guide."""
    y = np.array([0.5, 1.5])

    def fitted(prior_sd):
        precision = 2 + prior_sd**-2

        def model():
            mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), prior_sd))
            with lang.ppl.plate("rows", 2):
                lang.ppl.sample("y", lang.dist.Normal(mu, 1.0), obs=lang.array(y))

        def guide():
            loc = lang.ppl.param(f"loc_{prior_sd}", lang.array(y.sum() / precision))
            lang.ppl.sample("mu", lang.dist.Normal(loc, 1.02 * precision**-0.5))

        return lang.fit(model, guide, **(STILL | {"draws": 4000}))

    results = {"narrow": fitted(1.0), "wide": fitted(10.0)}
    exact = {
        name: stats.multivariate_normal.logpdf(y, cov=np.eye(2) + sd**2)
        for name, sd in (("narrow", 1.0), ("wide", 10.0))
    }
    for name, result in results.items():
        assert result.log_evidence.mean == pytest.approx(exact[name], abs=4 * result.log_evidence.se + 1e-6)
        assert result.log_evidence.se < 2e-3
    best, other = pf.compare(results)
    assert (best.name, other.name) == ("narrow", "wide")
    assert other.log_bayes_factor == pytest.approx(exact["wide"] - exact["narrow"], abs=0.01)
    odds = np.exp(exact["wide"] - exact["narrow"])
    assert other.probability == pytest.approx(odds / (1 + odds), abs=0.005)
    assert best.probability + other.probability == pytest.approx(1)
    favoured = pf.compare(results, prior={"narrow": 1.0, "wide": 1000.0})
    assert favoured[0].name == "wide"
    with pytest.raises(ValueError, match="a positive weight for each of narrow, wide"):
        pf.compare(results, prior={"narrow": 1.0})
    with pytest.raises(TypeError, match="must be a result of fit, got int"):
        pf.compare({"a": 3})


def test_the_evidence_of_a_bad_guide_is_withheld(lang):
    def model():
        lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))

    def guide():
        lang.ppl.sample("z", lang.dist.Normal(lang.ppl.param("m", lang.array(0.0)), lang.array(5.0)))

    result = lang.fit(model, guide, **(STILL | {"draws": 500}))
    assert np.isnan(result.log_evidence.mean)
    assert result.log_evidence.method.startswith("withheld: KL")
    with pytest.raises(ValueError, match="the evidence of 'bad' is withheld: KL"):
        pf.compare({"bad": result})


def test_what_the_guide_lacks_is_taken_into_account_by_the_weights(result):
    """Leave-one-out with ``lp`` and ``log_q``, by our own smoothing, is what ArviZ says of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = result.to_arviz(2000, prior=0, posterior_predictive=False, reweighted=False)
        rows = data["log_likelihood"]["y"].values[0]
        stats_ = {name: data["sample_stats"][name].values[0] for name in ("lp", "log_q")}
        if hasattr(az, "psislw"):  # 0.x: docs/arviz.md
            weights, _ = az.psislw((stats_["lp"] - stats_["log_q"])[None] - rows.T)
            theirs = logsumexp(weights + rows.T, axis=1).sum()
        else:
            theirs = az.loo_approximate_posterior(data, log_p=stats_["lp"], log_q=stats_["log_q"]).elpd
    ours = 0.0
    for row in rows.T:
        weights, _ = smoothed_log_weights(stats_["lp"] - stats_["log_q"] - row)
        ours += logsumexp(weights + row) - logsumexp(weights)
    assert ours == pytest.approx(float(theirs), abs=0.02)


@pytest.mark.slow_in_numpyro
def test_a_density_gives_draws_given_a_context(lang):
    rng = np.random.default_rng(0)
    context = rng.normal(size=(200, 1))
    shell = shell_of(lang)
    flow = pf.maf(2, context_dim=1, hidden=(4,), flow_layers=1)
    density = shell.fit_density(flow, rng.normal(size=(200, 2)), context=context, steps=3, progress=False)
    data = density.to_arviz(300, context=lang.array(context[:3]), name="rows", dims={"rows": ["given", "column"]})
    assert data["posterior"]["rows"].dims == ("chain", "draw", "given", "column")
    assert data["posterior"]["rows"].shape == (1, 300, 3, 2)
    given = density.flow.condition(lang.array(context[:3]))
    scores = given.log_prob(lang.array(data["posterior"]["rows"].values[0]))
    assert np.isfinite(np.asarray(scores.tolist())).all()
    with pytest.raises(ValueError, match="got no context"):
        density.to_arviz(10)


@pytest.mark.slow_in_numpyro
def test_an_amortised_fit_gives_draws_given_data(lang):
    def model(y):
        with lang.ppl.plate("group", 2):
            mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 1.0))
            lang.ppl.sample("y", lang.dist.Normal(mu, 0.1), obs=y)

    shell = shell_of(lang)
    small_flow = partial(pf.maf, hidden=(4,), flow_layers=1)
    fit = shell.fit_amortized(model, lang.array(np.zeros(2)), flow=small_flow, simulations=200, steps=3, progress=False)
    data = fit.to_arviz(50, lang.array(np.array([1.0, 2.0])), coords={"group": ["a", "b"]})
    assert groups_of(data) == {"posterior", "observed_data"}
    assert data["posterior"]["mu"].dims == ("chain", "draw", "group")
    assert list(data["posterior"]["group"].values) == ["a", "b"]
    np.testing.assert_allclose(data["observed_data"]["y"], [1.0, 2.0])
    np.testing.assert_allclose(
        data["posterior"]["mu"].values[0], np.asarray(fit.sample(50, lang.array(np.array([1.0, 2.0])))["mu"])
    )


def shell_of(lang):
    return {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}[lang.ppl.__name__]


@pytest.mark.slow_in_numpyro
def test_masked_rows_count_nothing_and_predictions_have_random_numbers_of_their_own(lang):
    y, seen = np.array([0.5, 1.0, 99.0, -0.3]), np.array([True, True, False, True])

    def model():
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 1.0))
        with lang.ppl.plate("row", 4):
            if lang.ppl is pyro:
                with pyro.poutine.mask(mask=torch.as_tensor(seen)):
                    pyro.sample("y", lang.dist.Normal(mu, 1.0), obs=lang.array(y))
            else:
                with numpyro.handlers.mask(mask=seen):
                    numpyro.sample("y", lang.dist.Normal(mu, 1.0), obs=lang.array(y))

    def guide():
        lang.ppl.sample("mu", lang.dist.Normal(lang.ppl.param("m", lang.array(0.3)), 0.5))

    data = lang.fit(model, guide, **(STILL | {"draws": 500})).to_arviz(1500, prior=1500, reweighted=False)
    rows = data["log_likelihood"]["y"].values[0]
    mu = data["posterior"]["mu"].values[0]
    np.testing.assert_allclose(rows, np.where(seen, stats.norm.logpdf(y, mu[:, None]), 0), rtol=1e-6)
    noise = data["posterior_predictive"]["y"].values[0] - mu[:, None]
    z = (mu - 0.3) / 0.5
    for other in (noise.ravel(), data["prior"]["mu"].values[0]):
        a, b = z - z.mean(), other[:1500] - other.mean()
        lagged = np.correlate(a, b, "full") / (1500 * a.std() * b.std())
        assert np.abs(lagged).max() < 0.2, "at any distance between draws"


@pytest.mark.slow
@pytest.mark.slow_in_numpyro
def test_deterministic_sites_follow_the_enumerated_ones(lang):
    def model():
        with lang.ppl.plate("rows", 3):
            k = lang.ppl.sample("k", lang.dist.Bernoulli(lang.array(0.5)), **{"infer": {"enumerate": "parallel"}})
            lang.ppl.deterministic("ten", 10.0 * k)
            z = lang.ppl.sample("z", lang.dist.Normal(lang.array(np.zeros(3)), 1.0))
            lang.ppl.sample("y", lang.dist.Normal(z + 8.0 * k, 0.5), obs=lang.array(np.array([0.0, 8.0, 8.0])))

    def guide():
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("z", lang.dist.Normal(lang.ppl.param("m", lang.array(np.zeros(3))), 0.4))

    result = lang.fit(model, guide, **(STILL | {"draws": 200}))
    draws = {name: np.asarray(value) for name, value in result.infer_discrete(40).items()}
    np.testing.assert_allclose(draws["k"].mean(0), [0, 1, 1])
    np.testing.assert_allclose(draws["ten"], 10 * draws["k"])
    assert result.sample(5).keys() == {"z"}


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"dims": {"theta": "row"}}, r"dims\['theta'\] must be a list"),
        ({"dims": {"thta": ["row"]}}, "dims has 'thta', but the variables are"),
        ({"dims": {"theta": ["a", "b"]}}, "must name each of 1 axes once"),
        ({"coords": {"rwo": [1]}}, "coords has 'rwo', but the axes are"),
        ({"coords": {"row": 4}}, r"coords\['row'\] must be a list"),
        ({"dims": ["row"]}, "dims must be a dict by name, got list"),
    ],
)
def test_names_of_axes_that_are_not_there_are_errors(option, error):
    groups = {"posterior": {"theta": np.zeros((5, 4))}}
    with pytest.raises((TypeError, ValueError), match=error):
        FitGroups(groups, {"theta": ("row",)}, {}, {}).to_arviz(**({"dims": None, "coords": None} | option), attrs={})


def test_arguments_keep_what_is_no_data_and_labels_are_not_guessed():
    y = np.array([1.0, np.nan, 3.0])
    found = constants({"x": y, "y": y, "n": 3, "parts": (y + 1, np.zeros((2, 2))), "none": None}, {"y": y})
    assert set(found) == {"x", "n", "parts.0", "parts.1"}
    assert set(constants({"data": y}, {"y": y})) == set()
    table = pd.DataFrame(np.zeros((8, 3)), columns=list("abc"))
    assert labels({"table": table, "n": pd.Series(np.zeros(3), index=list("NEW"))}, {"group": 3})["group"][0] == "N"
    assert labels({"a": pd.Series(0, index=list("abc")), "b": pd.Series(0, index=list("def"))}, {"group": 3}) == {}
    pairs = pd.MultiIndex.from_tuples([(1, 2), (3, 4), (5, 6)])
    assert labels({"a": pd.Series(0, index=pairs)}, {"group": 3}) == {}
    assert plate_names((3, 3), [("row", -1, 3)], None) == (None, None), "either axis could be the plate"
    assert plate_names((3, 2), [("row", -1, 3)], None) == ("row", None)
    data = FitGroups({"posterior": {"a/b": np.zeros((5, 2))}}, {}, {}, {}).to_arviz(dims=None, coords=None, attrs={})
    assert data["posterior"]["a.b"].dims == ("chain", "draw", "a.b_dim_0")
    with pytest.raises(ValueError, match="'draw' is ArviZ's own name"):
        FitGroups({"posterior": {"draw": np.zeros(5)}}, {}, {}, {}).to_arviz(dims=None, coords=None, attrs={})


@pytest.mark.parametrize("group", ["posterior", "constant_data"])
def test_names_that_are_one_in_arviz_are_refused(group):
    groups = {"posterior": {"a/b": np.zeros(5)}, "constant_data": {"x": np.zeros(5)}}
    groups[group] |= {"a.b": np.ones(5)}
    with pytest.raises(ValueError, match=r"'a/b' and 'a\.b' are both"):
        FitGroups(groups, {}, {}, {}).to_arviz(dims=None, coords=None, attrs={})


def test_models_far_apart_are_sorted_and_named():
    far = pf.compare({1: Evidence(-5000.0, 0.1, ""), 2: Evidence(0.0, 0.1, ""), 3: Evidence(-2000.0, 0.1, "")})
    assert [model.name for model in far] == ["2", "3", "1"]
    assert "-5000.000" in repr(far)
    with pytest.raises(ValueError, match="a positive weight"):
        pf.compare({"a": Evidence(0.0, 0.1, "")}, prior={"a": "x"})
