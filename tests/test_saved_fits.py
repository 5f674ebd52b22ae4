"""Fits as files: they travel between processes and languages, and what does not fit a model is named."""

import copy
import dataclasses
import math
import pickle
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from languages import LANGUAGES, SHORT, assert_moved, identity_flow, small

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.files import save_fit, to_numpy
from ppl_flows.inference.kl_estimate import NOT_LOOKED
from ppl_flows.inference.saved_fits import SavedFit
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.safe_files import read

Y = 1.0
LANGUAGE_OF = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}


def several(lang):
    """A model of sites on many supports, out of alphabetical order, with data as its argument."""
    dist, ppl, array = lang.dist, lang.ppl, lang.array

    def model(y=None):
        loc = ppl.param("loc", array(0.5))
        mu = ppl.sample("mu", dist.Normal(loc, 1.0))
        a = ppl.sample("a", dist.HalfNormal(array(1.0)))
        ppl.sample("p", dist.Dirichlet(array([2.0, 3.0, 4.0])))
        ppl.deterministic("sum", mu + a)
        ppl.sample("y", dist.Normal(mu + a, 1.0), obs=y)

    return model


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """A fit of the same model in each language: the result, and its file."""
    torch.set_default_dtype(torch.float64)
    made = {}
    for name, lang in LANGUAGES.items():
        path = tmp_path_factory.mktemp(name) / "fit.safetensors"
        guide = lang.AutoFlow(several(lang), small, start="init", seed=3)
        result = lang.fit(several(lang), guide, lang.array(Y), **SHORT)
        result.save(path)
        made[name] = result, path
    pyro.clear_param_store()
    torch.set_default_dtype(torch.float32)
    return made


def write_sites(path, *sites):
    """A file of a fit with these sites, and a flow that was not trained."""
    flow = identity_flow(sum(math.prod(site.numbers) for site in sites))
    fit = SavedFit(
        bijection=flow,
        params=flow.init(np.random.default_rng(0)),
        log_weights=None,
        modes=NOT_LOOKED,
        gaussian=None,
        sites=sites,
        placed=(),
        map_params={},
        model_params=(),
        losses=np.zeros(1),
        elbo=(0.0, 0.0),
        log_evidence=(0.0, 0.0, "none"),
        kl=(0.0, 0.0),
        prefix=None,
        versions={},
        **dict.fromkeys(["khat", "ess", "missed"], 0.5),
        **dict.fromkeys(["skipped", "seed", "num_particles"], 1),
        **dict.fromkeys(["doubt", "verdict", "language"], ""),
        **dict.fromkeys(["interrupted", "vectorized"], False),
        start="init",
        quality="quick",
    )
    save_fit(path, fit)


def name_of(lang):
    return next(name for name, other in LANGUAGES.items() if other is lang)


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
def test_a_loaded_fit_draws_weighs_and_goes_on(fits, lang, writer):
    saved, path = fits[writer]
    guide, result = lang.AutoFlow.load(path, several(lang), lang.array(Y))
    assert repr(result) == repr(saved)
    np.testing.assert_array_equal(result.losses, saved.losses)
    draws = {n: np.asarray(v) for n, v in result.sample(4_000).items()}
    others = {n: np.asarray(v) for n, v in saved.sample(4_000).items()}
    assert draws.keys() == others.keys()
    assert "sum" in draws
    for site, value in draws.items():
        error = np.sqrt((value.var(0) + others[site].var(0)) / 4_000)
        assert np.all(np.abs(value.mean(0) - others[site].mean(0)) <= 5 * error + 1e-12), site
    assert result.reweighted(50)["p"].shape == (50, 3)
    again = lang.fit(several(lang), guide, lang.array(Y), **SHORT)
    assert again.losses[:10].mean() < saved.losses[:10].mean()
    if name_of(lang) == writer:
        before, after = ({n: np.asarray(v) for n, v in flat(r.params).items()} for r in (result, again))
        assert_moved(before, {n: v for n, v in after.items() if n in before})
        assert {n: np.asarray(v).tolist() for n, v in flat(saved.params).items()} == {
            n: v.tolist() for n, v in before.items()
        }


def test_a_fit_loaded_in_its_language_gives_the_same_draws_for_a_seed(fits, float64, lang):
    saved, path = fits[name_of(lang)]
    _, loaded = lang.AutoFlow.load(path, several(lang), lang.array(Y))
    for site, value in saved.sample(5, seed=2).items():
        np.testing.assert_allclose(
            np.asarray(loaded.sample(5, seed=2)[site]), np.asarray(value), rtol=1e-6, err_msg=site
        )


def flat(params):
    return {n: v for n, v in pf.core.params.flatten(params) if ".state" not in n}


@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
def test_log_densities_do_not_depend_on_the_language(fits, float64, writer):
    _, path = fits[writer]
    saved = pf.load(path)
    rows = np.random.default_rng(0).standard_normal((20, saved.bijection.event_shape[0]))
    with torch.no_grad():
        guide, _ = ppl_flows.pyro.AutoFlow.load(path, several(LANGUAGES["pyro"]), torch.tensor(Y))
        in_pyro = guide.get_posterior().log_prob(torch.tensor(rows))
    guide, result = ppl_flows.numpyro.AutoFlow.load(path, several(LANGUAGES["numpyro"]), Y)
    np.testing.assert_allclose(guide.get_posterior(result.params).log_prob(jnp.asarray(rows)), in_pyro, rtol=1e-5)


def test_without_the_models_arguments_a_loaded_fit_draws_and_says_what_else_takes_them(fits, lang):
    _, path = fits["numpyro"]
    guide, result = lang.AutoFlow.load(path, several(lang))
    assert result.sample(5)["p"].shape == (5, 3)
    for use in (result.reweighted, result.infer_discrete):
        with pytest.raises(ValueError, match=r"without the model's arguments; AutoFlow.load\(path, model, \*args"):
            use(5)
    lang.set_up(guide, lang.array(Y))
    assert guide.start == "init"


def test_a_saved_fit_is_read_without_a_language_and_in_a_new_process(fits):
    _, path = fits["pyro"]
    code = (
        "import sys, ppl_flows as pf; fit = pf.load(sys.argv[1]); "
        "assert not {'torch', 'jax'} & set(sys.modules); print([s.name for s in fit.sites], fit.language, fit.verdict)"
    )
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
    assert out.startswith("['mu', 'a', 'p'] Pyro ")


def test_a_loaded_fit_is_saved_again_as_it_was(fits, lang, tmp_path):
    _, path = fits["pyro"]
    lang.AutoFlow.load(path, several(lang))[1].save(tmp_path / "again")
    (words, arrays), (others, more) = (read(p, ("2",)) for p in (tmp_path / "again", path))
    assert words == others
    for name in arrays.keys() | more.keys():
        np.testing.assert_array_equal(arrays[name], more[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": "normal"}, "'c' is in the file only; 'b' is in the model only"),
        ({"c": "vector"}, r"'c' has shape \(\) in the file and \(2,\) in the model"),
        ({"c": "positive"}, "'c' has support real in the file and positive in the model"),
        ({"c": "normal", "a": "normal"}, "their order is a, c in the file and c, a in the model"),
    ],
)
def test_a_model_of_other_sites_is_refused_by_the_difference(lang, tmp_path, change, said):
    dist = lang.dist
    kinds = {
        "normal": dist.Normal(0.0, 1.0),
        "vector": dist.Normal(lang.array([0.0, 1.0]), 1.0).to_event(1),
        "positive": dist.HalfNormal(lang.array(1.0)),
    }

    def model(sites):
        return lambda: [lang.ppl.sample(name, kinds[kind]) for name, kind in sites.items()] and None

    first = model({"a": "normal", "c": "normal"})
    guide = lang.AutoFlow(first, small, start="init")
    lang.set_up(guide)
    write_sites(tmp_path / "fit", *guide.latent_sites())
    pyro.clear_param_store()
    with pytest.raises(ValueError, match=f"not one of this model with these arguments: {said}"):
        lang.AutoFlow.load(tmp_path / "fit", model(change if "a" in change else {"a": "normal", **change}))


SUPPORTS = {"pyro": ppl_flows.pyro.load_fit.SUPPORTS, "numpyro": ppl_flows.numpyro.load_fit.SUPPORTS}
DISTRIBUTIONS = {
    "real": lambda d, a: d.Normal(a(0.0), 1.0),
    "real_vector": lambda d, a: d.MultivariateNormal(a([0.0, 1.0]), a(np.eye(2))),
    "positive": lambda d, a: d.Gamma(a(2.0), a(1.0)),
    "unit_interval": lambda d, a: d.Beta(a(2.0), a(1.0)),
    "interval": lambda d, a: d.Uniform(a([0.0, -3.0]), a([1.0, 5.0])),
    "greater_than": lambda d, a: d.Pareto(a(2.0), a(3.0)),
    "simplex": lambda d, a: d.Dirichlet(a([1.0, 2.0, 3.0])),
    "corr_cholesky": lambda d, a: d.LKJCholesky(3, a(1.0)),
    "independent": lambda d, a: d.Gamma(a([2.0, 1.0]), a(1.0)).expand([3, 2]).to_event(2),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("other", ["pyro", "numpyro"])
def test_both_languages_map_onto_a_support_alike(lang, other, name):
    fn = DISTRIBUTIONS[name](lang.dist, lang.array)
    value = lang.array(np.zeros(fn.shape()))
    site = SUPPORTS[name_of(lang)].site("s", fn, value)
    assert SUPPORTS[other].transform(site)(LANGUAGES[other].array(np.zeros(site.numbers))).shape == site.shape


def test_a_support_that_pyro_lacks_is_refused_by_the_name_of_its_site(float64, tmp_path):
    for fn, said in (
        (numpyro.distributions.Wishart(4.0, jnp.eye(2)), "positive_definite, onto which Pyro has no bijection"),
        (numpyro.distributions.ZeroSumNormal(1.0, (3,)), r"zero_sum\(1\), which Pyro does not have"),
    ):
        write_sites(tmp_path / "fit", SUPPORTS["numpyro"].site("s", fn, jnp.zeros(fn.shape())))
        _, result = ppl_flows.numpyro.AutoFlow.load(tmp_path / "fit", lambda data: None)
        assert result.sample(2)["s"].shape == (2, *fn.shape())
        with pytest.raises(ValueError, match=f"site 's' has support {said}"):
            ppl_flows.pyro.AutoFlow.load(tmp_path / "fit", lambda: None)


def test_a_map_that_is_another_than_that_of_the_fit_is_refused(lang, tmp_path):
    site = SUPPORTS[name_of(lang)].site("s", lang.dist.Dirichlet(lang.array([1.0, 2.0, 3.0])), np.ones(3) / 3)
    write_sites(tmp_path / "fit", dataclasses.replace(site, image=site.image[::-1].copy()))
    with pytest.raises(ValueError, match=r"site 's' has support simplex, onto which .* has another map than"):
        lang.AutoFlow.load(tmp_path / "fit", lambda: None)


@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
def test_parameters_of_the_model_travel_too(fits, lang, writer):
    saved, path = fits[writer]
    _, result = lang.AutoFlow.load(path, several(lang), lang.array(Y))
    assert float(result.params["loc"]) == float(saved.params["loc"]) != 0.5
    if name_of(lang) == writer:
        for site, value in saved.reweighted(20).items():
            np.testing.assert_allclose(np.asarray(result.reweighted(20)[site]), np.asarray(value))


def test_a_guide_that_is_no_autoflow_is_not_saved_and_the_error_says_what_is(lang, tmp_path):
    def model():
        lang.ppl.sample("z", lang.dist.Normal(0.0, 1.0))

    result = lang.fit(model, lang.autoguide.AutoNormal(model), **SHORT)
    with pytest.raises(TypeError, match=r"only fits of an AutoFlow have a file .* got the guide AutoNormal"):
        result.save(tmp_path / "fit")


def picklable_pyro():
    pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))


def picklable_numpyro():
    LANGUAGES["numpyro"].ppl.sample("z", LANGUAGES["numpyro"].dist.Normal(0.0, 1.0))


def test_results_pickle_where_the_model_does_and_else_name_save(fits, lang):
    model = {"pyro": picklable_pyro, "numpyro": picklable_numpyro}[name_of(lang)]
    result = lang.fit(model, lang.AutoFlow(model, small, start="init"), **SHORT)
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(np.asarray(again.sample(4)["z"]), np.asarray(result.sample(4)["z"]))
    local, _ = fits[name_of(lang)]  # its model is a closure
    with pytest.raises(TypeError, match=r"result\.save\(path\)"):
        pickle.dumps(local)
    assert repr(copy.deepcopy(local)) == repr(copy.copy(local)) == repr(local)


def test_an_amortised_fit_does_not_pickle_and_names_save(lang):
    shell = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}[name_of(lang)]
    density = shell.fit_density(pf.maf(2, flow_layers=1, hidden=(4,)), np.eye(20, 2), steps=2, progress=False)
    amortised = shell.AmortizedFit(density, lambda *_: {})
    with pytest.raises(TypeError, match="load_amortized"):
        pickle.dumps(amortised)
    assert repr(copy.deepcopy(amortised)) == repr(copy.copy(amortised)) == repr(amortised)


def test_errors_of_fits_pickle():
    error = pickle.loads(pickle.dumps(ppl_flows.pyro.FitError(3, np.ones(2), {"a": np.zeros(1)})))
    assert error.step == 3
    assert error.params["a"].shape == (1,)
    error = pickle.loads(pickle.dumps(CompileError("why", 2)))
    assert (error.reason, error.lost) == ("why", 2)
    assert str(error).count("cannot be compiled") == 1


# --- densities


@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
def test_a_density_is_loaded_with_its_base_in_either_language(lang, tmp_path, writer):
    rows = np.random.default_rng(0).standard_t(4, (200, 2))
    first, second = LANGUAGE_OF[writer], LANGUAGE_OF[name_of(lang)]
    options = {"steps": 40, "progress": False, "validation": 0.2}
    fit = first.fit_density(small(2), LANGUAGES[writer].array(rows), base=pf.StudentT(2), **options)
    fit.save(tmp_path / "density")
    loaded = second.load_density(tmp_path / "density")
    assert repr(loaded) == repr(fit)
    assert repr(pf.load(tmp_path / "density")).startswith("SavedDensity(")
    expected = fit.flow.log_prob(LANGUAGES[writer].array(rows))
    scores = loaded.flow.log_prob(lang.array(rows))
    np.testing.assert_allclose(*(to_numpy(a) for a in (scores, expected)), rtol=1e-5)
    loaded.save(tmp_path / "again")
    assert repr(second.load_density(tmp_path / "again")) == repr(fit)


def test_a_density_of_a_foreign_base_is_not_saved(lang, tmp_path):
    base = lang.dist.Laplace(lang.array([0.0, 0.0]), 1.0).to_event(1)
    rows = lang.array(np.random.default_rng(0).standard_normal((50, 2)))
    fit = LANGUAGE_OF[name_of(lang)].fit_density(identity_flow(2), rows, base=base, steps=5, progress=False)
    with pytest.raises(TypeError, match="has an encoder, or a base, that is not ppl_flows' own"):
        fit.save(tmp_path / "density")


def test_a_file_of_another_kind_is_named(lang, tmp_path):
    bijection = identity_flow(2)
    pf.save(tmp_path / "flow", bijection, bijection.init(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="holds no fit of an AutoFlow"):
        lang.AutoFlow.load(tmp_path / "flow", lambda: None)
    with pytest.raises(ValueError, match="holds no density"):
        LANGUAGE_OF[name_of(lang)].load_density(tmp_path / "flow")


@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
@pytest.mark.slow_in_numpyro
def test_an_amortised_fit_is_loaded_in_either_language(lang, tmp_path, writer):
    def model_of(lang):
        def model(y, x):
            z = lang.ppl.sample("z", lang.dist.Normal(0.0, 1.0))
            b = lang.ppl.sample("b", lang.dist.Gamma(lang.array(2.0), lang.array(1.0)))
            lang.ppl.sample("y", lang.dist.Normal(z, 0.5), obs=y)
            lang.ppl.sample("x", lang.dist.Normal(b, 0.5), obs=x)

        return model

    first, at = LANGUAGES[writer], (1.0, 2.0)
    given = [first.array(v) for v in at]
    options = {"simulations": 200, "steps": 20, "batch_size": 32, "progress": False}
    fit = LANGUAGE_OF[writer].fit_amortized(model_of(first), *given, flow=few, **options)
    fit.save(tmp_path / "fit")
    loaded = LANGUAGE_OF[name_of(lang)].load_amortized(tmp_path / "fit", model_of(lang))
    assert repr(loaded) == repr(fit)
    assert repr(pf.load(tmp_path / "fit")).startswith("SavedAmortized(")
    draws, others = loaded.sample(4_000, *map(lang.array, at)), fit.sample(4_000, *given)
    for site in ("z", "b"):
        a, b = np.asarray(draws[site]), np.asarray(others[site])
        assert abs(a.mean() - b.mean()) < 5 * np.hypot(a.std(), b.std()) / 4_000**0.5
    loaded.save(tmp_path / "again")
    assert repr(pf.load(tmp_path / "again")) == repr(pf.load(tmp_path / "fit"))


def few(dim, context_dim):
    return pf.maf(dim, context_dim=context_dim, flow_layers=1, hidden=(8,))
