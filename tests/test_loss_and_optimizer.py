"""``fit(loss=, optimizer=, callback=)``: the host's own ELBOs and optimisers, and what does not go with them."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.optim
import optax
import pyro
import pyro.optim
import pytest
import torch
from languages import MEAN, SHORT, assert_moved, correlated, identity_flow, small
from scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows.numpyro.compiled_steps import _own_optimizer
from ppl_flows.pyro.eager_step import EagerSteps

SHELLS = {pyro: pfp, numpyro: pfn}
OWN = {key: value for key, value in SHORT.items() if key != "num_particles"}  # a loss has particles of its own
JIT = {"ignore_jit_warnings": True}
LOSSES = {
    "pyro": {
        "Trace_ELBO": {"num_particles": 8, "vectorize_particles": True, "max_plate_nesting": 0},
        "TraceGraph_ELBO": {},
        "TraceMeanField_ELBO": {"num_particles": 2},
        "TraceEnum_ELBO": {"max_plate_nesting": 0, "strict_enumeration_warning": False},
        "RenyiELBO": {"num_particles": 4},
        "JitTrace_ELBO": JIT,
        "JitTraceGraph_ELBO": JIT,
        "JitTraceMeanField_ELBO": JIT,
        "JitTraceEnum_ELBO": JIT | {"max_plate_nesting": 0, "strict_enumeration_warning": False},
    },
    "numpyro": {
        "Trace_ELBO": {"num_particles": 8},
        "TraceGraph_ELBO": {},
        "TraceMeanField_ELBO": {"num_particles": 2},
        "TraceEnum_ELBO": {"max_plate_nesting": 0},
        "RenyiELBO": {"num_particles": 4},
    },
}
OPTIMIZERS = {
    "pyro": {
        "pyro.optim": lambda: pyro.optim.Adam({"lr": 5e-2}),
        "pyro.optim, clipped": lambda: pyro.optim.ClippedAdam({"lr": 5e-2, "clip_norm": 1.0}),
        "pyro.optim, a scheduler": lambda: pyro.optim.ExponentialLR(
            {"optimizer": torch.optim.Adam, "optim_args": {"lr": 5e-2}, "gamma": 0.9}
        ),
        "a function of the parameters": lambda: partial(torch.optim.AdamW, lr=5e-2),
        "a class": lambda: torch.optim.RMSprop,
    },
    "numpyro": {
        "optax": lambda: optax.adam(5e-2),
        "optax, a chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-2)),
        "numpyro.optim": lambda: numpyro.optim.Adam(5e-2),
        "numpyro.optim, clipped": lambda: numpyro.optim.ClippedAdam(5e-2),
    },
}


def cases(table):
    return [(language, name) for language, names in table.items() for name in names]


def host(lang):
    return "pyro" if lang.ppl is pyro else "numpyro"


def elbo(lang, name="Trace_ELBO", **options):
    return getattr(lang.ppl.infer, name)(**options)


def sgd(lang, lr=0.1):
    return partial(torch.optim.SGD, lr=lr) if lang.ppl is pyro else optax.sgd(lr)


def language(name):
    from languages import LANGUAGES

    return LANGUAGES[name]


def assert_trains(lang, **options):
    """A fit moves all parameters, and its loss falls."""
    far = lang.init_to({"z": lang.array(MEAN - 3)})
    guide = lang.AutoFlow(correlated(lang), identity_flow, start="init", init_loc_fn=far)
    lang.set_up(guide)
    before = lang.parameters(guide)
    result = lang.fit(correlated(lang), guide, **(OWN | options))
    assert_moved(before, lang.parameters(guide, result))
    assert np.median(result.losses[-20:]) < np.median(result.losses[:20]) - 1
    return result


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), cases(LOSSES))
@pytest.mark.slow_in_numpyro
def test_every_elbo_of_the_host_trains(name, loss, float64):
    lang = language(name)
    result = assert_trains(lang, loss=elbo(lang, loss, **LOSSES[name][loss]), lr=5e-2)
    assert len(result.losses) == OWN["steps"]
    assert result.elbo.mean < 4 * result.elbo.se  # the log evidence is 0, whatever the loss
    assert np.isfinite(result.khat)


@pytest.mark.slow
def test_an_elbo_that_enumerates_is_measured_by_the_sum_over_what_it_enumerates(lang):
    dist, ppl = lang.dist, lang.ppl

    def model():
        z = ppl.sample("z", dist.Normal(lang.array(0.0), 1.0))
        k = ppl.sample("k", dist.Bernoulli(lang.array(0.5)), infer={"enumerate": "parallel"})
        ppl.sample("y", dist.Normal(z + 2 * k, 1.0), obs=lang.array(1.5))

    guide = lang.autoguide.AutoNormal(lang.hide(model, ["k"]))
    result = lang.fit(model, guide, loss=elbo(lang, "TraceEnum_ELBO", max_plate_nesting=0), lr=5e-2, **OWN)
    log_evidence = stats.norm(0, 2**0.5).logpdf([1.5, -0.5])
    log_evidence = np.logaddexp(*log_evidence) - np.log(2)
    # one draw of k instead of the sum would lose E log p(k | z, y), some tenths of a nat
    assert -4 * result.elbo.se < log_evidence - result.elbo.mean < 0.1


@pytest.mark.parametrize(("name", "kind"), cases(OPTIMIZERS))
def test_optimisers_of_every_kind_train(name, kind, float64):
    assert_trains(language(name), optimizer=OPTIMIZERS[name][kind](), num_particles=8)


def test_a_loss_and_an_optimiser_go_together(lang):
    assert_trains(
        lang, loss=elbo(lang, num_particles=4), optimizer=OPTIMIZERS[host(lang)][next(iter(OPTIMIZERS[host(lang)]))]()
    )


@pytest.mark.slow
def test_a_loss_has_no_early_end_and_leaves_annealing_and_its_object_alone(lang):
    loss = elbo(lang, num_particles=4)
    before = dict(vars(loss))
    guide = lang.AutoFlow(correlated(lang), identity_flow, start="laplace")
    result = lang.fit(correlated(lang), guide, loss=loss, tolerance=100.0, **(OWN | {"steps": 400, "draws": 50}))
    assert len(result.losses) == 400
    assert vars(loss) == before


@pytest.mark.slow_in_numpyro
def test_a_loss_trains_a_flow_near_the_posterior_reparameterised_as_the_hosts_svi_does(lang):
    def losses(**options):
        pyro.clear_param_store()
        guide = lang.AutoFlow(correlated(lang), small)
        options = {"loss": elbo(lang), **options}
        return lang.fit(correlated(lang), guide, **(OWN | {"steps": 20, "draws": 10} | options)).losses

    by_default = losses()
    np.testing.assert_array_equal(by_default, losses(estimator="reparam"))
    assert not np.array_equal(by_default, losses(estimator="path"))


def test_a_step_is_the_optimisers_own(lang):
    def model():
        lang.ppl.factor(
            "parabola", -0.5 * (lang.ppl.param("p", lang.array(0.0)) - 300.0) ** 2
        )  # steep: none of it is clipped

    result = lang.fit(
        model, lambda: None, optimizer=sgd(lang), steps=60, num_particles=1, tolerance=None, progress=False
    )
    iterates = 300.0 * (1 - 0.9 ** np.arange(1, 61))
    assert float(result.params["p"]) == pytest.approx(iterates[-3:].mean(), rel=1e-12)  # of the last twentieth
    np.testing.assert_allclose(result.losses, 0.5 * (300.0 - np.append(0.0, iterates[:-1])) ** 2, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_steps_that_are_not_finite_are_skipped_with_a_hosts_optimiser_too(lang):
    xp = lang.xp

    def model():
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))
        nan = lang.array(np.nan)
        lang.ppl.factor("y", xp.where(xp.abs(20 * z - xp.round(20 * z)) < 0.1, nan, -((z + 1.0) ** 2)))

    guide = lang.autoguide.AutoNormal(lang.hide(model, ["y"]))
    with pyro.validation_enabled(False):
        result = lang.fit(model, guide, optimizer=sgd(lang, 0.05), num_particles=1, **(OWN | {"tolerance": None}))
    assert 0 < result.skipped < len(result.losses)
    assert np.isnan(result.losses).sum() == result.skipped
    assert all(np.all(np.isfinite(np.asarray(value))) for value in result.params.values())
    assert np.nanmedian(result.losses[-20:]) < np.nanmedian(result.losses[:20])


# --- the own optimiser


def last_move_in_numpyro(norms):
    own = _own_optimizer(1000, 1e-2, 10.0, None)
    state = own.init_fn({"p": jnp.zeros(2)})
    for step, norm in enumerate(norms):
        before, state = state, own.update_fn(step, {"p": norm * jnp.array([0.6, 0.8])}, state)
    return np.asarray(state.params - before.params)


class Slope:
    """A loss of which the gradients have these norms."""

    num_particles = 1

    def __init__(self, norms):
        self._norms = iter(norms)

    def loss_and_grads(self, *_):
        p = pyro.param("p", torch.zeros(2))
        p.unconstrained().grad = next(self._norms) * torch.tensor([0.6, 0.8])
        return 0.0


def last_move_in_pyro(norms):
    pyro.clear_param_store()
    plan = np.array([[1.0, 1e-2, 1.0]] * len(norms))
    steps = EagerSteps(Slope(norms), None, None, 10.0)
    list(steps.run(plan[:-1]))
    before = pyro.param("p", torch.zeros(2)).detach().clone()
    list(steps.run(plan[-1:]))
    return (pyro.param("p").detach() - before).numpy()


@pytest.mark.parametrize("last_move", [last_move_in_pyro, last_move_in_numpyro])
def test_one_gradient_of_rounding_errors_does_not_carry_the_parameters_away(last_move):
    usual = list(np.tile([0.2, -0.2], 50))  # noise
    spike, short, longest = (last_move([*usual, norm]) for norm in (9.0, 0.3, 3 * 0.2))
    np.testing.assert_allclose(spike, longest, rtol=1e-4)
    assert np.linalg.norm(short) < 0.7 * np.linalg.norm(longest)
    np.testing.assert_allclose(last_move([9.0]), last_move([1.0]), rtol=1e-4)  # Adam's first step has no scale
    np.testing.assert_array_equal(last_move([0.0, 0.0]), 0)  # an exact start has no gradient
    assert np.linalg.norm(last_move([0.0] * 5 + [1e-3])) > 0
    assert not np.allclose(last_move([20.0, 1.0]), last_move([9.0, 1.0]))
    np.testing.assert_allclose(last_move([20.0, 1.0]), last_move([10.0, 1.0]), rtol=1e-4)  # the bound that is given


# --- what does not go together


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"num_particles": 4, "loss": "Trace_ELBO"}, ValueError, r"use loss=Trace_ELBO\(num_particles=4\)"),
        ({"anneal": 0.5, "loss": "Trace_ELBO"}, ValueError, "use anneal=1.0, or leave loss out"),
        ({"estimator": "path", "loss": "RenyiELBO"}, ValueError, "use estimator='reparam'"),
        ({"loss": 3.0}, TypeError, "an ELBO object of .*, got float"),
        ({"optimizer": "sgd", "lr": 0.1}, ValueError, "optimizer= and lr=0.1.*leave optimizer out"),
        ({"optimizer": "sgd", "clip": 1.0}, ValueError, "optimizer= and clip=1.0"),
        ({"optimizer": "sgd", "lr": 0.1, "clip": 1.0}, ValueError, "lr=0.1 and clip=1.0"),
        ({"optimizer": 3.0}, TypeError, "optim"),
    ],
)
def test_what_does_not_go_together_is_an_error_that_says_so(lang, options, error, match):
    if isinstance(options.get("loss"), str):
        options = options | {"loss": elbo(lang, options["loss"])}
    if options.get("optimizer") == "sgd":
        options = options | {"optimizer": sgd(lang)}
    guide = lang.AutoFlow(correlated(lang), small, start="init")
    with pytest.raises(error, match=match):
        lang.fit(correlated(lang), guide, **(OWN | options))


def test_a_loss_that_is_a_class_is_told_to_be_an_object(lang):
    with pytest.raises(TypeError, match=r"got the class Trace_ELBO: give an object, Trace_ELBO\(\)"):
        lang.fit(correlated(lang), lambda: None, loss=lang.ppl.infer.Trace_ELBO)


def test_pyro_compiles_no_loss_and_no_optimiser_of_its_own(float64):
    lang = language("pyro")
    for name, value in (("loss", elbo(lang)), ("optimizer", sgd(lang))):
        with pytest.raises(ValueError, match=f"compile='jit' and {name}=:.*use compile=False, or leave {name} out"):
            lang.fit(correlated(lang), lambda: None, compile="jit", **{name: value})
    with pytest.raises(ValueError, match="compile='auto' and optimizer"):
        pfp.fit_density(pf.maf(2), torch.randn(10, 2), compile="auto", optimizer=sgd(lang))


def test_an_optimiser_made_beforehand_is_refused_in_pyro(float64):
    lang = language("pyro")
    made = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(TypeError, match=r"functools.partial\(torch.optim.Adam, lr=1e-2\); got Adam"):
        lang.fit(correlated(lang), lang.autoguide.AutoNormal(correlated(lang)), optimizer=made)
    with pytest.raises(TypeError, match="must give a torch optimiser, but it gave list"):
        lang.fit(correlated(lang), lang.autoguide.AutoNormal(correlated(lang)), optimizer=list, progress=False)


@pytest.mark.parametrize("option", ["lr", "clip"])
def test_a_density_refuses_an_optimiser_beside_rates(lang, option):
    with pytest.raises(ValueError, match=f"optimizer= and {option}=0.1"):
        SHELLS[lang.ppl].fit_density(pf.maf(2), lang.array(np.ones((10, 2))), optimizer=sgd(lang), **{option: 0.1})


@pytest.mark.parametrize(
    ("name", "optimizer", "match"),
    [
        ("pyro", pyro.optim.Adam, "got Adam, which is to be called"),
        ("pyro", torch.optim.LBFGS, "LBFGS takes several losses a step"),
        ("pyro", 0.1, "got float"),
        ("numpyro", optax.adam, "optax transformation or an object of numpyro.optim.*call it first"),
        ("numpyro", numpyro.optim.Adam, "call it first"),
    ],
)
def test_an_optimiser_of_another_kind_is_an_error_that_says_what_to_give(name, optimizer, match, float64):
    lang = language(name)
    with pytest.raises(TypeError, match=match):
        lang.fit(correlated(lang), lang.AutoFlow(correlated(lang), identity_flow), optimizer=optimizer, **SHORT)
