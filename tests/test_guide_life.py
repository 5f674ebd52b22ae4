"""A guide is made, set up at its first call, trained; and it is of one model. In both languages alike."""

import copy

import numpy as np
import numpyro
import pyro
import pytest
import torch
from jax import random
from languages import SHORT, STILL, assert_moved, identity_flow, pyro_parameters, small
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoGuideList

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.pyro import AutoFlow, AutoLocalFlow, fit

LANGUAGE_OF = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}


def far():
    """A posterior far from where guides begin."""
    a = pyro.sample("a", pyro.distributions.Normal(torch.zeros(2), 100.0).to_event(1))
    pyro.sample("y", pyro.distributions.Normal(a, 1.0).to_event(1), obs=torch.tensor([9.43, 9.43]))


def rows():
    mu = pyro.sample("mu", pyro.distributions.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        z = pyro.sample("z", pyro.distributions.Normal(mu, 1.0))
        pyro.sample("y", pyro.distributions.Normal(z, 1.0), obs=torch.tensor([1.0, 2.0, 6.0]))


# --- the set-up


@pytest.mark.parametrize("start", ["auto", "init"])
@pytest.mark.parametrize("first", ["no_grad", "inference_mode", "Predictive"])
def test_a_guide_first_called_without_gradients_trains(start, first):
    guide = AutoFlow(far, small, start=start)
    if first == "Predictive":
        Predictive(far, guide=guide, num_samples=2)()
    else:
        with getattr(torch, first)():
            guide()
    assert guide.start == {"auto": "full_rank"}.get(start, start)
    before = pyro_parameters(guide)
    fit(far, guide, **SHORT)
    assert_moved(before, pyro_parameters(guide))


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, KeyboardInterrupt])
def test_a_set_up_that_fails_leaves_the_guide_as_it_was(lang, kind):
    broken = [True]

    def recipe(dim):
        if broken:
            raise kind("broken")
        return small(dim)

    def model():
        lang.ppl.sample("a", lang.dist.Normal(lang.array(3.0), 1.0))

    guide = lang.AutoFlow(model, recipe)
    before = dict(vars(guide))
    for _ in range(2):
        with pytest.raises(kind, match="broken"):
            lang.set_up(guide)
        assert vars(guide).keys() == before.keys()
        assert guide.start == "auto"
        assert guide.prototype_trace is None
    broken.clear()
    lang.set_up(guide)
    assert guide.start == "full_rank"


def test_methods_before_the_set_up_say_what_to_call(lang):
    def model():
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("z", lang.dist.Normal(0.0, 1.0))

    shell = LANGUAGE_OF[lang.ppl.__name__]
    params = () if lang.ppl is pyro else ({},)
    for guide in (shell.AutoFlow(model), shell.AutoLocalFlow(model, "rows")):
        calls = [lambda g: g.median(*params), lambda g: g.quantiles(*params, [0.5])]
        if isinstance(guide, shell.AutoFlow):
            calls += [
                lambda g: g.get_transform(*params),
                lambda g: g.get_posterior(*params),
                lambda g: g.get_base_dist(),
            ]
        if lang.ppl is numpyro:
            calls += [lambda g: g.sample_posterior(random.key(0), {})]
        for call in calls:
            with pytest.raises(RuntimeError, match=r"not set up yet, .*; fit it, or call it once with the model's arg"):
                call(guide)


# --- what Pyro saved


def trained_state():
    guide = AutoFlow(far, small)
    fit(far, guide, **STILL)
    return pyro.get_param_store().get_state(), guide.state_dict(), guide


def test_a_new_guide_on_a_restored_store_is_refused_everywhere():
    state, _, _ = trained_state()
    pyro.clear_param_store()
    pyro.get_param_store().set_state(state)
    for use in (
        lambda g: g(),
        lambda g: Predictive(far, guide=g, num_samples=2)(),
        lambda g: SVI(far, g, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step(),
        lambda g: fit(far, g, **STILL),
    ):
        with pytest.raises(ValueError, match=r"already holds 'AutoFlow\..*use guide.load_state_dict"):
            use(AutoFlow(far, small))


def test_a_trained_guide_and_its_copies_do_not_mind_the_store():
    _, _, guide = trained_state()
    assert guide()["a"].shape == (2,)
    assert guide.median()["a"].numpy() == pytest.approx(9.43, abs=0.2)
    assert copy.deepcopy(guide).median()["a"].numpy() == pytest.approx(9.43, abs=0.2)


@pytest.mark.parametrize("listed", [False, True])
def test_a_state_may_be_loaded_before_the_first_call(listed):
    def make():
        if not listed:
            return AutoFlow(far, small)
        guide = AutoGuideList(far)
        guide.append(AutoFlow(far, small))
        return guide

    guide = make()
    fit(far, guide, **SHORT)
    state = {name: value.clone() for name, value in guide.state_dict().items()}
    pyro.clear_param_store()
    new = make()
    new.load_state_dict(state)
    new()
    assert (new[0] if listed else new).start == "loaded"
    loaded = new.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    before = pyro_parameters(new)
    fit(far, new, **SHORT)
    assert_moved(before, pyro_parameters(new))


def test_a_local_guides_state_may_be_loaded_before_the_first_call():
    guide = AutoLocalFlow(rows, "rows", flow=small, local_flow=small_context)
    guide()
    state = {name: value.clone() + 0.01 for name, value in guide.state_dict().items()}
    pyro.clear_param_store()
    new = AutoLocalFlow(rows, "rows", flow=small, local_flow=small_context)
    new.load_state_dict(state)
    new()
    assert all(torch.equal(value, state[name]) for name, value in new.state_dict().items())


def small_context(dim, context_dim):
    return pf.iaf(dim, flow_layers=1, hidden=(8,), context_dim=context_dim)


def test_a_loaded_state_that_does_not_fit_fails_at_the_first_call():
    _, state, _ = trained_state()
    pyro.clear_param_store()
    wider = AutoFlow(far, identity_flow)
    wider.load_state_dict(state)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="Missing key"):
            wider()


# --- a guide is of one model


def sites(lang, shapes, observed=()):
    def model():
        for name, shape in shapes.items():
            fn = lang.dist.Normal(lang.array(np.zeros(shape)), 1.0).to_event(len(shape))
            lang.ppl.sample(name, fn, obs=lang.array(np.ones(shape)) if name in observed else None)

    return model


@pytest.mark.parametrize(
    ("of_model", "of_guide", "observed", "message"),
    [
        ({"a": ()}, {"a": (), "b": ()}, (), "'b' is drawn by the guide, but not in the model"),
        ({"a": (), "b": ()}, {"a": ()}, (), "'b' is a latent of the model only"),
        ({"a": (), "y": ()}, {"a": (), "y": ()}, ("y",), "'y' is drawn by the guide, but observed by the model"),
        ({"a": (3,)}, {"a": ()}, (), r"'a' has shape \(3,\) in the model and \(\) in the guide"),
    ],
)
def test_a_guide_of_another_model_says_which_sites_differ(lang, of_model, of_guide, observed, message):
    guide = lang.AutoFlow(sites(lang, of_guide), small)
    with pytest.raises(ValueError, match=message):
        lang.fit(sites(lang, of_model, observed), guide, **STILL)


def test_model_and_guide_in_the_wrong_order_are_told(lang):
    model = sites(lang, {"a": (), "y": ()}, ("y",))
    with pytest.raises(ValueError, match=r"the model is a guide, AutoFlow; the order is fit\(model, guide"):
        lang.fit(lang.AutoFlow(model), model, **STILL)

    def by_hand():
        lang.ppl.sample("a", lang.dist.Normal(lang.ppl.param("loc", lang.array(0.0)), 1.0))

    with pytest.raises(ValueError, match=r"the guide observes \['y'\] and the model nothing: are they swapped"):
        lang.fit(by_hand, model, **STILL)


def test_sites_that_only_one_of_them_needs_are_no_difference(lang):
    """Auxiliary and masked ones, and factors."""
    ppl, dist = lang.ppl, lang.dist
    masked = pyro.poutine.mask if ppl is pyro else numpyro.handlers.mask

    def model():
        a = ppl.sample("a", dist.Normal(lang.array(0.0), 1.0))
        with masked(mask=False):
            ppl.sample("ignored", dist.Normal(a, 1.0))
        ppl.sample("y", dist.Normal(a, 1.0), obs=lang.array(1.0))

    def guide():
        loc = ppl.param("loc", lang.array(0.0))
        ppl.sample("helper", dist.Normal(lang.array(0.0), 1.0), infer={"is_auxiliary": True})
        ppl.factor("weight", lang.array(0.0), **({"has_rsample": True} if ppl is pyro else {}))
        ppl.sample("a", dist.Normal(loc, 1.0))

    with pytest.warns(UserWarning, match="Found vars in model but not guide"):  # the host's
        assert np.isfinite(lang.fit(model, guide, **STILL).elbo.mean)


def test_a_model_whose_sites_vary_is_no_other_model():
    def model():
        a = pyro.sample("a", pyro.distributions.Normal(0.0, 1.0))
        if a > 0:
            pyro.sample("b", pyro.distributions.Normal(0.0, 1.0))

    def guide():
        pyro.sample("a", pyro.distributions.Normal(pyro.param("a_loc", torch.tensor(0.0)), 1.0))
        pyro.sample("b", pyro.distributions.Normal(pyro.param("b_loc", torch.tensor(0.0)), 1.0))

    with pytest.warns(UserWarning, match="Found non-auxiliary vars in guide but not model"):
        fit(model, guide, vectorize_particles=False, **STILL)
