"""Mistakes that users make: each is an error that names the mistake and the way out, in both languages alike."""

import importlib

import jax
import numpy as np
import pyro
import pytest
import torch
from jax import random
from languages import LANGUAGES, identity_flow, small

import ppl_flows as pf
from ppl_flows.inference.arrays import to_numpy

ROWS = np.random.default_rng(0).standard_normal((30, 3))
DRAWS = {"b": ROWS[:, 0], "a": ROWS[:, 1:]}
FEW = {"steps": 2, "num_particles": 2, "draws": 10, "progress": False}


def shell(lang):
    return importlib.import_module(f"ppl_flows.{lang.ppl.__name__}")


def regression(lang):
    """Its order of sites is not alphabetical."""

    def model(y):
        b = lang.ppl.sample("b", lang.dist.Normal(lang.array(0.0), 1.0))
        a = lang.ppl.sample("a", lang.dist.Normal(lang.array(np.zeros(2)), 1.0).to_event(1))
        lang.ppl.deterministic("both", b + a.sum(-1))
        with lang.ppl.plate("rows", len(y)):
            lang.ppl.sample("y", lang.dist.Normal(b + a.sum(-1), 1.0), obs=y)

    return model


def fit(lang, y=None, start="init", **options):
    model = regression(lang)
    return lang.fit(
        model,
        lang.AutoFlow(model, identity_flow, start=start),
        lang.array(ROWS[:, 0] if y is None else y),
        **(FEW | options),
    )


def fit_density(lang, bijection=None, data=ROWS, **options):
    options = {"steps": 2, "progress": False} | options
    return shell(lang).fit_density(small(3) if bijection is None else bijection, data, **options)


def key(lang):
    return random.key(0)


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(ROWS)), batch_size=10)


def encoder(lang):
    return torch.nn.Linear(3, 2) if lang.ppl is pyro else lambda x: x


def with_holes(values, n=2):
    values = values.copy()
    values[3 : 3 + n] = np.nan
    return values


def constant(*columns):
    data = ROWS.copy()
    data[:, columns] = 7.1
    return data


KEY = "seed must be a whole number such as 0, in every language, and no key"


@pytest.mark.filterwarnings("ignore:Out-of-support values")  # NumPyro's own, of NaN in the data
@pytest.mark.parametrize(
    ("mistake", "error", "message"),
    [
        # what is to be fitted
        (lambda lang: fit_density(lang, pf.nsf), TypeError, "fit_density takes bijections.*recipe.*is called first"),
        (
            lambda lang: fit_density(lang, pf.Coupling),
            TypeError,
            "takes bijections.*class, is called first",
        ),
        (lambda lang: fit_density(lang, pf.Affine()), TypeError, r"takes bijections such as pf.nsf\(2\), got Affine"),
        (lambda lang: lang.flow("z", pf.nsf), TypeError, "flow takes bijections.*recipe.*is called first"),
        (lambda lang: shell(lang).Flow(pf.nsf), TypeError, "FlowTransform takes bijections.*recipe.*is called first"),
        (lambda lang: fit_density(lang, base=pf.StudentT), TypeError, "got the class StudentT: give an object"),
        (
            lambda lang: fit_density(lang, base="normal"),
            TypeError,
            "a distribution of the language, or a ppl_flows",
        ),
        (lambda lang: lang.fit(3, lambda: None), TypeError, "takes a model and a guide.*but model is 3"),
        (lambda lang: pf.iaf(3, hidden=64), TypeError, r"hidden must be a tuple of widths such as \(64, 64\), got 64"),
        (lambda lang: pf.NeuralODE(3, hidden=64), TypeError, r"hidden must be a tuple of widths such as .*, got 64"),
        # data
        (
            lambda lang: fit_density(lang, context=loader()),
            TypeError,
            "got DataLoader; put its batches together in one",
        ),
        (lambda lang: fit_density(lang, data=None), TypeError, "data must be an array, a list or a table of numbers"),
        (lambda lang: fit_density(lang, data=[["a", "b", "c"]] * 4), TypeError, "a table of numbers, got list of <U1"),
        (lambda lang: fit_density(lang, data=[[1.0], [1.0, 2.0]]), ValueError, "rows do not fit together"),
        (lambda lang: fit_density(lang, data=constant(1)), ValueError, "30 rows .* same value in column 1, where"),
        (lambda lang: fit_density(lang, data=constant(0, 2)), ValueError, "same value in column 0, 2, .*levels="),
        (lambda lang: fit_density(lang, data=ROWS[[1, 1]]), ValueError, "all 2 rows .* column 0, 1, 2"),
        (lambda lang: fit_density(lang, validation=ROWS), TypeError, "the share of the rows to hold out, such as 0.1"),
        (lambda lang: fit_density(lang, validation=1.5), ValueError, "a share of the rows between 0 and 1, got 1.5"),
        (
            lambda lang: fit_density(lang, context=ROWS),
            ValueError,
            "leave it out, or make one with context_dim=3",
        ),
        (lambda lang: lang.flow("z", small(3), context=lang.array(ROWS)), ValueError, "leave it out, or give context"),
        (lambda lang: fit_density(lang, batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda lang: fit_density(lang, batch_size=2.5), TypeError, "batch_size must be a whole number, got 2.5"),
        (lambda lang: fit_density(lang, levels=2.5), TypeError, "levels must be a whole number, got 2.5"),
        (lambda lang: fit_density(lang, steps=3.0), TypeError, "steps must be a whole number, got 3.0"),
        (lambda lang: fit_density(lang, lr=np.nan), ValueError, "lr must be positive and finite, got nan"),
        (lambda lang: fit(lang, clip=-1.0), ValueError, "clip must be positive and finite, got -1"),
        (lambda lang: fit(lang, with_holes(ROWS[:, 0])), ValueError, "2 of the 30 observed values at site 'y' are not"),
        (lambda lang: fit(lang, with_holes(ROWS[:, 0]), start="auto"), ValueError, "2 of the 30 observed .* 'y'"),
        # options of fit
        (lambda lang: fit(lang, seed=key(lang)), TypeError, f"fit: {KEY}"),
        (lambda lang: fit_density(lang, seed=key(lang)), TypeError, f"fit_density: {KEY}"),
        (lambda lang: shell(lang).Flow(small(3), seed=key(lang)), TypeError, KEY),
        (lambda lang: lang.AutoFlow(regression(lang), seed=key(lang)), TypeError, f"AutoFlow: {KEY}"),
        (
            lambda lang: fit(lang, callback=1),
            TypeError,
            "callback must be a function of step, loss and params, .*got 1",
        ),
        (lambda lang: fit_density(lang, callback="print"), TypeError, "callback must be a function of .*got 'print'"),
        (lambda lang: fit_density(lang, encoder=encoder(lang)), ValueError, "encoder= needs context=, the rows"),
        (lambda lang: fit(lang).as_prior(reweighted=0), TypeError, "reweighted must be True, False or None, got 0"),
        (lambda lang: fit(lang, seed=-1), ValueError, "seed must be at least 0, got -1"),
        (lambda lang: fit(lang, seed=2**32), ValueError, r"seed must be below 2\*\*32"),
        (lambda lang: fit(lang, num_steps=10), TypeError, "no option num_steps=.*did you mean steps="),
        (lambda lang: fit(lang, optim=None), TypeError, "no option optim=.*did you mean optimizer="),
        (lambda lang: fit(lang, step=3), TypeError, "no option step=, and the model takes no such argument"),
        (lambda lang: fit(lang, num_particles=True), TypeError, "num_particles must be a whole number, got True"),
        (lambda lang: fit(lang, tolerance=np.nan), ValueError, "tolerance must be positive and finite, got nan"),
        (lambda lang: fit(lang).sample(0), ValueError, "num_samples must be at least 1, got 0"),
        (lambda lang: fit(lang).reweighted(2.5), TypeError, "num_samples must be a whole number, got 2.5"),
        (lambda lang: fit(lang).sample(3, seed=key(lang)), TypeError, f"sample: {KEY}"),
        # draws to start from
        (lambda lang: fit(lang, start={"b": DRAWS["b"]}), ValueError, r"start has no draws of \['a'\], latent sites"),
        (lambda lang: fit(lang, start=DRAWS | {"c": ROWS}), ValueError, r"start has draws of \['c'\], but the model's"),
        (lambda lang: fit(lang, start=DRAWS | {"a": ROWS}), ValueError, r"start\['a'\] .* \(30, 2\), got \(30, 3\)"),
        (lambda lang: fit(lang, start=DRAWS | {"a": ROWS[:, 1]}), ValueError, r"start\['a'\] .*, got \(30,\)"),
        (lambda lang: fit(lang, start=DRAWS | {"a": ROWS[:9, 1:]}), ValueError, r"\(30, 2\), got \(9, 2\)"),
        (
            lambda lang: fit(lang, start=DRAWS | {"b": with_holes(ROWS[:, 0])}),
            ValueError,
            r"start\['b'\] must be",
        ),
        (lambda lang: lang.AutoFlow(regression(lang), start=ROWS), ValueError, "start must be one of auto"),
        # files and parameters
        (lambda lang: pf.save("x", lang.AutoFlow(regression(lang)), {}), TypeError, r"AutoFlow: .*guide.get_transform"),
        (lambda lang: pf.save("x", pf.nsf, {}), TypeError, "takes a bijection or a base.*a recipe is called first"),
        (lambda lang: pf.save("x", {}, small(3)), TypeError, "takes a bijection or a base, and its params, got dict"),
        (lambda lang: small(3).init(random.key(0)), TypeError, r"NumPy generator, such as np.random.default_rng\(0\)"),
        (lambda lang: small(3).init(0), TypeError, "init takes a NumPy generator.*got 0"),
        (lambda lang: pf.planar_flow(3).init(torch.Generator()), TypeError, "init takes a NumPy generator"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(lang, mistake, error, message):
    with pytest.raises(error, match=message):
        mistake(lang)


def test_a_jitted_model_is_told_to_be_the_function_itself():
    numpyro = importlib.import_module("ppl_flows.numpyro")
    model = jax.jit(lambda: None)
    for make in (lambda: numpyro.AutoFlow(model), lambda: numpyro.fit(model, lambda: None)):
        with pytest.raises(TypeError, match="jitted function, whose sites NumPyro does not see; give the function"):
            make()


@pytest.mark.parametrize("kind", ["branch", "shape"])
def test_a_model_that_runs_for_one_draw_only_is_told_of_vectorize_particles(float64, kind):
    from ppl_flows.pyro import AutoFlow, fit

    y = torch.tensor(ROWS[:, 0])

    def model():
        z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        mean = (1.0 if z > 0 else -1.0) * z if kind == "branch" else z.expand(30)
        pyro.sample("y", pyro.distributions.Normal(mean, 1.0).expand([30]).to_event(1), obs=y)

    with pytest.raises(ValueError, match=r"not for all particles at once.*pass vectorize_particles=False"):
        fit(model, AutoFlow(model, identity_flow, start="init"), **(FEW | {"num_particles": 3}))
    pyro.clear_param_store()
    guide = AutoFlow(model, identity_flow, start="init")
    assert len(fit(model, guide, vectorize_particles=False, **FEW).losses) == 2


def mixing(y):
    """At once, ``z`` of all draws are summed."""
    z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("y", pyro.distributions.Normal(z.sum(), 1.0), obs=y)


def apart(y):
    z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("y", pyro.distributions.Normal(z.sum(-1), 1.0), obs=y)


@pytest.mark.parametrize("kind", ["fit", "fit_amortized", "fit_likelihood"])
def test_a_model_that_mixes_the_draws_of_one_run_is_refused(float64, kind):
    from ppl_flows.pyro import AutoFlow, fit, fit_amortized, fit_likelihood

    def trained(model, **options):
        pyro.clear_param_store()
        if kind == "fit":
            return fit(model, AutoFlow(model, identity_flow, start="init"), torch.tensor(0.0), **FEW, **options)
        few = {"simulations": 100, "steps": 2, "progress": False}
        learn = fit_amortized if kind == "fit_amortized" else fit_likelihood
        return learn(model, torch.tensor(0.0), **few, **options)

    name = "vectorize_particles" if kind == "fit" else "vectorize"
    with pytest.raises(ValueError, match=rf"mixes draws .* site 'y' .* z.sum\(-1\) is meant.*pass {name}=False"):
        trained(mixing)
    for result in (trained(mixing, **{name: False}), trained(apart)):
        assert np.isfinite(getattr(result, "density", result).losses).all()


def test_a_name_that_the_model_takes_is_the_models(lang):
    def model(y, num_steps):
        lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), float(num_steps)))

    guide = lang.AutoFlow(model, identity_flow, start="init")
    assert lang.fit(model, guide, lang.array(0.0), num_steps=3, **FEW).losses.shape == (2,)


def test_values_under_a_mask_need_not_be_finite():
    lang = LANGUAGES["numpyro"]  # Pyro's own checks refuse them

    def model():
        z = lang.ppl.sample("z", lang.dist.Normal(0.0, 1.0))
        with lang.ppl.handlers.mask(mask=False):
            lang.ppl.sample("y", lang.dist.Normal(z, 1.0).expand([30]), obs=with_holes(ROWS[:, 0]))

    assert len(lang.fit(model, lang.AutoFlow(model, identity_flow, start="init"), **FEW).losses) == 2


@pytest.mark.parametrize("data", [[1, 2], np.arange(3.0)[::-1], np.float32(1.0), torch.ones(2), jax.numpy.ones(2)])
def test_arrays_of_any_library_become_numpy_arrays_of_their_own(data):
    array = to_numpy(data)
    assert array.flags.writeable
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array, np.asarray(data))


@pytest.mark.parametrize(
    ("bijection", "data", "options"),
    [
        (small(3), np.tile([0, 1, 3], (9, 1)), {"levels": 4}),
        (small(3), constant(1), {"standardize": False}),
        (pf.glow((2, 2, 2), scales=1, flow_layers=1, hidden=4), np.zeros((9, 2, 2, 2)), {"levels": 4}),
        (pf.Chain([small(2), pf.Elementwise(2, pf.Sigmoid())]), np.tile([0.1, 0.3], (9, 1)), {}),
    ],
)
def test_constant_columns_that_are_not_standardised_are_fitted(lang, bijection, data, options):
    assert np.isfinite(fit_density(lang, bijection, data, **options).losses).all()


def test_no_number_of_draws_is_the_default_in_either_language(lang):
    assert np.isfinite(fit(lang, draws=None).elbo.mean)
