"""Batches of independent flows: ``Batched``, ``flow(batch_shape=)`` and ``random_flow``."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
import numpyro.infer
import pyro
import pyro.distributions
import pyro.infer
import pytest
import torch
from cases import perturbed
from numpyro.infer.autoguide import AutoNormal as NumPyroAutoNormal
from pyro.infer.autoguide import AutoNormal as PyroAutoNormal

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.core.params import flatten, map_params
from ppl_flows.files import load, save

CONTEXT = 2
PARTS = (
    pf.nsf(3, flow_layers=2, hidden=(4,)),
    pf.iaf(3, flow_layers=2, hidden=(4,)),
    pf.bnaf(2, flow_layers=1),
    pf.guide_flow(3, flow_layers=2),
    pf.residual_flow(2, flow_layers=1, hidden=(4,)),
    pf.Permute(3),
    pf.nsf(2, flow_layers=1, hidden=(4,), context_dim=CONTEXT),
    pf.glow((2, 2, 1), scales=1, flow_layers=1, hidden=3),
)
LANGUAGES = (
    SimpleNamespace(
        name="pyro",
        array=torch.tensor,
        ppl=pyro,
        dist=pyro.distributions,
        pf=ppl_flows.pyro,
        AutoNormal=PyroAutoNormal,
        given=lambda model, values: pyro.condition(model, data=values),
        trace=lambda model: pyro.poutine.trace(model).get_trace().nodes,
    ),
    SimpleNamespace(
        name="numpyro",
        array=jnp.asarray,
        ppl=numpyro,
        dist=numpyro.distributions,
        pf=ppl_flows.numpyro,
        AutoNormal=NumPyroAutoNormal,
        given=lambda model, values: numpyro.handlers.substitute(model, data=values),
        trace=lambda model: numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(),
    ),
)


@pytest.fixture(params=LANGUAGES, ids=lambda lang: lang.name)
def lang(request):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return request.param


def one(params, index):
    return map_params(lambda _, a: a[index], params)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{type(part).__name__}-{part.event_shape}")
def test_every_element_has_its_own_bijection(part, convert):
    batched, rng = pf.Batched(part, batch=(2, 3)), np.random.default_rng(0)
    params = perturbed(batched)
    x = rng.standard_normal((5, 2, 3, *part.event_shape))
    context = rng.standard_normal((2, 3, CONTEXT)) if part.context_dim else None
    args = (map_params(lambda _, a: convert(a), params), convert(x), None if context is None else convert(context))
    forward, inverse = batched.forward, batched.inverse
    if convert is jnp.asarray:
        forward, inverse = jax.jit(forward), jax.jit(inverse)  # one program each instead of one an operation
    y, log_det = forward(*args)
    back, inverse_log_det = inverse(args[0], y, args[2])
    for i in np.ndindex(2, 3):
        given = None if context is None else context[i]
        expected = part.forward(one(params, i), x[:, *i], given)
        np.testing.assert_allclose(np.asarray(y)[:, *i], expected[0], atol=1e-10)
        np.testing.assert_allclose(np.asarray(log_det)[:, *i], expected[1], atol=1e-10)
    np.testing.assert_allclose(back, x, atol=1e-6)
    np.testing.assert_allclose(inverse_log_det, -log_det, atol=1e-6)


def test_values_and_contexts_broadcast_against_the_batch():
    part = pf.nsf(2, flow_layers=1, hidden=(4,), context_dim=CONTEXT)
    batched, rng = pf.Batched(part, batch=(3, 1)), np.random.default_rng(0)
    params = perturbed(batched)
    x, context = rng.standard_normal(2), rng.standard_normal((4, CONTEXT))
    y, log_det = batched.forward(params, x, context)
    assert (y.shape, log_det.shape) == ((3, 4, 2), (3, 4))
    for i, j in np.ndindex(3, 4):
        np.testing.assert_allclose(y[i, j], part.forward(one(params, (i, 0)), x, context[j])[0], atol=1e-12)
    with pytest.raises(ValueError, match=r"of x \(5,\).* of the bijection \(3,\) do not broadcast"):
        pf.Batched(pf.Permute(2), batch=(3,)).forward({}, np.zeros((5, 2)))


def test_a_batch_inside_a_chain_is_the_batch_of_the_chain():
    inside = pf.Chain([pf.Permute(3), pf.Inverse(pf.Batched(pf.iaf(3, hidden=(4,)), batch=(2,)))])
    params = perturbed(inside)
    x = np.random.default_rng(0).standard_normal(3)
    y, log_det = inside.forward(params, x)
    assert (inside.batch_shape, y.shape, log_det.shape) == ((2,), (2, 3), (2,))
    np.testing.assert_allclose(inside.inverse(params, y)[0], np.broadcast_to(x, (2, 3)), atol=1e-8)


def test_each_element_starts_at_its_own_data():
    batched, rng = pf.Batched(pf.ActNorm(2), batch=(2,)), np.random.default_rng(0)
    data = rng.standard_normal((500, 2, 2)) * np.array([[1.0, 2.0], [3.0, 4.0]]) + np.array([[5.0, 6.0], [7.0, 8.0]])
    params, x, _ = batched.observe(batched.init(rng), data, stage="start")
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(x.std(0), 1, atol=1e-5)
    assert all(a.shape[0] == 2 for _, a in flatten(params))


def test_a_batch_is_saved_like_any_bijection(tmp_path):
    batched = pf.Batched(pf.nsf(2, flow_layers=1, hidden=(4,)), batch=(3,))
    params = perturbed(batched)
    save(tmp_path / "flow.safetensors", batched, params)
    loaded, values = load(tmp_path / "flow.safetensors")
    assert loaded == batched
    for (_, a), (_, b) in zip(sorted(flatten(values)), sorted(flatten(params)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: pf.Batched(pf.Affine(), batch=(2,)), TypeError, "Batched takes bijections such as"),
        (lambda: pf.Batched(pf.Permute(2), batch=()), ValueError, r"at least one number, got \(\)"),
        (lambda: pf.Batched(pf.Permute(2), batch=(2, 0)), ValueError, "every entry of batch must be at least 1, got 0"),
        (
            lambda: pf.Batched(pf.Batched(pf.Permute(2), batch=(2,)), batch=(3,)),
            ValueError,
            r"batch shape \(2,\) already",
        ),
        (
            lambda: pf.PerPixel(pf.Batched(pf.Permute(2), batch=(2,)), height=2, width=2),
            ValueError,
            "make the whole Batched",
        ),
    ],
)
def test_batches_that_cannot_be_made_are_errors(make, error, match):
    with pytest.raises(error, match=match):
        make()


def populations(lang, data, dim):
    """One flow for every row of a plate, in one call."""

    def model():
        with lang.ppl.plate("groups", len(data[0])):
            bijection = pf.maf(dim, flow_layers=2, hidden=(8,))
            density = lang.pf.flow("density", bijection, batch_shape=(len(data[0]),))
            with lang.ppl.plate("rows", len(data), dim=-2):
                lang.ppl.sample("x", density, obs=lang.array(data))

    return model


def test_the_flows_of_a_plate_learn_each_their_own_population(lang):
    rng = np.random.default_rng(0)
    centres = np.array([[-3.0, 0.0], [0.0, 3.0], [3.0, -3.0]])
    data = (centres + 0.5 * rng.standard_normal((200, 3, 2))).astype(np.float32)
    model = populations(lang, data, 2)
    trained = lang.pf.fit(
        model, lambda: None, steps=150, num_particles=1, lr=3e-2, tolerance=None, draws=2, progress=False
    )
    assert trained.losses[-1] < trained.losses[0] - 500
    if lang.name == "pyro":
        density = lang.pf.flow("density", pf.maf(2, flow_layers=2, hidden=(8,)), batch_shape=(3,))
        draws = density.sample((2_000,)).detach().numpy()
    else:
        density = lang.pf.Flow(pf.Batched(pf.maf(2, flow_layers=2, hidden=(8,)), batch=(3,)), trained.params["density"])
        draws = np.asarray(density.sample(jax.random.key(0), (2_000,)))
    assert tuple(density.batch_shape) == (3,)
    np.testing.assert_allclose(draws.mean(0), centres, atol=0.5)


def test_a_random_flow_samples_its_parameters(lang):
    bijection = pf.iaf(2, flow_layers=1, hidden=(4,))

    def model():
        density = lang.pf.random_flow("density", bijection, lang.dist.Normal(lang.array(0.0), 0.3))
        return lang.ppl.sample("x", density)

    sites = lang.trace(model)
    shapes = {f"density.{leaf}": tuple(a.shape) for leaf, a in flatten(bijection.init(np.random.default_rng(0)))}
    assert {n: tuple(sites[n]["value"].shape) for n in sites if n.startswith("density.")} == shapes
    other = lang.trace(lambda: [model(), lang.pf.random_flow("b", bijection, lang.dist.Normal(lang.array(0.0), 1.0))])
    name = next(iter(shapes)).removeprefix("density.")
    assert not np.allclose(other[f"b.{name}"]["value"], other[f"density.{name}"]["value"])


def test_a_random_flow_scores_like_the_flow_of_its_draw(lang):
    bijection = pf.maf(2, flow_layers=1, hidden=(4,))
    params = map_params(lambda _, a: lang.array(a.astype(np.float32)), perturbed(bijection))
    x = lang.array(np.ones((3, 2), dtype=np.float32))

    def model():
        return lang.pf.random_flow(
            "f", bijection, lambda _, shape: lang.dist.Normal(lang.array(0.0), 1.0).expand(shape).to_event(len(shape))
        )

    values = {f"f.{leaf}": a for leaf, a in flatten(params)}
    given = lang.given(model, values)
    with numpyro.handlers.seed(rng_seed=0):
        scored = given().log_prob(x)
    np.testing.assert_allclose(scored, lang.pf.Flow(bijection, params).log_prob(x), rtol=1e-6)


@pytest.mark.slow_in_numpyro
def test_a_bayesian_flow_is_fitted_by_svi(lang):
    rng = np.random.default_rng(0)
    data = (2.0 + 0.5 * rng.standard_normal((100, 2))).astype(np.float32)

    def model():
        density = lang.pf.random_flow(
            "f", pf.maf(2, flow_layers=1, hidden=(4,)), lang.dist.Normal(lang.array(0.0), 1.0)
        )
        with lang.ppl.plate("rows", len(data)):
            lang.ppl.sample("x", density, obs=lang.array(data))

    guide = lang.AutoNormal(model)
    result = lang.pf.fit(model, guide, steps=150, num_particles=4, lr=3e-2, draws=50, progress=False)
    assert np.mean(result.losses[-20:]) < np.mean(result.losses[:20]) - 50
    draws = result.sample(50)
    weights = next(np.asarray(value) for name, value in draws.items() if name.endswith("w0"))
    assert weights.shape[0] == 50
    assert weights.std(0).min() > 0, "a posterior, not a point"


def test_a_random_flow_in_a_plate_is_a_batch_of_flows(lang):
    def model():
        with lang.ppl.plate("groups", 3):
            density = lang.pf.random_flow(
                "f", pf.maf(2, flow_layers=1, hidden=(4,)), lang.dist.Normal(lang.array(0.0), 1.0)
            )
            lang.ppl.sample("x", density)
        return density

    assert tuple(lang.trace(model)["x"]["value"].shape) == (3, 2)


def test_priors_that_do_not_fit_are_errors(lang):
    def wrong(_, shape):
        return lang.dist.Normal(lang.array(np.zeros(shape)), 1.0)

    with pytest.raises(ValueError, match=r"must have event shape .*use expand"):
        lang.trace(lambda: lang.pf.random_flow("f", pf.maf(2, hidden=(4,)), wrong))
    with pytest.raises(ValueError, match="keeps state"):
        lang.pf.random_flow("f", pf.BatchNorm(2), lang.dist.Normal(lang.array(0.0), 1.0))
