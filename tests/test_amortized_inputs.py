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
