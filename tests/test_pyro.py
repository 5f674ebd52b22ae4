"""The Pyro shell: transforms, distributions and guides, in Pyro's own machinery and in ours."""

import copy
import io
import pickle
from inspect import signature

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as host
import pytest
import torch
from cases import arguments
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuideList, AutoIAFNormal, AutoNormalizingFlow

import ppl_flows as pf
from ppl_flows.conditioners.masked_mlp import MaskedMLP
from ppl_flows.pyro import AutoFlow, FitError, Flow, FlowTransform, fit, flow, transforms

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
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    return pyro.sample("z", dist.MultivariateNormal(torch.tensor([3.0, -3.0]), covariance))


def standard_normal(dim):
    return dist.Normal(torch.zeros(dim), torch.ones(dim)).to_event(1)


def snapshot(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def assert_moved(module, before):
    for name, p in module.named_parameters():
        assert not torch.equal(p, before[name]), f"{name} did not train"


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
    shared = ["params", "context", "seed"]
    assert [p for p in signature(cls).parameters if p not in shared] == [
        p for p in signature(layer).parameters if p not in shared
    ]
    args, kwargs = arguments(name)
    t = cls(*args, **kwargs)
    assert t.bijection == layer(*args, **kwargs)
    x = torch.randn(7, *t.bijection.event_shape)
    y = t(x)
    torch.testing.assert_close(t.inv(y.clone()), x, rtol=1e-4, atol=1e-5)
    assert t.log_abs_det_jacobian(x, y).shape == (7,)
    assert type(pickle.loads(pickle.dumps(t))) is cls


def test_layers_work_in_the_hosts_own_distributions():
    layers = [transforms.MaskedAutoregressive(3, seed=1), transforms.Permute(3, seed=2), transforms.Coupling(3)]
    stock = dist.TransformedDistribution(standard_normal(3), layers)
    x = stock.sample((5,))
    composed = dist.TransformedDistribution(standard_normal(3), host.ComposeTransform(layers))
    torch.testing.assert_close(stock.log_prob(x), composed.log_prob(x))
    chain = pf.Chain([t.bijection for t in layers])
    ours = Flow(chain, {str(i): t.params for i, t in enumerate(layers)})
    torch.testing.assert_close(stock.log_prob(x), ours.log_prob(x))
    inverse = dist.TransformedDistribution(standard_normal(3), [t.inv for t in reversed(layers)])
    assert inverse.log_prob(x).shape == (5,)
    assert ours.support.event_dim == 1


def test_the_transform_agrees_with_the_autodiff_jacobian(float64):
    t = FlowTransform(pf.iaf(3), seed=3)
    x = torch.randn(3)
    for f in (t, t.inv):
        jacobian = torch.autograd.functional.jacobian(f, x)
        torch.testing.assert_close(f.log_abs_det_jacobian(x, f(x)), torch.linalg.slogdet(jacobian)[1])


def test_the_inverse_registers_its_parameters_where_the_hosts_does_not():
    x = torch.randn(64, 2) * 3 + 1
    assert not isinstance(host.affine_autoregressive(2).inv, torch.nn.Module), "the trap"

    def model(t):
        pyro.module("flow", t)
        with pyro.plate("rows", 64):
            pyro.sample("x", dist.TransformedDistribution(standard_normal(2), [t]), obs=x)

    t = FlowTransform(pf.iaf(2)).inv
    before = snapshot(t)
    svi = SVI(model, lambda t: None, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    losses = [svi.step(t) for _ in range(60)]
    assert len(before) == 6 * 3
    assert_moved(t, before)
    assert losses[-1] < losses[0] - 10


def test_a_sample_that_is_scored_costs_one_pass_and_a_score_costs_one(monkeypatch):
    d = Flow(pf.MaskedAutoregressive(4))
    passes = count_passes(monkeypatch)
    d.log_prob(d.rsample((10,)))
    assert len(passes) == 1
    stock = dist.TransformedDistribution(standard_normal(4), [FlowTransform(pf.Inverse(pf.MaskedAutoregressive(4)))])
    passes.clear()
    stock.log_prob(torch.randn(10, 4))
    assert len(passes) == 1


# --- traps of the host: stale caches, graphs kept alive


def test_log_prob_follows_a_parameter_update_where_the_hosts_does_not():
    theirs = host.affine_autoregressive(3)
    ours = FlowTransform(pf.iaf(3))
    for t, stale in ((theirs, True), (ours, False)):
        d = dist.TransformedDistribution(standard_normal(3), [t])
        y = d.rsample((4,)).detach() if stale else d.rsample((4,))
        before = d.log_prob(y).detach()
        with torch.no_grad():
            for p in t.parameters():
                p.add_(0.5)
        after = d.log_prob(y)
        assert torch.equal(before, after) == stale
    torch.testing.assert_close(after, d.log_prob(y.clone()))


REALS, POSITIVE, SIMPLEX = dist.constraints.real, dist.constraints.positive, dist.constraints.simplex


@pytest.mark.parametrize("support", [None, POSITIVE, SIMPLEX, [(POSITIVE, 1), (REALS, 2)]], ids=repr)
def test_a_draw_that_wants_a_gradient_afterwards_has_the_whole_one(support):
    bijection = pf.nsf(2 if support is SIMPLEX else 3)
    d = Flow(bijection, bijection.init(np.random.default_rng(0)), support=support)
    fixed = d.detach()
    for own, draw in ((d, d.sample), (fixed, fixed.rsample)):
        y = draw((4,)).requires_grad_()
        copy = y.detach().clone().requires_grad_()
        of_draw, of_copy = (torch.autograd.grad(own.log_prob(v).sum(), v)[0] for v in (y, copy))
        torch.testing.assert_close(of_draw, of_copy)


def test_log_prob_follows_an_edit_of_the_sample_in_place():
    t = FlowTransform(pf.iaf(3))
    for d in (Flow(t), dist.TransformedDistribution(standard_normal(3), [t])):
        y = d.sample((4,))
        y.mul_(3.0)
        torch.testing.assert_close(d.log_prob(y), d.log_prob(y.clone()))
        x = torch.randn(4, 3)
        y = t(x)
        x.mul_(2.0)
        torch.testing.assert_close(t.log_abs_det_jacobian(x, y), t.log_abs_det_jacobian(x.clone(), y))


def test_a_first_use_in_inference_mode_leaves_no_trace():
    layer = pf.MaskedAutoregressive(7, conditioner=pf.MLP((11,)))  # a shape no other test uses: its masks are made here
    t = FlowTransform(layer)
    with torch.inference_mode():
        t(torch.randn(7))
    t(torch.randn(7)).sum().backward()


def test_full_batch_training_does_not_go_backward_twice_where_the_hosts_does():
    data = torch.randn(20, 3) * 2 + 1

    def steps(t):
        d = dist.TransformedDistribution(standard_normal(3), [t])
        optimiser = torch.optim.Adam(t.parameters(), 1e-2)
        losses = []
        for _ in range(30):
            optimiser.zero_grad()
            loss = -d.log_prob(data).mean()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses

    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        steps(host.affine_autoregressive(3))
    ours = FlowTransform(pf.iaf(3))
    before = snapshot(ours)
    losses = steps(ours)
    assert losses[-1] < losses[0]
    assert_moved(ours, before)


def test_deepcopy_and_pickle_work_after_use_where_the_hosts_do_not():
    theirs, ours = host.affine_autoregressive(3), FlowTransform(pf.iaf(3))
    x = torch.randn(3)
    theirs(x)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(theirs)
    y = ours(x)
    _ = ours.inv
    torch.testing.assert_close(copy.deepcopy(ours)(x), y)
    torch.testing.assert_close(pickle.loads(pickle.dumps(ours))(x), y)
    buffer = io.BytesIO()
    torch.save(ours.state_dict(), buffer)
    pickle.dumps(y.detach())


def test_nothing_is_remembered_longer_than_the_sample_lives():
    from ppl_flows.pyro.transform import _passes

    t = FlowTransform(pf.real_nvp(3))
    kept = len(_passes)
    for _ in range(5):
        d = Flow(t)
        y = d.rsample((2,))
        d.log_prob(y).sum().backward()
    del y
    assert len(_passes) == kept


# --- distributions


def test_the_context_gives_the_batch_shape_where_the_hosts_does_not():
    theirs = dist.ConditionalTransformedDistribution(
        standard_normal(3), [host.conditional_affine_autoregressive(3, context_dim=2)]
    ).condition(torch.randn(5, 2))
    assert theirs.batch_shape == (), "the trap"
    d = Flow(pf.iaf(3, context_dim=2), context=torch.randn(5, 2))
    assert d.batch_shape == (5,)
    assert d.sample((4,)).shape == (4, 5, 3)
    assert d.expand([2, 5]).log_prob(torch.randn(2, 5, 3)).shape == (2, 5)
    with pyro.plate("rows", 5):
        assert pyro.sample("x", d).shape == (5, 3)
    narrow = FlowTransform(pf.iaf(3, context_dim=2), context=torch.zeros(2))
    wide = narrow.condition(torch.ones(5, 2))
    assert Flow(wide).batch_shape == (5,)
    assert next(wide.parameters()) is next(narrow.parameters())


def test_a_flow_trains_as_a_prior_and_its_parameters_are_in_the_store():
    data = torch.randn(50, 2) * torch.tensor([0.3, 2.0]) + 4

    def model():
        with pyro.plate("rows", 50, subsample_size=25) as rows:
            pyro.sample("x", flow("population", pf.real_nvp(2, flow_layers=2)), obs=data[rows])

    result = fit(model, lambda: None, steps=300, num_particles=1, progress=False)
    assert set(result.params) == set(pyro.get_param_store().keys())
    assert all(name.startswith("population.") for name in result.params)
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 50
    fresh = Flow(pf.real_nvp(2, flow_layers=2))
    for name, start in fresh.transforms[0].weights.named_parameters():
        assert not torch.equal(result.params[f"population.{name}"], start)


def test_a_name_in_use_by_another_flow_is_an_error():
    flow("prior", pf.iaf(2))
    flow("prior", pf.iaf(2))
    with pytest.raises(ValueError, match="another flow has the name 'prior'"):
        flow("prior", pf.iaf(3))


def test_a_flow_that_could_never_train_is_an_error():
    with pytest.raises(ValueError, match="never train"):
        poutine.trace(lambda: pyro.sample("z", Flow(pf.iaf(2)))).get_trace()
    frozen = Flow(pf.iaf(2), pf.iaf(2).init(np.random.default_rng(0)))
    assert poutine.trace(lambda: pyro.sample("z", frozen)).get_trace().nodes["z"]["value"].shape == (2,)


def test_user_mistakes_are_errors_that_name_the_way_out():
    with pytest.raises(TypeError, match="FlowTransform takes bijections such as"):
        FlowTransform(host.affine_autoregressive(2))
    with pytest.raises(ValueError, match="params do not fit"):
        FlowTransform(pf.iaf(2), {"0": {}})
    with pytest.raises(ValueError, match=r"maps events of shape \(3,\)"):
        Flow(pf.iaf(3), base=standard_normal(2))
    with pytest.raises(ValueError, match="got no context"):
        Flow(pf.iaf(3, context_dim=2)).sample()
    with pytest.raises(ValueError, match="expects context of shape"):
        Flow(pf.iaf(3, context_dim=2), context=torch.zeros(3))
    with pytest.raises(ValueError, match="do not broadcast"):
        FlowTransform(pf.iaf(3, context_dim=2), context=torch.zeros(4, 2))(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="has its params and context already"):
        Flow(FlowTransform(pf.iaf(2)), params={})


# --- guides


def test_the_guide_starts_at_the_initialisation():
    def init(site):
        return torch.tensor([5.0, -7.0])

    guide = AutoFlow(correlated, start="init", init_loc_fn=init, init_scale=0.2)
    guide()
    draws = guide.get_posterior().sample((2_000,))
    torch.testing.assert_close(draws.mean(0), torch.tensor([5.0, -7.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.full((2,), 0.2), atol=0.02, rtol=0)


@pytest.mark.parametrize("recipe", [None, pf.iaf, small_nsf, small_maf], ids=["default", "iaf", "nsf", "maf"])
def test_the_guide_of_a_recipe_trains(recipe):
    guide = AutoFlow(correlated, recipe, start="init")
    guide()
    before = snapshot(guide)
    result = fit(correlated, guide, steps=60, num_particles=8, draws=200, lr=3e-2, progress=False)
    assert_moved(guide, before)
    assert result.losses[-10:].mean() < result.losses[:10].mean() - 0.5
    assert result.elbo.mean < 4 * result.elbo.se, "an ELBO cannot exceed the log evidence, here 0"
    assert result.skipped == 0
    assert result.sample(20)["z"].shape == (20, 2)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [None, pf.iaf, small_nsf, small_maf], ids=["default", "iaf", "nsf", "maf"])
def test_the_guide_finds_a_correlated_posterior(recipe):
    guide = AutoFlow(correlated, recipe, start="init")
    guide()
    before = snapshot(guide)
    result = fit(correlated, guide, steps=400, num_particles=16, lr=3e-2, progress=False)
    assert_moved(guide, before)
    assert result.losses[-50:].mean() < result.losses[:50].mean() - 1
    assert result.elbo.mean < 4 * result.elbo.se, "an ELBO cannot exceed the log evidence, here 0"
    assert result.elbo.mean > -0.15
    assert np.isfinite(result.khat)
    draws = result.sample(2_000)["z"]
    assert draws.shape == (2_000, 2)
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(0.9, abs=0.06)
    assert result.skipped == 0


@pytest.mark.parametrize("recipe", [None, small, small_nsf, pf.nice], ids=["default", "iaf", "nsf", "nice"])
def test_one_latent_dimension_works(recipe):
    def model():
        pyro.sample("z", dist.Gamma(3.0, 1.0))

    guide = AutoFlow(model, recipe, start="init")
    result = fit(model, guide, **{**SMALL, "lr": 3e-2})
    assert -1 < result.elbo.mean < 4 * result.elbo.se
    assert result.sample(10)["z"].shape == (10,)


def mixed():
    """Several sites, supports and plates: a positive scalar, a simplex, and rows."""
    pyro.sample("scale", dist.Gamma(2.0, 2.0))
    pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("rows", 4):
        pyro.sample("row", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def test_the_hosts_guide_methods_work():
    guide = AutoFlow(mixed, small, start="init")
    shapes = {"scale": (), "share": (3,), "row": (4, 2)}
    result = fit(mixed, guide, **(SMALL | {"steps": 20}))
    assert guide.latent_dim == 1 + 2 + 8
    assert {k: tuple(v.shape) for k, v in guide.median().items()} == shapes
    quantiles = guide.quantiles([0.1, 0.5, 0.9])
    assert {k: tuple(v.shape) for k, v in quantiles.items()} == {k: (3, *s) for k, s in shapes.items()}
    assert torch.all(quantiles["scale"].diff() > 0)
    assert guide.quantiles(0.5)["row"].shape == (4, 2)
    draws = result.sample(100)
    assert {k: tuple(v.shape) for k, v in draws.items()} == {k: (100, *s) for k, s in shapes.items()}
    torch.testing.assert_close(draws["share"].sum(-1), torch.ones(100))
    assert guide.get_base_dist().event_shape == guide.get_posterior().event_shape == (11,)
    assert guide.get_transform() is guide.transform
    predicted = Predictive(mixed, guide=guide, num_samples=7)()
    assert predicted["row"].shape == (7, 4, 2)


@pytest.mark.slow
def test_the_hosts_svi_trains_the_guide_with_and_without_vectorised_particles():
    for vectorize in (False, True):
        pyro.clear_param_store()
        guide = AutoFlow(mixed, small, start="init")
        guide()
        before = snapshot(guide)
        elbo = Trace_ELBO(num_particles=4, vectorize_particles=vectorize, max_plate_nesting=1)
        svi = SVI(mixed, guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
        losses = [svi.step() for _ in range(80)]
        assert np.mean(losses[-20:]) < np.mean(losses[:20])
        assert_moved(guide, before)


def test_a_second_guide_of_the_same_name_is_an_error_where_the_hosts_does_not_train():
    short = SMALL | {"steps": 20}
    for make in (lambda: AutoIAFNormal(correlated), lambda: AutoFlow(correlated, small, start="init")):
        pyro.clear_param_store()
        fit(correlated, make(), **short)
        second = make()
        if isinstance(second, AutoFlow):
            with pytest.raises(ValueError, match=r"pyro\.clear_param_store"):
                fit(correlated, second, **short)
        else:
            second()
            before = snapshot(second)
            fit(correlated, second, **short)
            assert all(torch.equal(p, before[n]) for n, p in second.named_parameters()), "the trap"


def test_guides_share_a_list():
    guide = AutoGuideList(mixed)
    guide.append(AutoFlow(poutine.block(mixed, expose=["scale", "share"]), small, start="init"))
    guide.append(AutoFlow(poutine.block(mixed, expose=["row"]), small_nsf, start="init"))
    guide()
    before = snapshot(guide)
    losses = fit(mixed, guide, **SMALL).losses
    assert_moved(guide, before)
    assert losses[-20:].mean() < losses[:20].mean()
    other = AutoGuideList(mixed)
    other.append(AutoFlow(poutine.block(mixed, expose=["row"]), small, start="init"))
    other.append(AutoDelta(poutine.block(mixed, hide=["row"])))
    pyro.clear_param_store()
    fit(mixed, other, **(SMALL | {"steps": 20}))


def test_latents_local_to_a_subsampled_plate_are_an_error_where_the_hosts_fits_the_wrong_rows():
    def model():
        with pyro.plate("rows", 10, subsample_size=5):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    theirs = AutoIAFNormal(model)
    theirs()
    assert theirs.latent_dim == 5, "the trap: ten latents, five of them fitted"
    guide = AutoFlow(model, start="init")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"'z' is local to plate 'rows', which is sub-sampled \(5 of 10\)"):
            guide()


def test_what_does_not_train_is_refused():
    cases = [
        (lambda d: FlowTransform(pf.iaf(d)), TypeError, "callable dim -> Bijection"),
        (lambda d: pf.iaf(d + 1), ValueError, "2 latent dimensions"),
        (pf.iaf(2), TypeError, "callable dim -> Bijection"),
        (lambda d: pf.iaf(d, context_dim=1), ValueError, "context of size 1"),
    ]
    for recipe, error, match in cases:
        with pytest.raises(error, match=match):
            AutoFlow(correlated, recipe, start="init")()
    with pytest.raises(ValueError, match="init_scale must be positive"):
        AutoFlow(correlated, init_scale=0.0, start="init")
    with pytest.raises(ValueError, match="nothing to train"):
        fit(lambda: None, lambda: None, **SMALL)
    with pytest.raises(ValueError, match="at least 1"):
        fit(correlated, AutoFlow(correlated, start="init"), steps=0)


def test_our_transform_trains_in_the_hosts_guide():
    guide = AutoNormalizingFlow(correlated, lambda d: FlowTransform(small_nsf(d)))
    guide()
    before = snapshot(guide)
    losses = fit(correlated, guide, steps=200, num_particles=8, lr=2e-2, draws=100, progress=False).losses
    assert_moved(guide, before)
    assert losses[-20:].mean() < losses[:20].mean() - 1


def test_a_fit_that_meets_nan_stops_with_the_last_finite_parameters():
    calls = []

    def model(y):
        calls.append(1)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("y", -((z - (y if len(calls) < 60 else torch.nan)) ** 2))

    guide = AutoFlow(model, small, start="init")
    with (
        pyro.validation_enabled(False),  # with it, Pyro's own error comes first
        pytest.warns(UserWarning, match="NaN"),
        pytest.raises(FitError, match="not finite since step 5") as caught,
    ):
        fit(model, guide, torch.tensor(1.0), **{**SMALL, "num_particles": 1})
    assert caught.value.step < 60
    assert all(torch.isfinite(p).all() for p in caught.value.params.values())
    assert np.isfinite(caught.value.losses[: caught.value.step]).all()


def test_a_result_stays_as_it_was_when_training_goes_on():
    guide = AutoFlow(correlated, small, start="init")
    first = fit(correlated, guide, **SMALL)
    before = first.sample(50)["z"]
    second = fit(correlated, guide, **{**SMALL, "lr": 5e-2})
    assert torch.equal(first.sample(50)["z"], before)
    after = second.sample(50)["z"]
    assert not torch.equal(after, before)
    assert torch.equal(second.sample(50)["z"], after)
    torch.testing.assert_close(copy.deepcopy(guide).median()["z"], guide.median()["z"], atol=0.2, rtol=0)


@pytest.mark.slow
def test_single_steps_that_are_not_finite_are_skipped():
    calls = []

    def model():
        calls.append(1)
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, torch.tensor(torch.nan if len(calls) == 30 else 1.0)), obs=torch.tensor(1.0))

    with pytest.warns(UserWarning, match="NaN"):
        result = fit(model, AutoFlow(model, small, start="init"), **{**SMALL, "num_particles": 1})
    assert result.skipped == 1
    assert np.isnan(result.losses).sum() == 1


@pytest.mark.slow
def test_a_sub_sampled_likelihood_has_an_honest_error_and_no_khat():
    data = torch.randn(200) * 5

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", 200, subsample_size=5) as rows:
            pyro.sample("y", dist.Normal(mu, 1.0), obs=data[rows])

    result = fit(model, AutoFlow(model, small, start="init"), **SMALL)
    assert np.isnan(result.khat)
    spread = 200 * data.square().mul(0.5).std().item() / 5**0.5  # of one minibatch's log-likelihood
    assert result.elbo.se == pytest.approx(spread / 1_000**0.5, rel=0.3)


def test_fit_leaves_the_global_generator_and_repeats_itself():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    runs = []
    for _ in range(2):
        pyro.clear_param_store()
        guide = AutoFlow(correlated, small, init_loc_fn=lambda _: torch.zeros(2), start="init")
        runs.append(fit(correlated, guide, **(SMALL | {"steps": 40})))
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(runs[0].losses, runs[1].losses)
    assert torch.equal(runs[0].sample(5)["z"], runs[1].sample(5)["z"])


def test_everything_runs_in_float64(float64):
    guide = AutoFlow(mixed, small_nsf, start="init")
    result = fit(mixed, guide, **{**SMALL, "steps": 20})
    assert all(p.dtype == torch.float64 for p in result.params.values())
    assert result.sample(3)["scale"].dtype == torch.float64


@pytest.mark.parametrize("name", ["train", "forward", "tree", "half", "parameters"])
def test_parts_may_have_the_names_of_a_modules_own_attributes(name):
    bijection = pf.Chain({name: pf.ActNorm(2), "last": pf.Reverse(2)})
    transform = FlowTransform(bijection)
    assert transform.params.keys() == {name, "last"}
    assert len(list(transform.parameters())) == 2
    again = FlowTransform(bijection, seed=1)
    again.load_state_dict(transform.state_dict())
    torch.testing.assert_close(again(torch.ones(2)), transform(torch.ones(2)))
