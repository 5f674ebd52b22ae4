"""What ``flow(name, ...)`` says of the model that it is part of, in both languages alike."""

import warnings

import jax
import numpy as np
import numpyro
import pyro
import pytest
from languages import SHORT, STILL

import ppl_flows as pf
import ppl_flows.numpyro


def iaf(dim=2):
    return pf.iaf(dim, flow_layers=1, hidden=(8,))


def two_flows(lang, second, **options):
    def model():
        lang.ppl.sample("u", lang.flow("shared", iaf()))
        lang.ppl.sample("v", lang.flow("shared", second, **options))

    return model


def normals(lang):
    def guide():
        for name in ("u", "v"):
            loc = lang.ppl.param(f"{name}_loc", lang.array(np.zeros(2)))
            lang.ppl.sample(name, lang.dist.Normal(loc, 1.0).to_event(1))

    return guide


@pytest.mark.parametrize(
    ("second", "options", "what"),
    [
        (pf.Inverse(iaf()), {}, "bijection"),  # of the same shapes: it would train, and mean something else
        (iaf(3), {}, "bijection"),
        (iaf(), {"base": pf.StudentT(2)}, "base"),
        (iaf(), {"batch_shape": (2,)}, "bijection"),
    ],
    ids=["inverse", "size", "base", "batch"],
)
def test_two_different_flows_of_one_name_are_an_error_that_names_it(lang, second, options, what):
    with pytest.raises(ValueError, match=rf"two flows named 'shared', .* but the {what} of one is"):
        lang.fit(two_flows(lang, second, **options), normals(lang), **STILL)


@pytest.mark.slow_in_numpyro
def test_equal_flows_of_one_name_are_one_flow(lang):
    result = lang.fit(two_flows(lang, iaf()), normals(lang), **STILL)
    names = {name for name in result.params if not name.endswith("_loc")}
    assert names
    assert all(name.startswith("shared") for name in names)


@pytest.mark.slow_in_numpyro
def test_a_name_is_free_again_in_the_next_run_and_in_the_guide(lang):
    def model():
        u = lang.ppl.sample("u", lang.flow("shared", iaf()))
        lang.ppl.sample("y", lang.dist.Normal(u, 1.0).to_event(1), obs=lang.array(np.ones(2)))

    def guide():
        lang.ppl.sample("u", lang.flow("shared", iaf()))

    lang.fit(model, guide, **STILL)

    def other():
        lang.ppl.sample("u", lang.flow("shared", pf.Inverse(iaf())))

    lang.fit(other, guide, **STILL)  # another run: a guide may draw where the model scores


def test_parameters_of_another_flow_are_an_error_that_names_the_flow():
    def model():
        numpyro.sample("u", ppl_flows.numpyro.flow("prior", iaf()))

    params = {"prior": iaf(3).init(np.random.default_rng(0))}
    with pytest.raises(ValueError, match="the parameters named 'prior' are of another flow"):
        numpyro.handlers.seed(numpyro.handlers.substitute(model, params), 0)()


# --- MCMC


def run_mcmc(lang, model):
    if lang.ppl is pyro:
        kernel = pyro.infer.NUTS(model, max_tree_depth=1)
        return pyro.infer.MCMC(kernel, num_samples=1, warmup_steps=1, disable_progbar=True).run()
    kernel = numpyro.infer.NUTS(model, max_tree_depth=1)
    return numpyro.infer.MCMC(kernel, num_warmup=1, num_samples=1, progress_bar=False).run(jax.random.key(0))


def prior_and_data(lang):
    def model():
        lang.ppl.sample("y", lang.flow("prior", iaf()), obs=lang.array(np.ones(2)))
        lang.ppl.sample("u", lang.flow("prior", iaf()))

    return model


@pytest.mark.slow_in_numpyro
def test_mcmc_on_a_flow_that_nobody_has_trained_warns(lang):
    for _ in range(2 if lang.ppl is pyro else 1):  # the store has the weights after the first, as they were made
        with pytest.warns(UserWarning, match="flow 'prior' has the weights it was made with, and MCMC trains none"):
            run_mcmc(lang, prior_and_data(lang))


@pytest.mark.slow_in_numpyro
def test_mcmc_on_a_trained_flow_does_not_warn(lang):
    def guide():
        loc = lang.ppl.param("u_loc", lang.array(np.zeros(2)))
        lang.ppl.sample("u", lang.dist.Normal(loc, 1.0).to_event(1))

    model = prior_and_data(lang)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="flow ")
        result = lang.fit(model, guide, **(SHORT | {"steps": 5}))  # nor does SVI
        run_mcmc(lang, model if lang.ppl is pyro else numpyro.handlers.substitute(model, data=result.params))
