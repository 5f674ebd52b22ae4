"""What fits by simulation refuse: data that are missing, models whose density is not that of what they draw."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import numpy as np
import numpyro.handlers
import pyro.poutine
import pytest
from numpyro.infer.reparam import LocScaleReparam as NumPyroLocScale
from pyro.infer.reparam import LocScaleReparam as PyroLocScale

import ppl_flows as pf
from ppl_flows.inference.density_results import AmortizedFit

SMALL = {"flow": pf.Elementwise, "simulations": 100, "steps": 2, "progress": False}


def shell(lang):
    return __import__(f"ppl_flows.{lang.ppl.__name__}", fromlist=["fit_amortized"])


def handlers_of(lang):
    return pyro.poutine if lang.ppl is pyro else numpyro.handlers


def two_sites(lang):
    def model(x=None, y=None):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(1.0)))
        lang.ppl.sample("x", lang.dist.Normal(z, 1.0), obs=x)
        lang.ppl.sample("y", lang.dist.Normal(z, 1.0), obs=y)

    return model


@pytest.mark.slow_in_numpyro
def test_data_that_a_fit_is_given_must_all_be_there(lang, tmp_path):
    model, y = two_sites(lang), lang.array(0.0)
    fit = shell(lang).fit_amortized(model, y, y, **SMALL)
    fit.save(tmp_path / "fit")
    loaded = shell(lang).load_amortized(tmp_path / "fit", model)
    for ask in (fit.sample, fit.to_arviz, loaded.sample):
        with pytest.raises(ValueError, match=r"the data \['x', 'y'\], but the model observes nothing at \['y'\]"):
            ask(3, y)
    for ask in (fit.correct, loaded.correct):
        with pytest.raises(ValueError, match=r"observes nothing at \['x', 'y'\]"):
            ask(progress=False)


def test_data_must_be_finite_and_of_the_shape_of_training(lang, tmp_path):
    def model(y):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(1.0)))
        with lang.ppl.plate("rows", 5):
            lang.ppl.sample("y", lang.dist.Normal(z, 1.0), obs=y)

    fit = shell(lang).fit_amortized(model, lang.array(np.zeros(5)), **SMALL)
    fit.save(tmp_path / "fit")
    loaded = shell(lang).load_amortized(tmp_path / "fit", model)
    for ask in (fit.sample, loaded.sample):
        for n in (1, 4):
            with pytest.raises(
                ValueError, match=rf"'y' must have shape \(5,\), as this fit was trained on, got \({n},\)"
            ):
                ask(3, lang.array(np.ones(n)))
        with pytest.raises(ValueError, match="'y' must be finite, but 1 of 5 numbers are not"):
            ask(3, lang.array([0.0, np.nan, 0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match=r"'y' must have shape \(5,\)"):
        fit.correct(lang.array(np.ones(1)), progress=False)


@pytest.mark.slow_in_numpyro
def test_a_set_may_have_other_rows_and_each_row_the_numbers_of_training(lang):
    def model(y):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(1.0)))
        with lang.ppl.plate("rows", len(y)):
            lang.ppl.sample("y", lang.dist.Normal(z * lang.array(np.ones(2)), 1.0).to_event(1), obs=y)

    options = {**SMALL, "encoder": pf.SetEncoder(size=2, hidden=(4,))}
    if lang.ppl is pyro:
        options["vectorize"] = False
    fit = shell(lang).fit_amortized(model, lang.array(np.zeros((5, 2))), **options)
    assert fit.sample(3, lang.array(np.zeros((2, 2))))["z"].shape == (3,)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit.sample(3, lang.array(np.zeros((6, 2))))
    assert [(str(w.message)[:50], w.filename) for w in seen] == [
        ("this fit was trained on sets of up to 5 rows, and ", __file__)
    ]
    with pytest.raises(ValueError, match=r"'y' must have shape \(n, 2\)"):
        fit.sample(3, lang.array(np.zeros((5, 3))))
    options["encoder"] = pf.SetEncoder(size=2, hidden=(4,), any_size=False)
    fixed = shell(lang).fit_amortized(model, lang.array(np.zeros((5, 2))), **options)
    assert fixed.sample(3, lang.array(np.zeros((5, 2))))["z"].shape == (3,)
    for n in (2, 6):
        with pytest.raises(ValueError, match=rf"any_size=False\), and is for sets of 5 rows, got {n}"):
            fixed.sample(3, lang.array(np.zeros((n, 2))))


def weighed_model(lang, kind):
    """A model whose density has what simulations have not; ``of`` is a mask or a scale."""
    handle = handlers_of(lang)
    within = {"mask": lambda of: handle.mask(mask=of), "scale": lambda of: handle.scale(scale=of)}

    def model(y, of=None):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(1.0)))
        if kind == "factor":
            lang.ppl.factor("penalty", -(z**2))
        with within[kind](of) if kind in within else nullcontext():
            rows = lang.ppl.plate("rows", 4, subsample_size=of if kind == "plate" else None)
            with rows as i:
                fn = lang.dist.Normal(z, 1.0)
                lang.ppl.sample("y", fn.mask(of) if kind == "masked" else fn, obs=y[i])

    return model


HALF = np.array([True, True, False, True])


@pytest.mark.parametrize(
    ("kind", "of", "what"),
    [
        ("factor", None, "'penalty' is a factor"),
        ("mask", HALF, "'y' is masked"),
        ("masked", HALF, "'y' is masked"),
        ("scale", 0.5, "'y' is scaled"),
        ("plate", 2, "'y' is scaled, as in a sub-sampled plate"),
    ],
)
def test_models_whose_density_is_not_that_of_what_they_draw_are_not_simulated(lang, kind, of, what):
    model, y = weighed_model(lang, kind), lang.array(np.zeros(4))
    if kind in ("mask", "masked"):
        of = lang.xp.asarray(of)
    calls = [
        lambda: shell(lang).fit_amortized(model, y, of, **SMALL),
        lambda: shell(lang).fit_likelihood(model, y, of, **SMALL),
        lambda: shell(lang).calibrate(model, lambda y, seed: {"z": np.zeros(9)}, y, of, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=rf"cannot be simulated: site {what}.*fit\(model, AutoFlow\(model\)\)"):
            call()


def test_a_mask_of_all_rows_and_a_scale_of_one_change_nothing_and_those_of_data_are_seen(lang):
    y, model = lang.array(np.zeros(4)), weighed_model(lang, "mask")
    fit = shell(lang).fit_amortized(model, y, lang.xp.asarray(HALF | True), **SMALL)
    with pytest.raises(ValueError, match="'y' is masked"):
        fit.sample(3, y, lang.xp.asarray(HALF))
    one = weighed_model(lang, "scale")
    fixed = {"z": lang.array(np.zeros(20))}
    assert shell(lang).calibrate(one, lambda y, seed: fixed, y, 1.0, simulations=10, progress=False).num_draws == 20


def test_a_reparametrised_latent_is_no_data_and_no_factor(lang):
    config = {"z": (PyroLocScale if lang.ppl is pyro else NumPyroLocScale)(0.0)}
    model = handlers_of(lang).reparam(two_sites(lang), config=config)
    fit = shell(lang).fit_amortized(model, lang.array(0.0), lang.array(0.0), **SMALL)
    assert [*fit.sample(3, lang.array(0.0), lang.array(1.0))] == ["z_decentered"]


def test_a_discrete_latent_is_an_error_that_names_it(lang):
    def model(y):
        k = lang.ppl.sample("k", lang.dist.Bernoulli(lang.array(0.3)))
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(1.0)))
        lang.ppl.sample("y", lang.dist.Normal(z + k, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"the latents \['k'\] are discrete.*such as by a MixtureSameFamily"):
        shell(lang).fit_amortized(model, lang.array(0.0), **SMALL)


OPTIONS = [
    ({"steps": 0}, ValueError, "{}: steps must be at least 1, got 0"),
    ({"steps": "x"}, TypeError, "{}: steps must be a whole number"),
    ({"batch_size": 0}, ValueError, "{}: batch_size must be at least 1"),
    ({"validation": 2.0}, ValueError, "{}: validation must be a share of the rows between 0 and 1, got 2.0"),
    ({"validation": "x"}, TypeError, "{}: validation is the share"),
    ({"lr": -1.0}, ValueError, "{}: lr must be positive"),
    ({"flow": 3}, TypeError, "{}: flow must be a recipe.*got 3"),
    ({"callback": 3}, TypeError, "{}: callback must be a function"),
    ({"seed": "x"}, TypeError, "{}: seed must be a whole number"),
    ({"checkpoint": "/no/such/file"}, FileNotFoundError, "there is no directory '/no/such'"),
    ({"checkpoint": "file", "checkpoint_every": -1}, ValueError, "checkpoint_every must be seconds"),
]


def never(lang):
    """A model that is not to be run."""

    def model(y):
        raise AssertionError("options are checked before the simulations")

    return model


@pytest.mark.parametrize(("options", "error", "words"), OPTIONS, ids=lambda v: "-".join(v) if type(v) is dict else None)
def test_options_are_checked_before_the_simulations_and_by_the_name_of_the_call(lang, options, error, words):
    for name in ("fit_amortized", "fit_likelihood"):
        with pytest.raises(error, match=words.format(name)):
            getattr(shell(lang), name)(never(lang), lang.array(0.0), **options)


def test_options_of_one_fit_are_checked_before_the_simulations(lang):
    fit = shell(lang)
    with pytest.raises(TypeError, match="encoder must be a"):
        fit.fit_amortized(never(lang), lang.array(0.0), encoder=3)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"fit_likelihood: simulations must be at least 100, got {wrong}"):
            fit.fit_likelihood(never(lang), lang.array(0.0), simulations=wrong)
    with pytest.raises(TypeError, match=r"fit_likelihood: simulations must be a whole number, got 2\.5"):
        fit.fit_likelihood(never(lang), lang.array(0.0), simulations=2.5)
    with pytest.raises(TypeError, match=r"fit_likelihood: given must be a tuple such as \('z',\), got 'z'"):
        fit.fit_likelihood(never(lang), lang.array(0.0), given="z")
    with pytest.raises(TypeError, match="correct: lr must be a number, got 'x'"):
        AmortizedFit(None, None).correct(lr="x")


@pytest.mark.slow_in_numpyro
def test_a_flow_that_is_no_bijection_is_an_error_by_the_name_of_the_call(lang):
    options = {**SMALL, "flow": lambda dim, context_dim: 3}
    for name in ("fit_amortized", "fit_likelihood"):
        with pytest.raises(TypeError, match=f"{name} takes bijections such as"):
            getattr(shell(lang), name)(lambda y: two_sites(lang)(None, y), lang.array(0.0), **options)
