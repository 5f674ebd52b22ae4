"""``callback=`` of the three fits, and the optimisers of densities and amortised posteriors."""

from functools import partial

import numpy as np
import optax
import pyro
import pytest
import torch
from languages import SHORT, correlated, small

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows.core.params import flatten


def shell(lang):
    return pfp if lang.ppl is pyro else pfn


def adam(lang, lr=5e-2):
    return partial(torch.optim.Adam, lr=lr) if lang.ppl is pyro else optax.adam(lr)


def of_a_mean(lang):
    def model(y):
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 1.0))
        lang.ppl.sample("y", lang.dist.Normal(mu, 0.5), obs=y)

    return model


@pytest.mark.slow_in_numpyro
def test_fit_calls_back_after_every_twentieth_of_the_steps(lang):
    calls = []
    guide = lang.AutoFlow(correlated(lang), small, start="init")
    options = SHORT | {"tolerance": None, "draws": 10}
    result = lang.fit(correlated(lang), guide, callback=lambda *call: calls.append(call), **options)
    assert [step for step, _, _ in calls] == list(range(5, 101, 5))
    blocks = np.median(result.losses.reshape(20, 5), axis=1)
    np.testing.assert_array_equal([loss for _, loss, _ in calls], blocks)
    for _, _, params in calls:
        assert params.keys() == result.params.keys()
    last, first = (dict(flatten(params)) for params in (calls[-1][2], calls[0][2]))
    for name, value in flatten(result.params):
        np.testing.assert_array_equal(np.asarray(last[name]), np.asarray(value))
    assert any(not np.array_equal(np.asarray(first[name]), np.asarray(last[name])) for name in last)


def test_a_callback_that_raises_ends_the_fit_where_it_is(lang):
    def callback(step, loss, params):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lang.fit(correlated(lang), lang.AutoFlow(correlated(lang), small, start="init"), callback=callback, **SHORT)


@pytest.mark.parametrize("validation", [0.0, 0.25])
def test_a_density_takes_an_optimiser_and_calls_back_with_its_params(lang, validation):
    calls = []
    data = lang.array(np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.95], [0.95, 1]], size=80))
    fitted = shell(lang).fit_density(
        pf.Chain([pf.maf(2, flow_layers=1, hidden=(4,)), pf.BatchNorm(2)]),
        data,
        optimizer=adam(lang),
        callback=lambda *call: calls.append(call),
        steps=100,
        validation=validation,
        progress=False,
    )
    assert [step for step, _, _ in calls] == list(range(5, 101, 5))
    np.testing.assert_array_equal([loss for _, loss, _ in calls], np.median(fitted.losses.reshape(20, 5), axis=1))
    chosen = 19 if fitted.validation_losses is None else int(np.argmin(fitted.validation_losses))
    expected, given = dict(flatten(fitted.params)), dict(flatten(calls[chosen][2]))
    assert expected.keys() == given.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(given[name]), np.asarray(value), rtol=1e-12)
    assert np.median(fitted.losses[-20:]) < np.median(fitted.losses[:20]) - 0.05


def of_a_cube(lang):
    """A posterior that the linear regression it starts at is not."""

    def model(y):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(1.0)))
        lang.ppl.sample("y", lang.dist.Normal(z**3, lang.array(0.2)), obs=y)

    return model


def test_an_amortised_posterior_takes_an_optimiser_and_calls_back(lang):
    calls = []
    fitted = shell(lang).fit_amortized(
        of_a_cube(lang),
        lang.array(0.0),
        flow=partial(pf.nsf, flow_layers=1, bins=3, hidden=(8,)),
        simulations=300,
        steps=60,
        patience=None,
        optimizer=adam(lang),
        callback=lambda *call: calls.append(call),
        progress=False,
    )
    assert [step for step, _, _ in calls] == list(range(3, 61, 3))
    assert dict(flatten(calls[-1][2])).keys() == dict(flatten(fitted.density.params)).keys()
    losses = fitted.density.losses
    assert np.median(losses[-12:]) < np.median(losses[:12]) - 0.05
    with pytest.raises(ValueError, match=r"optimizer= and lr=0\.1"):
        shell(lang).fit_amortized(of_a_mean(lang), lang.array(0.0), optimizer=adam(lang), lr=0.1)
