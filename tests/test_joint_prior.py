"""``as_prior``: a posterior that is the next model's prior has its sites, their supports and their joint law."""

import dataclasses
import importlib
import json
import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import numpyro
import numpyro.infer
import pyro
import pyro.infer
import pytest
import torch
from benchmarks import streams
from jax import random
from languages import LANGUAGES, MEAN, STILL, correlated, identity_flow, sub_sampled
from numpyro import handlers
from pyro import poutine
from scipy import stats
from test_guide_sites import mixture

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.core.params import map_params
from ppl_flows.inference.fitted import WeightedDraws
from ppl_flows.inference.kl_estimate import Scores
from ppl_flows.inference.make_prior import check_names, resampled
from ppl_flows.inference.prior_source import PriorSource
from ppl_flows.inference.saved_priors import SavedPrior
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.safe_files import read

SHELLS = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}
QUICK = {"draws": 2_000, "steps": 200, "flow": identity_flow}
BARE = {"draws": 200, "steps": 2, "flow": identity_flow}


def shell_of(lang):
    return next(SHELLS[name] for name, other in LANGUAGES.items() if other is lang)


def fill(lang, start=0.0):
    """Sites on several supports, two of them correlated, and one of a plate; the model is its own posterior."""
    dist, ppl, array = lang.dist, lang.ppl, lang.array

    def model():
        loc = ppl.sample("loc", dist.Normal(array(3.0), 1.0))
        shift = ppl.param("shift", array(start)) if start is not None else 0.0
        ppl.sample("scale", dist.LogNormal(0.9 * (loc - 3.0) + shift, 0.5))
        ppl.sample("share", dist.Dirichlet(array([2.0, 3.0, 4.0])))
        ppl.sample("angle", dist.Uniform(array(-1.0), array(3.0)))
        with ppl.plate("rows", 4):
            ppl.sample("effect", dist.LogNormal(array(0.0), 0.3))

    return model


@pytest.fixture
def fitted(lang):
    """A fit whose guide is the model."""
    return lang.fit(fill(lang, None), fill(lang), **(STILL | {"draws": 500, "num_particles": 500}))


def by_hand(lang):
    """A prior of the sites of ``fill``, by a flow that was not fitted, away from the identity."""
    name = next(name for name, other in LANGUAGES.items() if other is lang)
    constraints, supports = lang.dist.constraints, SHELLS[name].neutral_supports.SUPPORTS
    kinds = {
        "loc": (constraints.real, 0.5),
        "scale": (constraints.positive, 0.5),
        "share": (constraints.simplex, [0.2, 0.3, 0.5]),
        "angle": (constraints.interval(-1.0, 3.0), 0.5),
        "effect": (constraints.positive, [1.0, 2.0, 3.0, 4.0]),
    }
    sites = [supports.site_on(n, kind, np.shape(v), lang.array(v)) for n, (kind, v) in kinds.items()]
    flow, rng = identity_flow(9), np.random.default_rng(0)
    params = map_params(lambda _, a: a + 0.1 * rng.standard_normal(a.shape), flow.init(rng))
    saved = SavedPrior(flow, params, tuple(sites), "good: by hand", 0, name, {})
    return SHELLS[name].JointPrior(saved)


def identity(dim):
    flow = identity_flow(dim)
    return {"bijection": flow, "params": flow.init(np.random.default_rng(0))}


def run(lang, model, *args):
    """Sites of a run, and those that are deterministic."""
    if lang.ppl is pyro:
        sites = {n: s for n, s in poutine.trace(model).get_trace(*args).nodes.items() if s["type"] == "sample"}
        found = {n for n, s in sites.items() if s["infer"].get("_deterministic")}
    else:
        sites = handlers.trace(handlers.seed(model, 0)).get_trace(*args)
        found = {n for n, s in sites.items() if s["type"] == "deterministic"}
    return {n: np.asarray(s["value"]) for n, s in sites.items()}, found


def same_law(a, b):
    """Two samples of numbers: Kolmogorov-Smirnov's distance is below what the noise of the draws that were fitted,
    and of these, makes of it."""
    return stats.ks_2samp(np.ravel(a), np.ravel(b)).statistic < 0.08


@pytest.mark.slow_in_numpyro
def test_all_sites_or_some_have_the_posteriors_joint_law(fitted):
    expected = {n: np.asarray(v) for n, v in fitted.sample(4_000, seed=5).items()}
    for sites in (None, ["effect", "scale", "loc"]):
        prior = fitted.as_prior(sites, **QUICK)
        draws = {n: np.asarray(v) for n, v in prior.sample(4_000).items()}
        assert [*draws] == (sites or ["loc", "scale", "share", "angle", "effect"])
        for name, value in draws.items():
            assert value.shape == expected[name].shape
            for i in range(value[0].size):
                assert same_law(value.reshape(4_000, -1)[:, i], expected[name].reshape(4_000, -1)[:, i]), (name, i)
        pairs = (np.corrcoef(d["loc"], np.log(d["scale"]))[0, 1] for d in (draws, expected))
        assert abs(np.subtract(*pairs)) < 0.05
        assert np.all(draws["effect"] > 0)
    assert prior.sites == {"effect": (4,), "scale": (), "loc": ()}
    assert "fitted to 2,000 draws" in repr(prior)


@pytest.mark.slow_in_numpyro
def test_what_is_fitted_is_nearer_to_a_bent_posterior_than_its_gaussian(lang):
    def model(at=0.0):
        x = lang.ppl.sample("x", lang.dist.Normal(lang.array(0.0) + at, 1.0))
        lang.ppl.sample("y", lang.dist.Normal(x**2, 0.5))

    def guide():
        model(lang.ppl.param("at", lang.array(0.0)))

    result = lang.fit(model, guide, **(STILL | {"draws": 500}))
    prior = result.as_prior(draws=2_000, steps=300, flow=lambda dim: pf.nsf(dim, flow_layers=2, bins=4, hidden=(16,)))
    u = np.random.default_rng(0).standard_normal((2_000, 2)) * [1.0, 0.5]
    u[:, 1] += u[:, 0] ** 2
    log_p = stats.norm.logpdf(u[:, 0]) + stats.norm.logpdf(u[:, 1], u[:, 0] ** 2, 0.5)
    log_q = np.asarray(prior.flow.log_prob(lang.array(u)))
    gaussian = stats.multivariate_normal(u.mean(0), np.cov(u.T)).logpdf(u)
    assert np.mean(log_p - log_q) < 0.5 * np.mean(log_p - gaussian)


@pytest.mark.slow_in_numpyro
def test_a_good_guide_is_the_prior_itself(lang):
    guide = lang.AutoFlow(correlated(lang), identity_flow)
    result = lang.fit(correlated(lang), guide, **(STILL | {"draws": 500}))
    assert result.grade == "good"
    prior = result.as_prior()
    assert prior.saved.draws == 0
    assert "the guide's own flow" in repr(prior)
    rows = lang.array(np.random.default_rng(0).standard_normal((5, 2)) + MEAN)
    ours, theirs = prior.flow.log_prob(rows), stats.multivariate_normal(MEAN, [[1, 0.9], [0.9, 1]]).logpdf(rows)
    np.testing.assert_allclose(ours, theirs, atol=0.05)  # the start is found to some hundredths
    fit_anyway = result.as_prior(reweighted=True, draws=500, steps=20)
    assert fit_anyway.saved.draws == 500


def test_a_draw_without_a_density_is_as_one_of_no_weight():
    log_p = np.zeros(200)
    log_p[7] = np.nan
    weighted = WeightedDraws({"z": np.arange(200)}, Scores(log_p, np.zeros(200)), None)
    drawn = resampled(SimpleNamespace(weigh=lambda n, seed: weighted), 50, seed=0)["z"]
    assert len({*drawn}) == 50
    assert 7 not in drawn


def test_the_next_model_draws_the_sites_jointly_under_their_own_names(lang):
    prior = by_hand(lang)
    returned = {}

    def model():
        returned.update(prior("yesterday"))

    values, deterministic = run(lang, model)
    assert deterministic == prior.sites.keys()
    assert values.keys() == {"yesterday", *prior.sites}
    again = prior.constrain(lang.array(values["yesterday"]))
    for name, shape in prior.sites.items():
        assert values[name].shape == shape
        np.testing.assert_array_equal(values[name], returned[name])
        np.testing.assert_allclose(values[name], again[name])
    assert values["share"].sum() == pytest.approx(1.0)
    assert -1 < values["angle"] < 3
    joint = lang.log_joint(model, {"yesterday": lang.array(values["yesterday"])})
    assert joint == pytest.approx(float(prior.flow.log_prob(lang.array(values["yesterday"]))))


@pytest.mark.slow_in_numpyro
def test_streams_go_on_by_the_names_of_the_sites(lang):
    prior = by_hand(lang)

    def model(y):
        z = prior("yesterday")
        new = lang.ppl.sample("new", lang.dist.Normal(lang.array(0.0), 1.0))
        lang.ppl.deterministic("twice", 2 * z["scale"])
        with lang.ppl.plate("rows", 4):
            lang.ppl.sample("y", lang.dist.Normal(z["effect"] + new, 1.0), obs=y)

    def later(y):
        return model(y)

    guide = lang.AutoFlow(later, identity_flow, start="init")
    result = lang.fit(later, guide, lang.array(np.ones(4)), steps=30, num_particles=8, draws=200, progress=False)
    draws = {n: np.asarray(v) for n, v in result.sample(30).items()}
    assert draws.keys() == {"yesterday", *prior.sites, "new", "twice"}
    assert draws["effect"].shape == (30, 4)
    for name, value in prior.constrain(lang.array(draws["yesterday"])).items():
        np.testing.assert_allclose(draws[name], value, rtol=1e-6)
    whole = result.as_prior(reweighted=False)
    assert whole.sites == prior.sites | {"new": ()}
    assert whole.saved.draws == 0
    some = result.as_prior(["new", "share"], reweighted=False, **BARE)
    assert some.sites == {"new": (), "share": (3,)}
    for made in (whole, some):
        np.testing.assert_allclose(np.asarray(made.sample(50)["share"]).sum(-1), 1.0)
    for site in (s for s in whole.saved.sites if s.name != "new"):
        (kept,) = (s for s in prior.saved.sites if s.name == site.name)
        assert isinstance(site, SavedSite)
        assert site.support == kept.support
    with pytest.raises(ValueError, match=r"no latent 'twice'.*deterministic site has no support"):
        result.as_prior(["twice"], reweighted=False)


@pytest.mark.slow
@pytest.mark.slow_in_numpyro
def test_the_hosts_nuts_and_predictive_run_on_the_next_model(lang):
    result = lang.fit(correlated(lang), lang.AutoFlow(correlated(lang), identity_flow), **(STILL | {"draws": 200}))
    prior = result.as_prior(reweighted=False)

    def model(y=None):
        z = prior("yesterday")["z"]
        with lang.ppl.plate("rows", 1):
            lang.ppl.sample("y", lang.dist.Normal(z[..., 0], 1.0), obs=y)

    y = lang.array([5.0])
    if lang.ppl is pyro:
        mcmc = pyro.infer.MCMC(pyro.infer.NUTS(model), num_samples=100, warmup_steps=60, disable_progbar=True)
        mcmc.run(y)
        z = mcmc.get_samples()["yesterday"].numpy()
        new = pyro.infer.Predictive(model, num_samples=40, parallel=True)()
    else:
        mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=100, num_samples=300, progress_bar=False)
        mcmc.run(random.key(0), y)
        z = np.asarray(mcmc.get_samples()["z"])
        new = numpyro.infer.Predictive(model, num_samples=40)(random.key(0))
    # a normal at 3 of variance 1, and one datum at 5: 4, and the other site by their covariance
    np.testing.assert_allclose(z.mean(0), [4.0, -3.0 + 0.9], atol=0.4)
    assert np.asarray(new["z"]).reshape(40, 2).std(0).min() > 0.5
    assert np.asarray(new["y"]).size == 40


@pytest.mark.slow_in_numpyro
def test_what_a_prior_cannot_be_made_of_is_refused_with_the_way_out(fitted, lang):
    with pytest.raises(ValueError, match=r"no latent 'scael'; it has \['loc', 'scale', 'share', 'angle', 'effect'\]"):
        fitted.as_prior(["scael"])
    with pytest.raises(TypeError, match=r"as_prior\(\['scale'\]\)"):
        fitted.as_prior("scale")
    with pytest.raises(ValueError, match="at least one name, and each but once"):
        fitted.as_prior(["loc", "loc"])
    with pytest.raises(ValueError, match="draws must be"):
        fitted.as_prior(draws=3)
    with pytest.raises(TypeError, match=r"flow must be a callable dim -> Bijection, such as pf.nsf, got Elementwise"):
        fitted.as_prior(flow=identity_flow(9), draws=100)
    with pytest.raises(ValueError, match="the sites take 9 numbers and no context"):
        fitted.as_prior(flow=lambda dim: identity_flow(2), draws=100)


def test_a_prior_is_called_before_the_plates_and_under_a_name_of_its_own(lang):
    prior = by_hand(lang)
    with pytest.raises(ValueError, match="'loc' is one of its sites"):
        run(lang, lambda: prior("loc"))

    def in_a_plate():
        with lang.ppl.plate("many", 3):
            prior("yesterday")

    with pytest.raises(ValueError, match="'yesterday' is drawn in a plate, where 'effect' of shape"):
        run(lang, in_a_plate)
    with pytest.raises(TypeError, match="takes a SavedPrior"):
        type(prior)(prior.saved.bijection)
    for size in (8, 10):
        with pytest.raises(ValueError, match=rf"takes vectors of shape \(\*batch, 9\), got \(3, {size}\)"):
            prior.constrain(lang.array(np.zeros((3, size))))


def test_a_prior_called_many_times_at_once_makes_no_prior(lang):
    prior = by_hand(lang)
    language = importlib.import_module(type(prior).__module__).LANGUAGE
    source = PriorSource(
        {"yesterday": lang.dist.constraints.real_vector}, {"yesterday": prior.saved.sites}, None, language
    )
    rows = np.random.default_rng(0).standard_normal((5, 9))
    found = dict(source.sites_of("yesterday", lang.array(rows)))
    assert [*found] == [*prior.saved.sites]
    np.testing.assert_array_equal(np.concatenate([*found.values()], axis=1), rows)
    with pytest.raises(ValueError, match="'yesterday' by a prior that is called in a plate"):
        dict(source.sites_of("yesterday", lang.array(np.zeros((5, 3, 9)))))


@pytest.mark.slow_in_numpyro
def test_verdicts_decide_what_is_taken_unless_one_says_it(lang):
    def guide():
        lang.ppl.sample("z", lang.dist.Normal(lang.ppl.param("loc", lang.array(np.zeros(2))), 1.0).to_event(1))

    result = lang.fit(correlated(lang), guide, **(STILL | {"draws": 500}))
    assert result.grade == "do not trust"
    with pytest.raises(ValueError, match=r"do not trust: .*as_prior\(reweighted=False\) takes the guide as it is"):
        result.as_prior()
    as_it_is, weighted = (result.as_prior(reweighted=w, **QUICK) for w in (False, True))
    np.testing.assert_allclose(np.asarray(as_it_is.sample(2_000)["z"]).mean(0), 0.0, atol=0.15)
    assert np.asarray(weighted.sample(2_000)["z"])[:, 0].mean() > 1
    result = lang.fit(
        sub_sampled(lang), lang.AutoFlow(sub_sampled(lang), identity_flow, start="init"), **(STILL | {"draws": 20})
    )
    for reweighted in (None, True):
        with pytest.raises(ValueError, match=r"not judged.*as_prior\(reweighted=False\)"):
            result.as_prior(reweighted=reweighted)
    assert result.as_prior(reweighted=False).sites == {"mu": ()}


def test_discrete_sites_are_no_part_of_a_prior(lang):
    constraints = lang.dist.constraints
    source = PriorSource({"k": constraints.nonnegative_integer, "loc": constraints.real}, {}, None, None)
    assert check_names(source, None) == ["loc"]
    with pytest.raises(ValueError, match=r"'k' is discrete.*The continuous latents are \['loc'\]"):
        check_names(source, ["k"])


@pytest.mark.slow
def test_enumerated_sites_are_summed_over_and_refused_by_name(lang):
    guide = lang.AutoFlow(mixture(lang), identity_flow, start="init")
    result = lang.fit(mixture(lang), guide, **(STILL | {"draws": 100}))
    assert result.as_prior(reweighted=False).sites == {"loc": ()}
    with pytest.raises(ValueError, match=r"'k' is discrete.*The continuous latents are \['loc'\]"):
        result.as_prior(["k"], reweighted=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A prior of each language, and its file."""
    torch.set_default_dtype(torch.float64)
    made = {}
    for name, lang in LANGUAGES.items():
        prior = by_hand(lang)
        path = tmp_path_factory.mktemp(name) / "prior.safetensors"
        pf.save(path, prior)
        made[name] = prior, path
    torch.set_default_dtype(torch.float32)
    return made


@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
def test_a_file_gives_the_same_prior_in_either_language(written, lang, writer):
    prior, path = written[writer]
    other = shell_of(lang).JointPrior.load(path)
    assert repr(other) == repr(prior)
    rows = np.random.default_rng(0).standard_normal((3, 9))
    first = LANGUAGES[writer].array(rows)
    np.testing.assert_allclose(other.flow.log_prob(lang.array(rows)), prior.flow.log_prob(first), rtol=1e-6)
    values, expected = other.constrain(lang.array(rows)), prior.constrain(first)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=1e-6)
    assert run(lang, lambda: other("z"))[1] == prior.sites.keys()
    copy = pickle.loads(pickle.dumps(other))
    np.testing.assert_array_equal(copy.flow.log_prob(lang.array(rows)), other.flow.log_prob(lang.array(rows)))


def test_a_saved_prior_is_read_without_a_language_and_saved_again(written, tmp_path):
    _, path = written["pyro"]
    code = (
        "import sys, ppl_flows as pf; prior = pf.load(sys.argv[1]); pf.save(sys.argv[2], prior); "
        "assert not {'torch', 'jax'} & set(sys.modules); print(prior)"
    )
    again = tmp_path / "again"
    out = subprocess.run([sys.executable, "-c", code, path, again], capture_output=True, text=True, check=True).stdout
    assert out.startswith("SavedPrior(loc, scale, share, angle, effect; made in pyro; good: by hand)")
    (words, arrays), (others, more) = (read(p, ("2",)) for p in (again, path))
    assert words == others
    for name in arrays.keys() | more.keys():
        np.testing.assert_array_equal(arrays[name], more[name])


def test_files_and_calls_that_do_not_go_together_are_refused(written, lang, tmp_path):
    prior, path = written["numpyro"]
    flow = identity_flow(2)
    with pytest.raises(TypeError, match=r"pf.save\(path, prior\) writes both"):
        pf.save(path, prior, prior.saved.params)
    with pytest.raises(TypeError, match=r"pf.save\(path, bijection, params\)"):
        pf.save(path, flow)
    pf.save(tmp_path / "flow", flow, flow.init(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="holds no prior"):
        shell_of(lang).JointPrior.load(tmp_path / "flow")
    with pytest.raises(ValueError, match="the sites take 8 numbers"):
        dataclasses.replace(prior.saved, sites=prior.saved.sites[1:])
    with pytest.raises(ValueError, match="sites of different names"):
        dataclasses.replace(prior.saved, sites=(*prior.saved.sites[:-1], *prior.saved.sites[:1] * 4))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"needs": "model"}, "it needs 'model' to draw"),
        ({"draws": -1}, "draws should be a number of draws"),
        ({"sites": []}, "the sites take 0 numbers"),
        ({"versions": 3}, "'int' object has no attribute"),
    ],
)
def test_a_file_of_a_prior_that_is_wrong_is_named(written, tmp_path, change, said):
    data = written["pyro"][1].read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"]["prior"] = json.dumps(json.loads(header["__metadata__"]["prior"]) | change)
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    with pytest.raises(pf.FileFormatError, match=said):
        pf.load(tmp_path / "file")


def test_a_support_of_one_language_is_refused_by_the_site(float64, tmp_path):
    lang = LANGUAGES["numpyro"]

    supports = ppl_flows.numpyro.neutral_supports.SUPPORTS
    site = supports.site_on("x", lang.dist.constraints.zero_sum(1), (3,), lang.array([1.0, -1.0, 0.0]))
    saved = dataclasses.replace(by_hand(lang).saved, sites=(site,), **identity(2))
    prior = ppl_flows.numpyro.JointPrior(saved)
    pf.save(tmp_path / "prior", prior)
    assert ppl_flows.numpyro.JointPrior.load(tmp_path / "prior").sites == {"x": (3,)}
    with pytest.raises(ValueError, match=r"site 'x' has support zero_sum.*which Pyro does not have"):
        ppl_flows.pyro.JointPrior.load(tmp_path / "prior")


@pytest.mark.slow_in_numpyro
def test_a_loaded_fit_makes_a_prior_with_the_models_arguments(lang, tmp_path):
    result = lang.fit(correlated(lang), lang.AutoFlow(correlated(lang), identity_flow), **(STILL | {"draws": 200}))
    result.save(tmp_path / "fit")
    pyro.clear_param_store()
    _, loaded = lang.AutoFlow.load(tmp_path / "fit", correlated(lang))
    rows = lang.array(np.zeros((1, 2)))
    ours, theirs = (r.as_prior(reweighted=False).flow.log_prob(rows) for r in (loaded, result))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    pyro.clear_param_store()
    _, bare = lang.AutoFlow.load(tmp_path / "fit", lambda y: correlated(lang)())
    with pytest.raises(ValueError, match="without the model's arguments"):
        bare.as_prior()


@pytest.mark.long
def test_ten_batches_end_at_the_posterior_of_all_data_and_gaussian_priors_do_not():
    """In NumPyro; tests/benchmarks/streams.py runs both languages."""
    lang = streams.numpyro_language()
    log_z, se, _ = streams.evidence(*streams.data())
    assert se < 0.005
    kinds = {"flow": (0.0, 0.05), "gaussian": (0.3, np.inf)}
    for kind, (low, high) in kinds.items():
        last, fits = streams.stream(lang, kind, "quick", seed=0)
        assert len(fits) == 10
        kl, error = streams.divergence(last, lang, log_z)
        assert error < 0.02
        assert low - 3 * (se + error) < kl < high, kind
