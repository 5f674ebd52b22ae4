"""What NumPyro's own tests demand of its transforms, distributions and guides, as laws of ours."""

import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from cases import ALL, JAX, context, name_of, perturbed, points
from jax import random
from numpyro import handlers
from numpyro.distributions import constraints
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta, AutoGuideList
from numpyro.infer.reparam import NeuTraReparam

import ppl_flows as pf
from ppl_flows.numpyro import AutoFlow, Flow, FlowTransform

SMALL = partial(pf.iaf, flow_layers=1, hidden=(4,))
COUPLING = pf.Coupling(3, conditioner=pf.MLP((4,)))
SWEPT = pf.MaskedAutoregressive(3, pf.RationalQuadratic(), conditioner=pf.MLP((4,)))
CONDITIONAL = pf.Coupling(3, conditioner=pf.MLP((4,)), context_dim=2)
OPTIONS = {
    "coupling": (COUPLING, {}),
    "swept": (SWEPT, {}),
    "conditional": (CONDITIONAL, {"context": jnp.ones((4, 2))}),
    "simplex": (COUPLING, {"support": constraints.simplex}),
}


def transform_of(bijection):
    return FlowTransform(bijection, JAX.params(perturbed(bijection)), context=JAX.array(context(bijection)))


@pytest.fixture(params=OPTIONS.values(), ids=OPTIONS)
def density(request):
    bijection, options = request.param
    return Flow(bijection, JAX.params(perturbed(bijection)), **options)


# --- transforms


@pytest.mark.parametrize("bijection", ALL, ids=name_of)
def test_a_transform_is_a_pytree_that_equals_its_copies_and_pairs_with_its_inverse(bijection):
    t = transform_of(bijection)
    leaves, structure = jax.tree.flatten(t)
    copy = jax.tree.unflatten(structure, leaves)
    assert t.eq(copy)
    assert t == copy, "the very same arrays"
    assert hash(structure) == hash(jax.tree.structure(copy)), "what jit looks a program up by"
    assert t != 1.0
    assert t.inv.inv is t
    inverse = t.inv
    assert t.inv is inverse
    assert pickle.loads(pickle.dumps(inverse)).inv.eq(t)
    assert inverse.domain is t.codomain
    assert inverse.codomain is t.domain
    x = (2, *points(bijection).shape)
    assert t.inverse_shape(t.forward_shape(x)) == x == inverse.forward_shape(inverse.inverse_shape(x))
    if leaves:
        moved = jax.tree.unflatten(structure, [leaves[0] + 1, *leaves[1:]])
        assert not t.eq(moved)


def test_transforms_are_made_returned_and_compared_inside_programs():
    params = JAX.params(perturbed(COUPLING))
    t = FlowTransform(COUPLING, params)
    assert jax.jit(lambda t, x: t)(t, 1.0).eq(t)
    assert jax.jit(lambda t, x: t)(t.inv, 1.0).eq(t.inv)
    assert jax.jit(lambda a, b: a.eq(b))(t, FlowTransform(COUPLING, params))
    stacked = jax.tree.map(lambda a: a[None], params)
    many = jax.jit(jax.vmap(lambda p: FlowTransform(COUPLING, p)))(stacked)
    assert jax.vmap(lambda own: own.eq(t))(many).all()


@pytest.mark.long
@pytest.mark.parametrize("bijection", [b for b in ALL if "NeuralODE" not in repr(b)], ids=name_of)
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_forward_mode_derivatives_are_those_of_reverse_mode(bijection, direction):
    t, x, rng = transform_of(bijection), JAX.array(points(bijection)), np.random.default_rng(0)
    v = x if direction == "forward" else t(x)

    def run(t, v):
        return t.call_with_intermediates(v) if direction == "forward" else t.inverse_and_log_det(v)

    @jax.jit
    def both(t, v, move):
        out, pushed = jax.jvp(run, (t, v), move)
        weights = jax.tree.map(jnp.ones_like, out)
        pulled = jax.vjp(run, t, v)[1](weights)
        return tuple(
            sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
            for one, other in ((pushed, weights), (pulled, move))
        )

    pushed, pulled = both(t, v, jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape)), (t, v)))
    np.testing.assert_allclose(pushed, pulled, rtol=1e-7, atol=1e-7)  # both exact, up to what an iteration leaves


# --- distributions


def test_a_flow_has_the_hosts_shapes(density):
    draws = density.sample(random.key(0), (2, 3))
    assert draws.shape == (2, 3, *density.batch_shape, *density.event_shape)
    assert density.support(draws).all()
    assert density.log_prob(draws).shape == (2, 3, *density.batch_shape)
    wide = density.expand((2, *density.batch_shape))
    assert wide.sample(random.key(0), (5,)).shape == (5, 2, *density.batch_shape, *density.event_shape)
    assert wide.expand((3, *wide.batch_shape)).batch_shape == (3, *wide.batch_shape)
    with pytest.raises(ValueError, match="Cannot broadcast"):
        wide.expand((3, *density.batch_shape))
    event = wide.to_event(len(wide.batch_shape))
    assert event.log_prob(wide.sample(random.key(0), (5,))).shape == (5,)
    assert (density.mask(False).log_prob(draws) == 0).all()
    assert density.has_rsample
    assert density.expand_by([2]).to_event(1).has_rsample


def test_a_flow_scores_a_draw_alike_with_intermediates_in_programs_and_after_a_pickle(density):
    draw, intermediates = density.sample_with_intermediates(random.key(0))
    expected = density.log_prob(draw)
    np.testing.assert_allclose(density.log_prob(draw, intermediates), expected, rtol=1e-7)
    np.testing.assert_allclose(jax.jit(density.log_prob)(draw), expected, rtol=1e-7)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(density)).log_prob(draw), expected, rtol=1e-12)
    returned = jax.jit(lambda: density)()
    np.testing.assert_allclose(returned.log_prob(draw), expected, rtol=1e-7)
    np.testing.assert_allclose(returned.sample(random.key(0)), draw, rtol=1e-7)


def test_gradients_of_scores_and_of_draws_are_finite_differences(density):
    key, step = random.key(0), 1e-5
    draw = density.sample(key)
    leaves, structure = jax.tree.flatten(density)

    @jax.jit
    def values(leaves):
        d = jax.tree.unflatten(structure, leaves)
        return jnp.stack([d.log_prob(draw).sum(), (d.sample(key) ** 2).sum()])

    rng = np.random.default_rng(1)
    move = [jnp.asarray(rng.standard_normal(a.shape)) for a in leaves]
    slopes = jax.jit(jax.jacrev(values))(leaves)
    expected = sum(jnp.tensordot(s, m, m.ndim) for s, m in zip(slopes, move, strict=True))
    up, down = (values([a + sign * step * m for a, m in zip(leaves, move, strict=True)]) for sign in (1, -1))
    # central differences: an error of step^2, and rounding by eps / step
    np.testing.assert_allclose(expected, (up - down) / (2 * step), rtol=1e-4, atol=1e-6)


def test_a_batch_of_flows_made_by_vmap_is_each_of_them():
    params = [JAX.params(perturbed(COUPLING, scale)) for scale in (0.1, 0.3)]
    stacked = jax.tree.map(lambda *a: jnp.stack(a), *params)
    many = jax.vmap(lambda p: Flow(COUPLING, p))(stacked)
    draws = jax.vmap(lambda d: d.sample(random.key(0)))(many)
    scores = jax.vmap(lambda d, x: d.log_prob(x))(many, draws)
    for p, draw, score in zip(params, draws, scores, strict=True):
        np.testing.assert_allclose(Flow(COUPLING, p).sample(random.key(0)), draw, rtol=1e-7)
        np.testing.assert_allclose(Flow(COUPLING, p).log_prob(draw), score, rtol=1e-7)


# --- guides


def two_sites():
    numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("b", dist.Normal(jnp.zeros(2), 1.0).to_event(1))


def observed():
    two_sites()
    numpyro.sample("y", dist.Normal(0.0, 1.0))


def run(guide, steps=30, **options):
    result = SVI(two_sites, guide, optax.adam(1e-2), Trace_ELBO()).run(
        random.key(0), steps, progress_bar=False, **options
    )
    assert np.isfinite(result.losses).all()
    return result.params


@pytest.mark.parametrize("options", [{"stable_update": True}, {"forward_mode_differentiation": True}], ids=str)
def test_the_hosts_run_trains_the_guide_in_every_mode(options):
    guide = AutoFlow(two_sites, SMALL, start="init")
    params = run(guide, **options)
    name = f"{guide.prefix}_flow"
    before = handlers.trace(handlers.seed(guide, 0)).get_trace()[name]["value"]
    trained, start = (pf.split(p)[0] for p in (params[name], before))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, trained, start)))


@pytest.mark.slow
@pytest.mark.parametrize("second", [lambda m: AutoFlow(m, SMALL, start="init"), AutoDelta], ids=["flow", "delta"])
def test_a_list_with_our_guides_has_the_hosts_methods(second):
    guide = AutoGuideList(two_sites)
    guide.append(AutoFlow(handlers.block(two_sites, hide=["b"]), SMALL, start="init"))
    guide.append(second(handlers.block(two_sites, hide=["a"])))
    params = run(guide)
    assert {n: v.shape for n, v in guide.sample_posterior(random.key(0), params).items()} == {"a": (), "b": (2,)}
    assert {n: v.shape for n, v in guide.median(params).items()} == {"a": (), "b": (2,)}
    predicted = Predictive(guide, params=params, num_samples=3)(random.key(0))
    assert (predicted["a"].shape, predicted["b"].shape) == ((3,), (3, 2))


@pytest.mark.slow
def test_neutra_and_predictive_take_the_guide():
    guide = AutoFlow(two_sites, SMALL, start="init")
    params = run(guide)
    neutra = NeuTraReparam(guide, params)
    kernel = NUTS(neutra.reparam(two_sites), max_tree_depth=3, forward_mode_differentiation=True)
    mcmc = MCMC(kernel, num_warmup=10, num_samples=10, progress_bar=False)
    mcmc.run(random.key(0))
    z = mcmc.get_samples()[f"{guide.prefix}_shared_latent"]
    assert {n: v.shape for n, v in neutra.transform_sample(z).items()} == {"a": (10,), "b": (10, 2)}
    assert np.isfinite(z).all()
    assert len(np.unique(z, axis=0)) > 1
    draws = guide.sample_posterior(random.key(1), params, sample_shape=(5,))
    assert Predictive(observed, draws)(random.key(2))["y"].shape == (5,)
    predicted = Predictive(observed, guide=guide, params=params, num_samples=3)(random.key(2))
    assert predicted["y"].shape == (3,)
    assert Predictive(guide, params=params, num_samples=4)(random.key(3))["b"].shape == (4, 2)
