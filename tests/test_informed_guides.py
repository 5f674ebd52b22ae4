"""What works on an ``AutoFlow`` works on one that places sites by their priors; in both languages alike."""

import copy
import pickle
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pyro
import pytest
import torch
from jax import random
from languages import LANGUAGES, SHORT, STILL, assert_moved, identity_flow, numpyro_start, small, sub_sampled
from numpyro import handlers

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro

SHELLS = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}
FIRST, SECOND = np.array([1.0, 2.0, 4.0]), np.array([-3.0, 0.5, 0.0])


def shell(lang):
    return SHELLS[lang.ppl.__name__]


def schools(lang, y):
    mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 3.0))
    s = lang.ppl.sample("s", lang.dist.HalfNormal(lang.array(2.0)))
    with lang.ppl.plate("rows", 3):
        theta = lang.ppl.sample("theta", lang.dist.Normal(mu, s))
        lang.ppl.sample("y", lang.dist.Normal(theta, 1.0), obs=y)
    lang.ppl.deterministic("sum", theta.sum(-1))


def funnel(lang, x=1.0):
    """No data: in the coordinates of its map it is a standard normal, whatever x."""
    s = lang.ppl.sample("s", lang.dist.Normal(lang.array(0.0), 1.0))
    with lang.ppl.plate("rows", 3):
        lang.ppl.sample("z", lang.dist.Normal(x * s, lang.xp.exp(1.5 * s)))


def no_parents(lang):
    s = lang.ppl.sample("s", lang.dist.HalfNormal(lang.array(1.0)))
    z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))
    lang.ppl.sample("y", lang.dist.Normal(s * z, 1.0), obs=lang.array(1.0))


def make(lang, model, **options):
    return lang.AutoFlow(model, **({"flow": small, "start": "mean_field", "informed": True} | options))


@cache
def trained(lang):
    """Model, guide and result, and the parameters before; once for several tests."""
    model = partial(schools, lang)
    guide = make(lang, model, seed=2)
    lang.set_up(guide, lang.array(FIRST))
    before = lang.parameters(guide)
    return (
        model,
        guide,
        lang.fit(model, guide, lang.array(FIRST), **SHORT | {"num_particles": 32, "draws": 4_000}),
        before,
    )


def to_numpy(a):
    return np.asarray(a.detach() if hasattr(a, "detach") else a)


# --- the option


@pytest.mark.slow_in_numpyro
def test_sites_are_placed_where_the_gaussian_found_there_is_the_better_one(lang):
    for informed, placed in (("auto", ("z",)), (True, ("z",)), (False, ())):
        pyro.clear_param_store()
        guide = make(lang, partial(funnel, lang), informed=informed)
        assert "informed" not in repr(guide)
        lang.set_up(guide)
        assert guide.informed == placed
        assert ("informed=['z']" in repr(guide)) == bool(placed)
        assert guide.start == "mean_field"
        assert (guide.kl_of_start < 0.1) == bool(placed)


@pytest.mark.slow_in_numpyro
def test_where_nothing_can_be_placed_auto_does_not_and_true_is_an_error(lang):
    guide = make(lang, partial(no_parents, lang), informed="auto")
    lang.set_up(guide)
    assert guide.informed == ()
    pyro.clear_param_store()
    with pytest.raises(ValueError, match="informed=True, but no latent site has a prior with a location and a scale"):
        lang.set_up(make(lang, partial(no_parents, lang)))


@pytest.mark.slow_in_numpyro
def test_a_sub_sampled_likelihood_is_not_informed_and_true_is_an_error(lang):
    guide = lang.AutoFlow(sub_sampled(lang), small)
    lang.set_up(guide)
    assert (guide.informed, guide.start) == ((), "init")
    pyro.clear_param_store()
    with pytest.raises(ValueError, match="informed=True is not possible: the likelihood is sub-sampled"):
        lang.set_up(lang.AutoFlow(sub_sampled(lang), small, informed=True))


@pytest.mark.parametrize("wrong", ["yes", None, 1, 0.0, ["z"]])
def test_other_options_are_errors(lang, wrong):
    with pytest.raises(ValueError, match="informed must be 'auto', True or False"):
        lang.AutoFlow(partial(funnel, lang), informed=wrong)


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("start", ["init", {"s": np.zeros((9,))}], ids=["init", "draws"])
def test_a_start_that_is_not_searched_for_has_no_map(lang, start):
    with pytest.raises(ValueError, match="informed=True goes with a start that is searched for, auto, full_rank"):
        lang.AutoFlow(partial(funnel, lang), start=start, informed=True)
    guide = lang.AutoFlow(partial(funnel, lang), small, start="init")
    lang.set_up(guide)
    assert guide.informed == ()


# --- what it does


@pytest.mark.slow_in_numpyro
def test_a_funnel_is_exact_at_the_start(lang):
    result = lang.fit(partial(funnel, lang), make(lang, partial(funnel, lang), flow=identity_flow), **STILL, draws=500)
    assert result.ess > 0.98
    assert result.log_evidence.mean == pytest.approx(0.0, abs=0.02)
    assert abs(result.elbo.mean) < 0.02


@pytest.mark.slow
def test_a_fit_trains_and_its_draws_are_the_posteriors(lang):
    _, guide, result, _ = trained(lang)
    assert guide.informed == ("theta",)
    assert result.losses[-20:].mean() < result.losses[:20].mean() + 0.1
    draws = {n: np.asarray(v) for n, v in result.reweighted(4_000).items()}
    scale = np.linspace(1e-3, 12, 4_000)  # mu and theta summed out: y ~ N(0, 9 + (s^2 + 1) 1)
    mean_variance = (scale**2 + 1) / 3 + 9
    log_p = -0.5 * scale**2 / 4 - np.log(scale**2 + 1) - 0.5 * ((FIRST - FIRST.mean()) ** 2).sum() / (scale**2 + 1)
    log_p -= 0.5 * np.log(mean_variance) + 0.5 * FIRST.mean() ** 2 / mean_variance
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    assert draws["s"].mean() == pytest.approx(p @ scale, abs=0.15)
    assert draws["theta"].mean() == pytest.approx(p @ (FIRST.mean() * (1 - (1 / 3) / mean_variance)), abs=0.1)
    np.testing.assert_allclose(draws["sum"], draws["theta"].sum(-1), rtol=1e-5)


@pytest.mark.slow_in_numpyro
def test_all_parameters_train(lang):
    _, guide, result, before = trained(lang)
    after = lang.parameters(guide, result)
    assert any("log_precision" in name for name in before)
    assert_moved(before, {name: after[name] for name in before})


@pytest.mark.slow_in_numpyro
def test_the_arguments_of_the_call_count(lang):
    """Set up with others, a guide that does not train is as exact for these."""
    model = partial(funnel, lang)
    guide = make(lang, model, flow=identity_flow)
    lang.set_up(guide, lang.array(5.0))
    result = lang.fit(model, guide, lang.array(-2.0), **STILL, draws=500)
    assert result.ess > 0.98
    assert abs(result.elbo.mean) < 0.02
    draws = {n: np.asarray(v) for n, v in result.sample(2_000).items()}
    off = (draws["z"] + 2 * draws["s"][:, None]) / np.exp(1.5 * draws["s"])[:, None]
    assert np.abs(off.mean(0)).max() < 0.12
    assert np.abs(off.std(0) - 1).max() < 0.1


@pytest.mark.slow_in_numpyro
def test_a_guide_that_was_set_up_with_other_arguments_trains(lang):
    model = partial(funnel, lang)
    guide = make(lang, model)
    lang.set_up(guide, lang.array(5.0))
    before = lang.parameters(guide)
    result = lang.fit(model, guide, lang.array(-2.0), **(SHORT | {"steps": 10}))
    assert_moved(before, {name: lang.parameters(guide, result)[name] for name in before})


@pytest.mark.slow
def test_a_call_without_arguments_has_those_of_the_set_up(lang):
    _, guide, result, _ = trained(lang)
    w = lang.array(np.random.default_rng(0).standard_normal(5))
    params = () if lang.ppl is pyro else (result.params,)
    without, given = (to_numpy(guide.get_transform(*params, *args)(w)) for args in ((), (lang.array(FIRST),)))
    np.testing.assert_array_equal(without, given)


@pytest.mark.slow_in_numpyro
def test_a_parameter_of_the_model_is_read_as_it_is_now(lang):
    """Its gradient has the way through the map, too: against differences of the loss with the same noise."""

    def model():
        at = lang.ppl.param("at", lang.array(0.7))
        s = lang.ppl.sample("s", lang.dist.Normal(lang.array(0.0), 1.0))
        z = lang.ppl.sample("z", lang.dist.Normal(at + s, 0.5))
        lang.ppl.sample("y", lang.dist.Normal(z, 1.0), obs=lang.array(2.0))

    guide = make(lang, model)
    lang.set_up(guide)
    assert guide.informed == ("z",)
    if lang.ppl is numpyro:
        params = {**numpyro_start(guide), "at": jnp.asarray(0.7)}
        assert "at" in numpyro_start(guide), "the map's own sight of it"
        elbo = numpyro.infer.Trace_ELBO(num_particles=5)
        loss = jax.jit(lambda at: elbo.loss(random.key(1), {**params, "at": at}, model, guide))
        gradient, step = float(jax.grad(loss)(jnp.asarray(0.7))), 1e-4
        numeric = float(loss(0.7 + step) - loss(0.7 - step)) / (2 * step)
        values = [np.asarray(guide.get_transform({**params, "at": jnp.asarray(v)})(jnp.zeros(2))) for v in (0.7, 1.7)]
    else:
        elbo = pyro.infer.Trace_ELBO(num_particles=5)

        def loss(at):
            pyro.param("at").data.fill_(at)
            pyro.set_rng_seed(1)
            return elbo.loss(model, guide)

        pyro.set_rng_seed(1)
        elbo.loss_and_grads(model, guide)
        gradient = pyro.param("at").grad.item()
        numeric = (loss(0.7 + 1e-4) - loss(0.7 - 1e-4)) / 2e-4
        values = []
        for v in (0.7, 1.7):
            pyro.param("at").data.fill_(v)
            values.append(to_numpy(guide.get_transform()(torch.zeros(2))))
    assert gradient == pytest.approx(numeric, rel=1e-5)
    assert values[1][0] == values[0][0]
    assert values[1][1] > values[0][1] + 0.1


@pytest.mark.slow_in_numpyro
def test_a_result_keeps_the_models_parameters_that_it_was_trained_with(lang, tmp_path):
    def model(y):
        at = lang.ppl.param("at", lang.array(0.7))
        s = lang.ppl.sample("s", lang.dist.Normal(lang.array(0.0), 1.0))
        z = lang.ppl.sample("z", lang.dist.Normal(at + s, 0.5))
        lang.ppl.sample("y", lang.dist.Normal(z, 1.0), obs=y)

    guide, y = make(lang, model), lang.array(5.0)
    result = lang.fit(model, guide, y, **(SHORT | {"lr": 5e-2}))
    assert float(result.params["at"]) > 1.5
    draws = {n: np.asarray(v) for n, v in result.sample(200).items()}
    weighted = result.reweighted(20)
    if lang.ppl is pyro:
        pyro.param("at").data.fill_(-30.0)
        np.testing.assert_array_equal(result.sample(200)["z"], draws["z"])
        pyro.clear_param_store()
    result.save(tmp_path / "fit")
    _, loaded = lang.AutoFlow.load(tmp_path / "fit", model, y)
    np.testing.assert_allclose(np.asarray(loaded.reweighted(20)["z"]), np.asarray(weighted["z"]), rtol=1e-6)
    again = np.asarray(loaded.sample(200)["z"])
    assert abs(again.mean() - draws["z"].mean()) < 5 * np.hypot(again.std(), draws["z"].std()) / 200**0.5


@pytest.mark.slow_in_numpyro
def test_a_flow_in_the_model_is_one_of_its_parameters(lang, tmp_path):
    """A tree of arrays, of which the location is made that another site has."""

    def model(y):
        s = lang.ppl.sample("s", lang.dist.HalfNormal(lang.array(1.0)))
        z = lang.ppl.sample("z", lang.flow("prior", pf.maf(2, flow_layers=1, hidden=(4,))))
        t = lang.ppl.sample("t", lang.dist.Normal(z.sum(-1), s))
        lang.ppl.sample("y", lang.dist.Normal(t, 1.0), obs=y)

    guide, y = make(lang, model), lang.array(1.0)
    result = lang.fit(model, guide, y, **(SHORT | {"steps": 20}))
    assert guide.informed == ("t",)
    result.save(tmp_path / "fit")
    weighted = result.reweighted(20)
    pyro.clear_param_store()
    _, loaded = lang.AutoFlow.load(tmp_path / "fit", model, y)
    np.testing.assert_allclose(np.asarray(loaded.reweighted(20)["t"]), np.asarray(weighted["t"]), rtol=1e-6)


def test_a_numpyro_model_may_have_parameters_of_any_tree(float64):
    """As modules of neural networks are."""
    lang = LANGUAGES["numpyro"]

    def model():
        net = numpyro.param("net", {"layers": [{"w": jnp.ones(2)}, {"w": jnp.full(2, 3.0)}], "b": jnp.zeros(())})
        rate = numpyro.param("rate", jnp.asarray(2.0), constraint=numpyro.distributions.constraints.positive)
        s = numpyro.sample("s", numpyro.distributions.HalfNormal(rate))
        loc = net["layers"][0]["w"] * s + net["layers"][1]["w"] + net["b"]
        numpyro.sample("z", numpyro.distributions.Normal(loc, s).to_event(1))

    guide = make(lang, model)
    params = numpyro_start(guide)
    assert guide.informed == ("z",)
    zero = guide.get_transform(params)(jnp.zeros(3))
    moved = guide.get_transform({**params, "net": jax.tree.map(lambda a: a + 1, params["net"])})(jnp.zeros(3))
    assert moved[0] == zero[0]
    # at the pseudo-observations of the start, which say next to nothing, it is the location
    np.testing.assert_allclose(moved[1:] - zero[1:], jnp.exp(zero[0]) + 2, rtol=0.05)


# --- the hosts' ways


@pytest.mark.slow
def test_numpyros_svi_trains_it_with_data_as_arguments():
    lang = LANGUAGES["numpyro"]
    model, y = partial(schools, lang), lang.array(FIRST)
    guide = make(lang, model)
    svi = numpyro.infer.SVI(model, guide, optax.adam(1e-2), numpyro.infer.Trace_ELBO(num_particles=8))
    state = svi.init(random.key(0), y)
    assert guide.informed == ("theta",)
    update = jax.jit(svi.update)
    losses = []
    for _ in range(60):
        state, loss = update(state, y)
        losses.append(float(loss))
    assert np.isfinite(losses).all()
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) + 0.1
    params = svi.get_params(state)
    for predictive in (
        numpyro.infer.Predictive(guide, params=params, num_samples=50),
        numpyro.infer.Predictive(model, guide=guide, params=params, num_samples=50),
    ):
        draws = predictive(random.key(1), y)
        assert draws["y" if "y" in draws else "theta"].shape == (50, 3)
    assert guide.sample_posterior(random.key(0), params, y, sample_shape=(4,))["theta"].shape == (4, 3)


def test_a_numpyro_guide_that_is_set_up_inside_a_program_is_not_informed():
    lang = LANGUAGES["numpyro"]
    guide = lang.AutoFlow(partial(schools, lang), small)
    svi = numpyro.infer.SVI(partial(schools, lang), guide, optax.adam(1e-2), numpyro.infer.Trace_ELBO())
    jax.jit(lambda key, y: svi.get_params(svi.init(key, y)))(random.key(0), lang.array(FIRST))
    assert (guide.informed, guide.start) == ((), "init")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("elbo", "vectorize"), [(pyro.infer.Trace_ELBO, True), (pyro.infer.JitTrace_ELBO, False)], ids=["Trace", "JitTrace"]
)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the host's, of every guide
def test_pyros_svi_trains_it_with_data_as_arguments(float64, elbo, vectorize):
    lang = LANGUAGES["pyro"]
    model, y = partial(schools, lang), lang.array(FIRST)
    guide = make(lang, model)
    guide(y)
    before = lang.parameters(guide)
    loss = elbo(num_particles=4, vectorize_particles=vectorize, max_plate_nesting=1)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), loss)
    losses = [svi.step(y) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert_moved(before, lang.parameters(guide))
    for parallel in (False, True):
        predict = pyro.infer.Predictive(model, guide=guide, num_samples=7, parallel=parallel)
        assert predict(y)["theta"].reshape(7, 3).shape == (7, 3)
        assert pyro.infer.Predictive(guide, num_samples=7, parallel=parallel)(y)["s"].numel() == 7


@pytest.mark.slow_in_numpyro
def test_medians_and_quantiles_are_those_of_draws(lang):
    _, guide, result, _ = trained(lang)
    params = () if lang.ppl is pyro else (result.params,)
    draws = result.sample(4_000)
    median, levels = guide.median(*params), guide.quantiles(*params, [0.1, 0.9])
    for name in ("mu", "s", "theta"):
        values = np.asarray(draws[name])
        assert np.shape(to_numpy(median[name])) == values.shape[1:]
        spread = values.std(0)
        assert np.all(np.abs(to_numpy(median[name]) - np.median(values, axis=0)) < 0.15 * spread)
        assert np.all(np.abs(to_numpy(levels[name]) - np.quantile(values, [0.1, 0.9], axis=0)) < 0.3 * spread)


def test_neutras_log_density_is_the_models_and_the_maps(lang):
    model, guide, result, _ = trained(lang)
    bound = partial(model, lang.array(FIRST))
    log_joint, to_sites = lang.neutra(guide, result, bound)
    transform = lang.transform(guide, result)
    for z in np.random.default_rng(0).standard_normal((2, guide.latent_dim)):
        w = lang.array(z)
        found, x = float(to_numpy(log_joint(w))), transform(w)
        sites = {name: value for name, value in to_sites(w).items() if name != "sum"}
        outer = lang.unconstrained(bound, sites)
        log_det = float(to_numpy(transform.log_abs_det_jacobian(w, x)))
        expected = lang.log_joint(bound, sites) + sum(d for _, d in outer.values()) + log_det
        assert found == pytest.approx(float(expected), rel=1e-8)
        flat = np.concatenate([np.ravel(to_numpy(outer[n][0])) for n in sites])
        np.testing.assert_allclose(flat, to_numpy(x), rtol=1e-6, atol=1e-8)


def test_a_transform_runs_inside_of_plates_of_the_models_names(lang):
    """As where a host reparametrises a model whose first latent lies in a plate."""
    _, guide, result, _ = trained(lang)
    w, transform = lang.array(np.random.default_rng(0).standard_normal(5)), lang.transform(guide, result)
    expected = to_numpy(transform(w))
    with handlers.seed(rng_seed=0), lang.ppl.plate("other", 7), lang.ppl.plate("rows", 3):
        np.testing.assert_array_equal(to_numpy(transform(w)), expected)


@pytest.mark.slow
def test_nuts_in_the_coordinates_of_a_map_draws_from_the_posterior(lang):
    """By NeuTra, which asks for the transform without arguments."""
    guide = make(lang, partial(funnel, lang), flow=identity_flow)
    lang.set_up(guide, lang.array(2.0))
    model = partial(funnel, lang, lang.array(2.0))
    if lang.ppl is numpyro:
        neutra = numpyro.infer.reparam.NeuTraReparam(guide, numpyro_start(guide))
        mcmc = numpyro.infer.MCMC(
            numpyro.infer.NUTS(neutra.reparam(model)), num_warmup=200, num_samples=1_000, progress_bar=False
        )
        mcmc.run(random.key(0))
        draws = neutra.transform_sample(mcmc.get_samples()[f"{guide.prefix}_shared_latent"])
    else:
        neutra = pyro.infer.reparam.NeuTraReparam(guide)
        mcmc = pyro.infer.MCMC(
            pyro.infer.NUTS(neutra.reparam(model)), warmup_steps=100, num_samples=300, disable_progbar=True
        )
        mcmc.run()
        latent = next(iter(mcmc.get_samples().values()))
        draws = neutra.transform_sample(latent[:, None])  # left of the plate
    found = to_numpy(draws["s"]).ravel()
    assert abs(found.mean()) < 6 / len(found) ** 0.5
    assert abs(found.std() - 1) < 0.2
    off = (to_numpy(draws["z"]) - 2 * found[:, None]) / np.exp(1.5 * found)[:, None]
    assert np.abs(off.std(0) - 1).max() < 0.2


@pytest.mark.slow_in_numpyro
def test_in_a_list_of_guides_it_is_not_informed(lang):
    def model(y):
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 3.0))
        s = lang.ppl.sample("s", lang.dist.HalfNormal(lang.array(2.0)))
        theta = lang.ppl.sample("theta", lang.dist.Normal(mu, s))
        lang.ppl.sample("y", lang.dist.Normal(theta, 1.0), obs=y)

    y = lang.array(1.0)
    guide = lang.autoguide.AutoGuideList(model)
    first = lang.AutoFlow(lang.hide(model, ["mu"]), small)
    guide.append(first)
    guide.append(lang.autoguide.AutoNormal(lang.hide(model, ["s", "theta"])))
    result = lang.fit(model, guide, y, **SHORT)
    assert (first.informed, first.start) == ((), "init")
    assert np.isfinite(result.elbo.mean)
    pyro.clear_param_store()
    alone = lang.AutoFlow(lang.hide(model, ["mu"]), small, informed=True)
    with pytest.raises(ValueError, match="informed=True is not possible: the model draws numbers that the guide does"):
        lang.set_up(alone, y)


@pytest.mark.slow
def test_enumerated_sites_are_summed_over(lang):
    def model(y):
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 2.0))
        s = lang.ppl.sample("s", lang.dist.HalfNormal(lang.array(1.0)))
        theta = lang.ppl.sample("theta", lang.dist.Normal(mu, s))
        with lang.ppl.plate("rows", 3):
            k = lang.ppl.sample("k", lang.dist.Categorical(lang.array([0.3, 0.7])), infer={"enumerate": "parallel"})
            lang.ppl.sample("y", lang.dist.Normal(lang.xp.where(k == 0, theta, theta + 5), 1.0), obs=y)

    guide = make(lang, model)
    result = lang.fit(model, guide, lang.array([0.0, 5.0, 6.0]), **(SHORT | {"steps": 200, "num_particles": 16}))
    assert guide.informed == ("theta",)
    assert set(result.sample(5)) == {"mu", "s", "theta"}
    assert set(result.infer_discrete(5)) >= {"k", "theta"}
    log_z = -6.386  # by weights of guides with a KL below .0005, in both languages
    assert log_z - 0.5 < result.elbo.mean < log_z + 4 * result.elbo.se


def test_a_flow_of_ones_own_has_the_map_after_it(lang):
    guide = lang.AutoFlow(partial(funnel, lang), lambda d: pf.nsf(d, flow_layers=1, bins=4, hidden=(8,)), informed=True)
    lang.set_up(guide)
    assert guide.informed == ("z",)
    assert [type(part).__name__ for part in guide.bijection.parts][-1] == "ModelMap"


# --- results


@pytest.mark.slow_in_numpyro
def test_a_result_has_all_its_ways(lang):
    _, _, result, _ = trained(lang)
    assert set(result.sample(3)) == {"mu", "s", "theta", "sum"}
    assert result.reweighted(10)["theta"].shape == (10, 3)
    assert np.isfinite(result.log_evidence.mean)
    groups = result.to_arviz(200, prior=50, reweighted=False)
    assert groups["posterior"]["theta"].shape == (1, 200, 3)
    prior = result.as_prior(draws=300, steps=5, reweighted=False, flow=small)
    assert prior.sites == {"mu": (), "s": (), "theta": (3,)}
    assert "300 draws" in repr(prior)


def test_log_evidence_is_right(lang):
    _, _, result, _ = trained(lang)
    s = np.linspace(1e-4, 14, 1_001)
    log_p = -0.5 * np.log(2 * np.pi) - s**2 / 8
    for i, at in enumerate(s):
        c = (at**2 + 1) * np.eye(3) + 9.0
        log_p[i] -= 0.5 * (np.linalg.slogdet(2 * np.pi * c)[1] + FIRST @ np.linalg.solve(c, FIRST))
    expected = np.log(np.trapezoid(np.exp(log_p), s))
    assert result.log_evidence.mean == pytest.approx(expected, abs=max(0.02, 4 * result.log_evidence.se))


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
def test_a_saved_fit_comes_back_in_either_language_with_the_models_arguments(lang, writer, tmp_path):
    _, _, saved, _ = trained(LANGUAGES[writer])
    path = tmp_path / "fit"
    saved.save(path)
    pyro.clear_param_store()
    model, y = partial(schools, lang), lang.array(FIRST)
    guide, result = lang.AutoFlow.load(path, model, y)
    assert guide.informed == ("theta",)
    assert repr(result) == repr(saved)
    rows = lang.array(np.random.default_rng(0).standard_normal((5, 5)))
    at = LANGUAGES[writer].array(np.array(to_numpy(rows)))
    original = trained(LANGUAGES[writer])[1]
    theirs = original.get_posterior() if writer == "pyro" else original.get_posterior(saved.params)
    ours = guide.get_posterior() if lang.ppl is pyro else guide.get_posterior(result.params)
    np.testing.assert_allclose(to_numpy(ours.log_prob(rows)), to_numpy(theirs.log_prob(at)), rtol=1e-5)
    draws, others = ({n: np.asarray(v) for n, v in r.sample(300).items()} for r in (result, saved))
    assert draws.keys() == others.keys()
    assert "sum" in draws
    for name, value in draws.items():
        if LANGUAGES[writer] is lang:
            np.testing.assert_allclose(value, others[name], rtol=1e-6)
        error = np.hypot(value.std(0), others[name].std(0)) / 300**0.5
        assert np.all(np.abs(value.mean(0) - others[name].mean(0)) < 5 * error)
    assert result.reweighted(20)["theta"].shape == (20, 3)
    if LANGUAGES[writer] is lang:
        again = lang.fit(model, guide, y, **(SHORT | {"steps": 5}))
        assert again.losses.mean() < saved.losses[:10].mean() + 2
    result.save(tmp_path / "again")
    assert repr(pf.load(tmp_path / "again")) == repr(pf.load(path))
    assert pf.load(path).placed == ("theta",)


def test_a_fit_that_is_loaded_without_arguments_says_that_it_needs_its_model(lang, tmp_path):
    model, guide, saved, _ = trained(lang)
    saved.save(tmp_path / "fit")
    pyro.clear_param_store()
    loaded, result = lang.AutoFlow.load(tmp_path / "fit", model)
    assert repr(result) == repr(saved)
    for use in (result.sample, result.reweighted, result.infer_discrete):
        with pytest.raises(ValueError, match=r"AutoFlow.load\(path, model, \*args, \*\*kwargs\)"):
            use(5)
    with pytest.raises(ValueError, match=r"the guide is informed: it draws by runs of its model"):
        result.sample(5)
    lang.set_up(loaded, lang.array(FIRST))
    assert loaded.informed == guide.informed


@pytest.mark.slow_in_numpyro
def test_a_model_that_places_other_sites_is_not_that_of_a_fit(lang, tmp_path):
    _, _, saved, _ = trained(lang)
    saved.save(tmp_path / "fit")
    pyro.clear_param_store()

    def other(y):
        lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 3.0))
        lang.ppl.sample("s", lang.dist.HalfNormal(lang.array(2.0)))
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("theta", lang.dist.Normal(lang.array(0.0), 1.0))

    with pytest.raises(ValueError, match=r"places the sites \['theta'\] by their priors, but in this model"):
        lang.AutoFlow.load(tmp_path / "fit", other, lang.array(FIRST))


def test_pyros_state_is_loaded_before_the_first_call(float64):
    lang = LANGUAGES["pyro"]

    def model(y):
        schools(LANGUAGES["pyro"], y)

    guide, y = make(lang, model), lang.array(FIRST)
    lang.fit(model, guide, y, **(SHORT | {"steps": 20}))
    state = {name: value.clone() for name, value in guide.state_dict().items()}
    expected = guide.get_posterior().log_prob(torch.ones(5))
    pyro.clear_param_store()
    new = make(lang, model, informed="auto")
    new.load_state_dict(state)
    new(y)
    assert (new.start, new.informed) == ("loaded", ("theta",))
    assert all(torch.equal(value, state[name]) for name, value in new.state_dict().items())
    torch.testing.assert_close(new.get_posterior().log_prob(torch.ones(5)), expected)
    copied = copy.deepcopy(new)
    torch.testing.assert_close(copied.get_posterior().log_prob(torch.ones(5)), expected)


def picklable_pyro():
    funnel(LANGUAGES["pyro"])


def picklable_numpyro():
    funnel(LANGUAGES["numpyro"])


@pytest.mark.slow_in_numpyro
def test_results_pickle(lang):
    model = picklable_numpyro if lang.ppl is numpyro else picklable_pyro
    result = lang.fit(model, make(lang, model), **(SHORT | {"steps": 5}))
    again = pickle.loads(pickle.dumps(result))
    np.testing.assert_array_equal(np.asarray(again.sample(4)["z"]), np.asarray(result.sample(4)["z"]))


@pytest.mark.slow
def test_a_fit_goes_on_from_a_checkpoint(lang, tmp_path):
    model, options = partial(funnel, lang), {"tolerance": None, "checkpoint_every": 0}
    whole = lang.fit(model, make(lang, model), **(SHORT | {"steps": 30} | options | {"checkpoint": tmp_path / "whole"}))

    def stop(step, loss, params):
        if step == 12:
            raise RuntimeError("killed")

    pyro.clear_param_store()
    run = partial(lang.fit, model, **(SHORT | {"steps": 30} | options | {"checkpoint": tmp_path / "fit"}))
    with pytest.raises(RuntimeError, match="killed"):
        run(make(lang, model), callback=stop)
    pyro.clear_param_store()
    again = run(make(lang, model))
    np.testing.assert_array_equal(again.losses, whole.losses)
    np.testing.assert_array_equal(np.asarray(again.sample(3)["z"]), np.asarray(whole.sample(3)["z"]))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [pytest.param("reparam", marks=pytest.mark.slow), "path"])
def test_a_compiled_fit_in_pyro_is_the_eager_one(estimator):
    lang = LANGUAGES["pyro"]
    model, y = partial(schools, lang), torch.tensor(FIRST, dtype=torch.float32)
    results = []
    for mode in (False, "jit"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        options = {"steps": 25, "num_particles": 4, "draws": 20, "tolerance": None, "progress": False}
        results.append(lang.fit(model, make(lang, model), y, compile=mode, estimator=estimator, **options))
    eager, replay = results
    np.testing.assert_allclose(replay.losses, eager.losses, rtol=1e-3, atol=1e-3)  # float32
    for name, value in eager.params.items():
        torch.testing.assert_close(replay.params[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_priors_that_may_be_factors_are_a_warning(lang):
    def model(as_factors):
        scale = lang.ppl.sample("scale", lang.dist.HalfNormal(1.0))
        normal = lang.dist.Normal(lang.array(np.zeros(3)), scale[..., None]).to_event(1)
        if as_factors:
            flat = lang.dist.ImproperUniform(lang.dist.constraints.real_vector, (), (3,))
            z = lang.ppl.sample("z", flat)
            lang.ppl.factor("prior_of_z", normal.log_prob(z))
        else:
            z = lang.ppl.sample("z", normal)
        lang.ppl.sample("y", lang.dist.Normal(z, 1.0).to_event(1), obs=lang.array(np.ones(3)))

    init = lang.init_to({"scale": lang.array(1.0), "z": lang.array(np.zeros(3))})
    with pytest.warns(UserWarning, match=r"\['z'\] have flat priors, and the model has the factors \['prior_of_z'\]"):
        lang.set_up(lang.AutoFlow(model, small, init_loc_fn=init), True)
    pyro.clear_param_store()
    lang.set_up(lang.AutoFlow(model, small, init_loc_fn=init, informed=False), True)  # without one
    pyro.clear_param_store()
    lang.set_up(lang.AutoFlow(model, small), False)
