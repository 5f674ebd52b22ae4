"""The NumPyro shell: transforms, distributions and guides, in NumPyro's own machinery and in ours."""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases import arguments
from jax import random
from numpyro import handlers
from numpyro.distributions import transforms as host
from numpyro.distributions.flows import InverseAutoregressiveTransform
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoGuideList, AutoIAFNormal
from numpyro.infer.initialization import init_to_value
from numpyro.infer.reparam import NeuTraReparam
from numpyro.nn import AutoregressiveNN

import ppl_flows as pf
from ppl_flows.conditioners.masked_mlp import MaskedMLP
from ppl_flows.numpyro import AutoFlow, FitError, Flow, FlowTransform, fit, flow, transforms

SMALL = {"steps": 150, "num_particles": 8, "draws": 1_000, "progress": False}


def small(dim):
    """A flow that is made and compiled fast, where a test is not about the recipe."""
    return pf.iaf(dim, flow_layers=1, hidden=(8, 8))


def small_nsf(dim):
    return pf.nsf(dim, flow_layers=2, hidden=(16, 16))


def small_maf(dim):
    return pf.maf(dim, flow_layers=2, hidden=(16, 16))


def correlated():
    """A posterior that no mean field has: correlation 0.9, means 3 and -3."""
    covariance = jnp.array([[1.0, 0.9], [0.9, 1.0]])
    return numpyro.sample("z", dist.MultivariateNormal(jnp.array([3.0, -3.0]), covariance))


def standard_normal(dim):
    return dist.Normal(jnp.zeros(dim), jnp.ones(dim)).to_event(1)


def assert_moved(params, before):
    params, before = pf.split(params)[0], pf.split(before)[0]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert len(leaves) == len(jax.tree.leaves(before)) > 0
    for (path, leaf), start in zip(leaves, jax.tree.leaves(before), strict=True):
        assert not np.array_equal(leaf, start), f"{path} did not train"


def start_of(guide, *args):
    """Initial parameters of a guide."""
    trace = handlers.trace(handlers.seed(guide, 0)).get_trace(*args)
    return {name: site["value"] for name, site in trace.items() if site["type"] == "param"}


def count_passes(monkeypatch):
    passes = []
    original = MaskedMLP.layers
    monkeypatch.setattr(MaskedMLP, "layers", lambda *args: passes.append(1) or original(*args))
    return passes


# --- transforms


@pytest.mark.parametrize("name", transforms.__all__)
def test_every_layer_is_a_transform_class_under_its_own_name(name):
    layer, cls = getattr(pf, name), getattr(transforms, name)
    assert issubclass(cls, FlowTransform)
    assert cls.__doc__ == layer.__doc__
    args, kwargs = arguments(name)
    t = cls(*args, **kwargs)
    assert t.bijection == layer(*args, **kwargs)
    x = np.random.default_rng(0).standard_normal((7, *t.bijection.event_shape))

    @jax.jit
    def there_and_back(t, x):
        y = t(x)
        return t.inv(y), t.log_abs_det_jacobian(x, y)

    back, log_det = there_and_back(t, x)
    np.testing.assert_allclose(back, x, rtol=1e-6, atol=1e-6)
    assert log_det.shape == (7,)
    assert type(pickle.loads(pickle.dumps(t))) is cls


def test_layers_work_in_the_hosts_own_distributions():
    layers = [transforms.MaskedAutoregressive(3, seed=1), transforms.Permute(3, seed=2), transforms.Coupling(3)]
    stock = dist.TransformedDistribution(standard_normal(3), layers)
    x = stock.sample(random.key(0), (5,))
    composed = dist.TransformedDistribution(standard_normal(3), host.ComposeTransform(layers))
    np.testing.assert_allclose(stock.log_prob(x), composed.log_prob(x), rtol=1e-10)
    chain = pf.Chain([t.bijection for t in layers])
    ours = Flow(chain, {str(i): t.params for i, t in enumerate(layers)})
    np.testing.assert_allclose(stock.log_prob(x), ours.log_prob(x), rtol=1e-10)
    np.testing.assert_allclose(jax.jit(ours.log_prob)(x), ours.log_prob(x), rtol=1e-10)
    inverse = dist.TransformedDistribution(standard_normal(3), [t.inv for t in reversed(layers)])
    assert inverse.log_prob(x).shape == (5,)
    assert ours.support.event_dim == 1


def test_the_transform_agrees_with_the_autodiff_jacobian():
    t = FlowTransform(pf.iaf(3), seed=3)
    x = jnp.array([0.3, -1.0, 2.0])
    for f in (t, t.inv):
        expected = jnp.linalg.slogdet(jax.jit(jax.jacobian(f))(x))[1]
        log_det = jax.jit(lambda x, f=f: f.log_abs_det_jacobian(x, f(x)))(x)
        np.testing.assert_allclose(log_det, expected, atol=1e-10)


def their_transform(seed):
    init, apply = AutoregressiveNN(3, [8])
    params = init(random.key(seed), (3,))[1]
    return InverseAutoregressiveTransform(lambda x, params=params: apply(params, x))


def test_a_jitted_function_of_a_transform_is_traced_once_where_the_hosts_is_not():
    traces = []

    @jax.jit
    def f(t, x):
        traces.append(1)
        return t(x)

    x = jnp.ones(3)
    f(their_transform(0), x)
    f(their_transform(1), x)
    assert len(traces) == 2, "the trap: one trace for every transform"
    traces.clear()
    for seed in range(3):
        f(FlowTransform(pf.iaf(3), seed=seed), x)
    assert len(traces) == 1


def test_the_gradient_reaches_every_parameter_where_the_hosts_reaches_none():
    def loss(t):
        return jnp.sum(t(jnp.ones(3)) ** 2) + t.log_abs_det_jacobian(jnp.ones(3), None)

    theirs = jax.tree.leaves(jax.grad(loss)(their_transform(0)))
    assert all(jnp.ndim(leaf) == 0 for leaf in theirs), "the trap: no weights among the leaves"
    ours = jax.grad(loss)(FlowTransform(pf.iaf(3)))
    assert len(jax.tree.leaves(ours)) == 18
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(ours.params["2"]))


def test_transforms_and_flows_go_through_jit_and_vmap():
    stacked = jax.vmap(lambda scale: FlowTransform(pf.real_nvp(3), jax.tree.map(lambda a: a * scale, params)))
    params = FlowTransform(pf.real_nvp(3)).params
    two = stacked(jnp.array([1.0, 2.0]))
    x = jnp.arange(3.0)
    y = jax.vmap(lambda t: t(x))(two)
    np.testing.assert_allclose(y[0], FlowTransform(pf.real_nvp(3), params)(x), rtol=1e-12)
    d = jax.jit(lambda p: Flow(pf.real_nvp(3), p))(params)
    assert isinstance(d, Flow)
    np.testing.assert_allclose(d.log_prob(x), Flow(pf.real_nvp(3), params).log_prob(x), rtol=1e-12)
    a, b = FlowTransform(pf.iaf(3)), FlowTransform(pf.iaf(3))
    assert bool(a.eq(b))
    assert a != FlowTransform(pf.iaf(3, flow_layers=1))


def test_a_sample_that_is_scored_costs_one_pass_and_a_score_costs_one(monkeypatch):
    d = Flow(pf.MaskedAutoregressive(4))
    score = Flow(pf.Inverse(pf.MaskedAutoregressive(4)))
    passes = count_passes(monkeypatch)
    with handlers.seed(rng_seed=0), handlers.trace() as trace:
        numpyro.sample("x", d)
    site = trace["x"]
    site["fn"].log_prob(site["value"], site["intermediates"])
    assert len(passes) == 1
    passes.clear()
    score.log_prob(jnp.ones((10, 4)))
    assert len(passes) == 1


# --- distributions


def test_the_context_gives_the_batch_shape():
    d = Flow(pf.iaf(3, context_dim=2), context=random.normal(random.key(0), (5, 2)))
    assert d.batch_shape == (5,)
    assert d.sample(random.key(1), (4,)).shape == (4, 5, 3)
    assert d.expand([2, 5]).log_prob(jnp.ones((2, 5, 3))).shape == (2, 5)
    with numpyro.plate("rows", 5), handlers.seed(rng_seed=0):
        assert numpyro.sample("x", d).shape == (5, 3)
    narrow = FlowTransform(pf.iaf(3, context_dim=2), context=jnp.zeros(2))
    assert Flow(narrow.condition(jnp.ones((5, 2)))).batch_shape == (5,)


@pytest.mark.slow
def test_a_flow_over_another_flow_scores_like_the_hosts():
    inner = Flow(pf.iaf(3))
    outer = Flow(pf.real_nvp(3), base=inner)
    stock = dist.TransformedDistribution(standard_normal(3), [FlowTransform(pf.iaf(3)), FlowTransform(pf.real_nvp(3))])
    x = stock.sample(random.key(0), (4,))
    np.testing.assert_allclose(outer.log_prob(x), stock.log_prob(x), rtol=1e-10)


def test_a_flow_trains_as_a_prior():
    data = random.normal(random.key(0), (50, 2)) * jnp.array([0.3, 2.0]) + 4

    def model():
        with numpyro.plate("rows", 50, subsample_size=25) as rows:
            numpyro.sample("x", flow("population", pf.real_nvp(2, flow_layers=2)), obs=data[rows])

    result = fit(model, lambda: None, steps=300, num_particles=1, progress=False)
    assert set(result.params) == {"population"}
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 50
    assert_moved(result.params["population"], Flow(pf.real_nvp(2, flow_layers=2)).transforms[0].params)


def test_a_name_in_use_by_another_flow_is_an_error():
    with pytest.raises(ValueError, match="params do not fit"), handlers.substitute(data={"prior": {"0": {}}}):
        flow("prior", pf.iaf(3))
    assert flow("prior", pf.iaf(3)).event_shape == (3,), "outside a handler it is a flow at its start"


def test_a_flow_that_could_never_train_is_an_error():
    with pytest.raises(ValueError, match="never train"):
        handlers.trace(handlers.seed(lambda: numpyro.sample("z", Flow(pf.iaf(2))), 0)).get_trace()
    frozen = Flow(pf.iaf(2), pf.iaf(2).init(np.random.default_rng(0)))
    trace = handlers.trace(handlers.seed(lambda: numpyro.sample("z", frozen), 0)).get_trace()
    assert trace["z"]["value"].shape == (2,)


def test_user_mistakes_are_errors_that_name_the_way_out():
    with pytest.raises(TypeError, match="FlowTransform takes bijections such as"):
        FlowTransform(their_transform(0))
    with pytest.raises(ValueError, match="params do not fit"):
        FlowTransform(pf.iaf(2), {"0": {}})
    with pytest.raises(ValueError, match=r"maps events of shape \(3,\)"):
        Flow(pf.iaf(3), base=standard_normal(2))
    with pytest.raises(ValueError, match="expects context of shape"):
        Flow(pf.iaf(3, context_dim=2), context=jnp.zeros(3))
    with pytest.raises(ValueError, match="got no context"):
        Flow(pf.iaf(3, context_dim=2)).sample(random.key(0))
    with pytest.raises(ValueError, match="has its params and context already"):
        Flow(FlowTransform(pf.iaf(2)), params={})


# --- guides


def test_the_guide_starts_at_the_initialisation():
    init = init_to_value(values={"z": jnp.array([5.0, -7.0])})
    guide = AutoFlow(correlated, start="init", init_loc_fn=init, init_scale=0.2)
    draws = guide.get_posterior(start_of(guide)).sample(random.key(0), (2_000,))
    np.testing.assert_allclose(draws.mean(0), [5.0, -7.0], atol=0.05)
    np.testing.assert_allclose(draws.std(0), [0.2, 0.2], atol=0.02)


@pytest.mark.parametrize("recipe", [None, pf.iaf, small_nsf, small_maf], ids=["default", "iaf", "nsf", "maf"])
@pytest.mark.slow
def test_the_guide_of_a_recipe_trains(recipe):
    guide = AutoFlow(correlated, recipe, start="init")
    before = start_of(guide)
    result = fit(correlated, guide, steps=60, num_particles=8, draws=200, lr=3e-2, progress=False)
    assert_moved(result.params, before)
    assert result.losses[-10:].mean() < result.losses[:10].mean() - 0.5
    assert result.elbo.mean < 4 * result.elbo.se, "an ELBO cannot exceed the log evidence, here 0"
    assert result.skipped == 0
    assert result.sample(20)["z"].shape == (20, 2)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [None, pf.iaf, small_nsf, small_maf], ids=["default", "iaf", "nsf", "maf"])
def test_the_guide_finds_a_correlated_posterior(recipe):
    guide = AutoFlow(correlated, recipe, start="init")
    before = start_of(guide)
    result = fit(correlated, guide, steps=400, num_particles=16, lr=3e-2, progress=False)
    assert_moved(result.params, before)
    assert result.losses[-50:].mean() < result.losses[:50].mean() - 0.5
    assert result.elbo.mean < 4 * result.elbo.se, "an ELBO cannot exceed the log evidence, here 0"
    assert result.elbo.mean > -0.15
    assert np.isfinite(result.khat)
    draws = result.sample(2_000)["z"]
    assert draws.shape == (2_000, 2)
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(0.9, abs=0.06)
    assert result.skipped == 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [None, small, small_nsf, pf.nice], ids=["default", "iaf", "nsf", "nice"])
def test_one_latent_dimension_works_where_the_hosts_raises(recipe):
    def model():
        numpyro.sample("z", dist.Gamma(3.0, 1.0))

    with pytest.raises(ValueError, match="latent dim = 1"):
        handlers.seed(AutoIAFNormal(model), 0)()
    result = fit(model, AutoFlow(model, recipe, start="init"), **{**SMALL, "lr": 3e-2})
    assert -1 < result.elbo.mean < 4 * result.elbo.se
    assert result.sample(10)["z"].shape == (10,)


def mixed():
    """Several sites, supports and plates: a positive scalar, a simplex, and rows."""
    numpyro.sample("scale", dist.Gamma(2.0, 2.0))
    numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("rows", 4):
        numpyro.sample("row", dist.Normal(jnp.zeros(2), 1.0).to_event(1))


@pytest.mark.slow
def test_the_hosts_guide_methods_work():
    guide = AutoFlow(mixed, small, start="init")
    shapes = {"scale": (), "share": (3,), "row": (4, 2)}
    result = fit(mixed, guide, **(SMALL | {"steps": 20}))
    assert guide.latent_dim == 1 + 2 + 8
    assert {k: v.shape for k, v in guide.median(result.params).items()} == shapes
    quantiles = guide.quantiles(result.params, [0.1, 0.5, 0.9])
    assert {k: v.shape for k, v in quantiles.items()} == {k: (3, *s) for k, s in shapes.items()}
    assert np.all(np.diff(quantiles["scale"]) > 0)
    assert guide.quantiles(result.params, 0.5)["row"].shape == (4, 2)
    draws = result.sample(100)
    assert {k: v.shape for k, v in draws.items()} == {k: (100, *s) for k, s in shapes.items()}
    np.testing.assert_allclose(draws["share"].sum(-1), 1.0, rtol=1e-6)
    assert guide.get_base_dist().event_shape == guide.get_posterior(result.params).event_shape == (11,)
    assert guide.get_transform(result.params).bijection.event_shape == (11,)
    predicted = Predictive(guide, params=result.params, num_samples=7)(random.key(0))
    assert predicted["row"].shape == (7, 4, 2)
    neutra = NeuTraReparam(guide, result.params)
    trace = handlers.trace(handlers.seed(neutra.reparam(mixed), 0)).get_trace()
    assert trace[f"{guide.prefix}_shared_latent"]["value"].shape == (11,)
    assert type(pickle.loads(pickle.dumps(guide))) is AutoFlow


@pytest.mark.slow
def test_the_hosts_svi_trains_the_guide_with_and_without_vectorised_particles():
    for vectorize in (False, True):
        guide = AutoFlow(mixed, small, start="init")
        svi = SVI(mixed, guide, optax.adam(1e-2), Trace_ELBO(num_particles=4, vectorize_particles=vectorize))
        before = svi.get_params(svi.init(random.key(0)))
        result = svi.run(random.key(0), 80, progress_bar=False)
        assert_moved(result.params, before)
        assert result.losses[-20:].mean() < result.losses[:20].mean()


@pytest.mark.slow
def test_the_hosts_svi_starts_under_jit_and_vmap():
    svi = SVI(mixed, AutoFlow(mixed, small), optax.adam(1e-2), Trace_ELBO())
    jax.jit(svi.init)(random.key(0))
    many = SVI(mixed, AutoFlow(mixed, small), optax.adam(1e-2), Trace_ELBO())
    states = jax.vmap(many.init)(random.split(random.key(0), 3))
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(many.get_params(states)))
    init = init_to_value(values={"z": jnp.array([5.0, -7.0])})
    svi = SVI(correlated, AutoFlow(correlated, small, init_loc_fn=init), optax.adam(1e-2), Trace_ELBO())
    started = svi.get_params(jax.jit(svi.init)(random.key(0)))
    np.testing.assert_allclose(started["auto_z_flow"]["affine"]["b"], [5.0, -7.0])


@pytest.mark.slow
def test_a_fit_goes_on_from_earlier_parameters():
    guide = AutoFlow(correlated, small, start="init")
    first = fit(correlated, guide, **{**SMALL, "steps": 400, "lr": 2e-2})
    again = fit(correlated, guide, init_params=first.params, **{**SMALL, "lr": 1e-3})
    assert again.losses[:10].mean() < first.losses[:10].mean() - 1
    assert again.losses[:10].mean() < first.losses[-100:].mean() + 0.3


def two_guides(make):
    guide = AutoGuideList(mixed)
    guide.append(make(handlers.block(mixed, hide=["row"])))
    guide.append(make(handlers.block(mixed, hide=["scale", "share"])))
    return guide


@pytest.mark.long
def test_guides_share_a_list_where_the_hosts_clash():
    with pytest.raises(AssertionError, match="unique names"):
        handlers.trace(handlers.seed(two_guides(AutoIAFNormal), 0)).get_trace()
    guide = two_guides(lambda model: AutoFlow(model, small, start="init"))
    before = start_of(guide)
    assert set(before) == {"auto_scale_flow", "auto_row_flow"}
    result = fit(mixed, guide, **SMALL)
    assert_moved(result.params, before)
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    other = AutoGuideList(mixed)
    other.append(AutoFlow(handlers.block(mixed, hide=["scale", "share"]), small, start="init"))
    other.append(AutoDelta(handlers.block(mixed, hide=["row"])))
    fit(mixed, other, **(SMALL | {"steps": 20}))


@pytest.mark.slow
def test_latents_local_to_a_subsampled_plate_are_a_clear_error():
    def model():
        with numpyro.plate("rows", 10, subsample_size=5):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    guide = AutoFlow(model, start="init")
    for _ in range(2):
        with pytest.raises(ValueError, match="local to a sub-sampled plate"):
            handlers.seed(guide, 0)()


def test_what_does_not_train_is_refused():
    cases = [
        (lambda d: FlowTransform(pf.iaf(d)), TypeError, "callable dim -> Bijection"),
        (lambda d: pf.iaf(d + 1), ValueError, "2 latent dimensions"),
        (lambda d: pf.iaf(d, context_dim=1), ValueError, "context of size 1"),
    ]
    for recipe, error, match in cases:
        with pytest.raises(error, match=match):
            handlers.seed(AutoFlow(correlated, recipe, start="init"), 0)()
    with pytest.raises(ValueError, match="init_scale must be positive"):
        AutoFlow(correlated, init_scale=0.0, start="init")
    with pytest.raises(ValueError, match="nothing to train"):
        fit(lambda: None, lambda: None, **SMALL)
    with pytest.raises(ValueError, match="at least 1"):
        fit(correlated, AutoFlow(correlated, start="init"), steps=0)


def test_a_fit_that_meets_nan_stops_with_the_last_finite_parameters():
    def model(y):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.factor("y", jnp.where(z > 0.5, jnp.nan, 5 * z) + y)

    guide = AutoFlow(model, small, start="init")
    with pytest.raises(FitError, match="not finite since step") as caught:
        fit(model, guide, 1.0, **{**SMALL, "lr": 0.1})
    assert 0 <= caught.value.step < 150
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.params))
    assert len(caught.value.losses) == caught.value.step + 20


@pytest.mark.slow
def test_a_sub_sampled_likelihood_has_an_honest_error_and_no_khat():
    data = random.normal(random.key(0), (200,)) * 5

    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", 200, subsample_size=5) as rows:
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=data[rows])

    result = fit(model, AutoFlow(model, small, start="init"), **SMALL)
    assert np.isnan(result.khat)
    spread = 200 * float(jnp.std(0.5 * data**2)) / 5**0.5  # of one minibatch's log-likelihood
    assert result.elbo.se == pytest.approx(spread / 1_000**0.5, rel=0.3)


@pytest.mark.slow
def test_fit_repeats_itself_and_traces_the_model_a_fixed_number_of_times():
    traces = []

    def model():
        traces.append(1)
        correlated()

    runs = []
    for steps in (100, 200):
        traces.clear()
        guide = AutoFlow(model, small, start="init")
        fit(model, guide, steps=steps, num_particles=2, draws=100, progress=False)
        runs.append(len(traces))
    assert runs[0] == runs[1], "the model must not be traced again and again while it trains"
    twice = [fit(correlated, AutoFlow(correlated, small, start="init"), **SMALL) for _ in range(2)]
    np.testing.assert_array_equal(twice[0].losses, twice[1].losses)
    np.testing.assert_array_equal(twice[0].sample(5)["z"], twice[1].sample(5)["z"])


@pytest.mark.slow
def test_a_second_fit_compiles_nothing_and_still_sees_what_has_changed():
    compiled, data = [], {"y": 0.0}

    def listen(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration" and fun_name in ("jit(_run)", "jit(score_chunk)"):
            compiled.append(fun_name)

    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=data["y"])

    def mean(seed):
        compiled.clear()
        return fit(model, guide, seed=seed, **SMALL).sample(1000)["z"].mean(), len(compiled)

    guide = AutoFlow(model, partial(pf.nsf, flow_layers=1), start="init")
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        means, programs = zip(*(mean(seed) for seed in (0, 0, 1)), strict=True)
        data["y"] = 2.0
        moved, recompiled = mean(1)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert programs == (3, 0, 0), "training, and its measure by own draws and by wide ones"
    assert means[1] == means[0] != means[2]
    assert recompiled == 3
    assert moved > means[2] + 0.3, "a program with the old data in it would come to the same posterior"
