"""``fit(estimator=)``: path gradients reach the flows of every guide, by a handler that replaces them at the sites."""

import jax
import numpy as np
import numpyro
import pyro
import pytest
import torch
from languages import COVARIANCE, MEAN, SHORT, correlated, identity_flow, small
from numpyro import handlers
from numpyro.contrib.control_flow import scan

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows.core.params import flatten, map_params
from ppl_flows.numpyro.flow_handlers import EvaluationMode as NumPyroEvaluationMode
from ppl_flows.numpyro.flow_handlers import PathGradients as NumPyroPathGradients
from ppl_flows.pyro.flow_handlers import EvaluationMode as PyroEvaluationMode
from ppl_flows.pyro.flow_handlers import PathGradients as PyroPathGradients

L = np.linalg.cholesky(COVARIANCE)
EXACT = {"l": np.tril(L, -1) + np.diag(np.log(np.diag(L))), "b": MEAN}  # of a TriangularAffine: the posterior itself


def exact_flow(lang):
    return lang.flow("q", pf.TriangularAffine(2), params={k: lang.array(v) for k, v in EXACT.items()})


def by_hand(lang, wrap=lambda flow: flow, infer=None):
    """A hand-written guide at the exact posterior of ``correlated``."""

    def guide():
        lang.ppl.sample("z", wrap(exact_flow(lang)), infer=infer or {})

    return guide


def elbo_gradient(lang, model, guide, estimator, seed=0):
    """Of one draw, for all parameters."""
    if lang.ppl is pyro:
        pyro.set_rng_seed(seed)
        pyro.infer.Trace_ELBO().loss_and_grads(model, PyroPathGradients(estimator=estimator)(guide))
        parameters = [p for _, p in pyro.get_param_store().named_parameters()]
        gradient = np.concatenate([p.grad.numpy().ravel() for p in parameters])
        pyro.infer.util.zero_grads(parameters)
        return gradient
    trace = handlers.trace(handlers.seed(guide, 0)).get_trace()
    params = {name: site["value"] for name, site in trace.items() if site["type"] == "param"}
    elbo, scored = numpyro.infer.Trace_ELBO(), NumPyroPathGradients(guide, estimator=estimator)
    gradient = jax.grad(lambda p: elbo.loss(jax.random.key(seed), p, model, scored))(params)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


def numpyro_draw(guide, seed=0):
    """What ``Trace_ELBO`` draws with this seed: as in its ``loss``."""
    _, guide_seed = jax.random.split(jax.random.key(seed))
    trained = handlers.substitute(guide, {"q": EXACT})  # or the parameters would take a key of their own
    return np.asarray(handlers.trace(handlers.seed(trained, guide_seed)).get_trace()["z"]["value"])


def in_plates(lang):
    """Three rows, each as in ``correlated``, and a guide of one flow for all."""

    def model():
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("z", lang.dist.MultivariateNormal(lang.array(MEAN), lang.array(COVARIANCE)))

    def guide():
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("z", exact_flow(lang))

    return model, guide


def as_one_event(lang):
    def model():
        rows = lang.dist.MultivariateNormal(lang.array(MEAN), lang.array(COVARIANCE)).expand((3,))
        lang.ppl.sample("z", rows.to_event(1))

    return model, by_hand(lang, lambda flow: flow.expand((3,)).to_event(1))


def masked(lang):
    return correlated(lang), by_hand(lang, lambda flow: flow.mask(True))


def bare(lang):
    return correlated(lang), by_hand(lang)


@pytest.mark.parametrize("make", [bare, in_plates, as_one_event, masked])
def test_at_the_exact_posterior_the_path_gradient_of_a_hand_written_guide_is_zero(lang, make):
    model, guide = make(lang)
    path, reparam = (elbo_gradient(lang, model, guide, estimator) for estimator in ("path", "reparam"))
    np.testing.assert_allclose(path, 0, atol=1e-9)  # float64: rounding of scores of size 10
    assert np.abs(reparam).max() > 0.1, "the noise that the path gradient is free of"


def test_the_path_gradient_of_a_hand_written_guide_is_that_of_the_draw_alone(lang):
    """By hand, with z = L u + b: d loss / d b = d (log q(z) - log p(z)) / d z, the parameters of q held."""
    drawn = []

    def model():
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array([1.0, -1.0]), 2.0).to_event(1))
        drawn.append(z.detach() if lang.ppl is pyro else z)

    gradient = elbo_gradient(lang, model, by_hand(lang), "path")
    # Pyro's parameters come as they were made, JAX's leaves by name
    z, of_b = (drawn[-1].numpy(), gradient[4:]) if lang.ppl is pyro else (numpyro_draw(by_hand(lang)), gradient[:2])
    by_q = -np.linalg.solve(COVARIANCE, z - MEAN)
    by_p = -(z - np.array([1.0, -1.0])) / 4
    np.testing.assert_allclose(of_b, by_q - by_p, rtol=1e-9)


@pytest.mark.parametrize("estimator", ["path", "reparam"])
def test_a_flow_in_a_scan_of_numpyro_is_reached_too(estimator, float64):
    density = pfn.Flow(pf.TriangularAffine(2))

    def guide():
        scan(lambda carry, _: (carry, numpyro.sample("z", density)), 0.0, None, length=3)

    scored = NumPyroPathGradients(handlers.seed(guide, 0), estimator=estimator)
    site = handlers.trace(scored).get_trace()["z"]
    assert site["value"].shape == (3, 2)
    flow = getattr(site["fn"], "base_dist", site["fn"]) if not isinstance(site["fn"], pfn.Flow) else site["fn"]
    assert flow.path_gradients == (estimator == "path")


@pytest.mark.parametrize(
    ("estimator", "infer", "moves"),
    [
        ("path", None, False),
        ("reparam", None, True),
        (None, None, True),
        (None, {"near_posterior": True}, False),
        ("reparam", {"near_posterior": True}, True),
    ],
)
def test_fit_scores_a_hand_written_guide_as_it_is_told(lang, estimator, infer, moves):
    options = SHORT | {"steps": 40, "num_particles": 2, "lr": 1e-2, "tolerance": None, "draws": 10}
    guide = by_hand(lang, infer=infer)
    result = lang.fit(correlated(lang), guide, estimator=estimator, **options)
    params = result.params["q"] if lang.ppl is numpyro else {k: result.params[f"q.{k}"] for k in EXACT}
    moved = max(np.abs(np.asarray(params[k]) - EXACT[k]).max() for k in EXACT)
    # at the posterior the path gradient is 0 for every draw; Adam makes steps of some 1e-6 of its rounding
    assert moved > 1e-3 if moves else moved < 1e-4


@pytest.mark.parametrize(("start", "same"), [("full_rank", "path"), ("init", "reparam")])
@pytest.mark.slow_in_numpyro
def test_by_default_autoflow_is_on_the_path_where_it_started_near_the_posterior(lang, start, same):
    def losses(estimator):
        pyro.clear_param_store()
        guide = lang.AutoFlow(correlated(lang), small, start=start)
        options = SHORT | {"steps": 20, "num_particles": 2, "draws": 10}
        return lang.fit(correlated(lang), guide, estimator=estimator, **options).losses

    by_default = losses(None)
    np.testing.assert_array_equal(by_default, losses(same))
    assert not np.array_equal(by_default, losses({"path": "reparam", "reparam": "path"}[same]))


def test_other_guides_of_the_host_are_left_as_they_are(lang):
    guide = lang.autoguide.AutoNormal(correlated(lang))
    result = lang.fit(correlated(lang), guide, estimator="path", **(SHORT | {"lr": 0.1}))
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 1


def test_a_flow_under_the_hosts_own_svi_is_reparameterised(lang):
    guide = lang.AutoFlow(correlated(lang), identity_flow)
    lang.set_up(guide)
    assert guide.start == "full_rank"
    if lang.ppl is pyro:
        nodes = pyro.poutine.trace(guide).get_trace().nodes
    else:
        nodes = handlers.trace(handlers.seed(guide, 0)).get_trace()
    (site,) = [s for s in nodes.values() if s["type"] == "sample" and "latent" in s["name"]]
    assert site["infer"]["near_posterior"]
    assert not site["fn"].path_gradients


def test_path_gradients_are_an_option_that_travels_with_the_flow():
    flow = pfp.Flow(pf.iaf(2), path_gradients=True)
    assert flow.expand((3,)).path_gradients
    assert not pfp.Flow(pf.iaf(2)).expand((3,)).path_gradients
    flow = pfn.Flow(pf.iaf(2), path_gradients=True)
    assert jax.tree.map(lambda a: a, flow).path_gradients
    assert jax.jit(lambda f: f)(flow).path_gradients


@pytest.mark.parametrize("shell", [pfp, pfn], ids=["pyro", "numpyro"])
def test_a_score_passes_the_gradient_of_the_value_and_of_the_path_context_alone(shell):
    bijection = pf.real_nvp(2, flow_layers=2, hidden=(4,), context_dim=1)
    params = map_params(
        lambda _, a: a + 0.1 * np.random.default_rng(0).normal(size=a.shape), bijection.init(np.random.default_rng(0))
    )
    y, context = np.array([0.3, -0.5]), np.array([0.7])
    options = {"path_gradients": True}
    if shell is pfp:
        leaves = [torch.tensor(a, requires_grad=True) for a in (y, context, context)]
        tree = map_params(lambda _, a: torch.tensor(a, requires_grad=True), params)
        density = shell.Flow(bijection, tree, context=leaves[1], path_context=leaves[2], **options)
        density.log_prob(leaves[0]).backward()
        weights = [t.grad for _, t in flatten(tree)]
        of_y, of_context, of_path = (t.grad for t in leaves)
        assert of_context is None
        assert all(g is None for g in weights)
    else:

        def score(y, context, path_context, params):
            density = shell.Flow(bijection, params, context=context, path_context=path_context, **options)
            return density.log_prob(y)

        tree = jax.tree.map(jax.numpy.asarray, params)
        of_y, of_context, of_path, weights = jax.grad(score, argnums=(0, 1, 2, 3))(y, context, context, tree)
        assert not np.any(of_context)
        assert not any(np.any(g) for g in jax.tree.leaves(weights))
    assert np.all(np.asarray(of_y) != 0)
    assert np.all(np.asarray(of_path) != 0)


def test_evaluation_mode_is_for_the_sites_and_leaves_the_users_transform_training():
    transform = pfp.FlowTransform(pf.BatchNorm(2)).train()
    before = transform.params["state"]["mean"].clone()
    data = torch.randn(5, 2) + 3

    def model():
        with pyro.plate("rows", 5):
            pyro.sample("y", pfp.Flow(transform), obs=data)

    with PyroEvaluationMode():
        pyro.poutine.trace(model).get_trace().compute_log_prob()
    assert torch.equal(transform.params["state"]["mean"], before)
    assert transform.training
    pyro.poutine.trace(model).get_trace().compute_log_prob()
    assert not torch.equal(transform.params["state"]["mean"], before)


def test_evaluation_mode_in_numpyro_scores_with_the_running_averages():
    data = np.random.default_rng(0).normal(3.0, size=(5, 2))

    def model():
        with numpyro.plate("rows", 5):
            numpyro.sample("y", pfn.flow("f", pf.BatchNorm(2), training=True), obs=data)

    def scores(model):
        trace = handlers.trace(handlers.seed(model, 0)).get_trace()
        return np.asarray(trace["y"]["fn"].log_prob(data)), trace["f$state"]["value"]

    measured, state = scores(NumPyroEvaluationMode(model))
    trained, moved = scores(model)
    expected = pfn.Flow(pf.BatchNorm(2), pf.BatchNorm(2).init(None)).log_prob(data)
    np.testing.assert_allclose(measured, expected)
    assert not np.allclose(trained, measured)
    assert not np.any(state["params"]["state"]["mean"])
    assert np.all(moved["params"]["state"]["mean"] > 0.1)


@pytest.mark.slow_in_numpyro
def test_a_flow_that_is_no_site_is_measured_in_evaluation_mode_too(lang):
    """Scored through a factor: what the handler of sites cannot see, ``flow`` asks for."""
    data = lang.array(np.random.default_rng(0).normal(1.0, 3.0, size=(50, 1)))

    def model():
        density = lang.flow("f", pf.Chain([pf.Elementwise(1), pf.BatchNorm(1)]), training=True)
        lang.ppl.factor("score", density.log_prob(data).sum())

    result = lang.fit(model, lambda: None, steps=40, num_particles=1, draws=2, tolerance=None, progress=False)
    state = result.params.get("f$state.1.state.mean")  # in Pyro
    mean = result.params["f$state"]["params"]["1"]["state"]["mean"] if state is None else state
    assert np.all(np.asarray(mean) != 0)
    # the batch's own statistics, which training uses, give the data another score than the averages
    assert abs(result.elbo.mean + result.losses[-1]) > 1e-3
