"""Contractive residual layers: their linearised networks, their random numbers, the bound, the estimate, training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_laws as laws
import torch
from cases import JAX, LIBRARIES, TORCH, context, name_of, perturbed, points
from scipy import stats

import ppl_flows as pf
from ppl_flows.conditioners.mlp import MLP
from ppl_flows.core.namespace import ACTIVATIONS
from ppl_flows.core.params import map_params
from ppl_flows.numerics.hutchinson_probes import PERIOD, next_step, random_probes
from ppl_flows.numerics.jacobian_products import activation_and_slope, linearize, lip_swish

RNG = np.random.default_rng(4)
NETWORKS = [(name, (6, 5)) for name in (*ACTIVATIONS, "lip_swish")]
NETWORKS += [("tanh", hidden) for hidden in ((), (6,), (6, 5, 4))]


@pytest.mark.parametrize(("name", "hidden"), NETWORKS)
def test_a_linearised_network_is_its_autodiff_jacobian(name, hidden):
    mlp = MLP(hidden, activation="silu" if name == "lip_swish" else name).bind(3, 3)
    params = map_params(lambda _, a: jnp.asarray(a + RNG.standard_normal(a.shape)), mlp.init(RNG))
    act = lip_swish(0.7) if name == "lip_swish" else activation_and_slope(name)
    x, v = jnp.asarray(RNG.standard_normal((2, 4, 5, 3)))

    def at(x):
        layers = range(len(hidden) + 1)
        return linearize(x, [params[f"w{i}"] for i in layers], [params[f"b{i}"] for i in layers], [act] * len(hidden))

    @jax.jit
    def found(x, v):
        g = at(x)
        J = jnp.vectorize(jax.jacfwd(lambda x: at(x).value), signature="(n)->(n,n)")(x)
        return g.value, g.jacobian(), g.trace(), g.jvp(v), g.vjp(v), J, mlp(params, x, None)

    value, jacobian, trace, jvp, vjp, J, expected = (np.asarray(a) for a in found(x, v))
    if name != "lip_swish":
        np.testing.assert_allclose(value, expected, atol=1e-12)
    np.testing.assert_allclose(jacobian, J, atol=1e-12)
    np.testing.assert_allclose(trace, np.trace(J, axis1=-2, axis2=-1), atol=1e-12)
    np.testing.assert_allclose(jvp, np.einsum("...ij,...j", J, v), atol=1e-12)
    np.testing.assert_allclose(vjp, np.einsum("...ij,...i", J, v), atol=1e-12)


def test_lip_swish_has_slopes_within_one_for_every_beta():
    for beta in (1e-3, 0.1, 1.0, 30.0):
        slope = lip_swish(beta)(np.linspace(-50, 50, 10_001) / beta)[1]
        assert slope.min() > -0.1
        assert 0.999 < slope.max() < 1


# rows next to each other, on grids fine and coarse and in few and many dimensions, and the steps of one row
GRIDS = [(scale, dim) for scale in (1e-4, 1.0, 1e3) for dim in (1, 2, 40)]


@pytest.mark.parametrize(("scale", "dim"), [*GRIDS, (None, 3)])
def test_neighbouring_rows_and_successive_steps_have_independent_numbers(scale, dim):
    n = 2_000
    if scale is None:
        x = RNG.standard_normal(dim)
        v, u = (np.stack(a) for a in zip(*(random_probes(x, np.float64(step)) for step in range(n)), strict=True))
    else:
        v, u = random_probes(scale * np.arange(n)[:, None] * np.ones(dim), np.zeros(()))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert set(np.unique(v)) == {-1.0, 1.0}
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(u[lag:], u[:-lag])[0, 1]) < 4 / n**0.5
        assert abs((v[lag:] * v[:-lag]).mean()) < 4 / n**0.5
    assert np.abs((v * (u - 0.5)[:, None]).mean(0)).max() < 4 * 0.29 / n**0.5
    pairs = np.einsum("ri,rj->ij", v, v) / n - np.eye(dim)
    assert np.abs(pairs).max() < 4.5 / n**0.5  # up to 780 pairs


@pytest.mark.slow
def test_the_numbers_are_the_same_in_every_library_and_dtype_and_survive_nan():
    x, step = 3 * RNG.standard_normal((50, 4)).astype("float32"), np.float32(12345)
    expected = random_probes(x.astype("float64"), np.float64(step))
    for library in LIBRARIES:
        for dtype in ("float32", "float64"):
            found = random_probes(library.array(x, dtype), library.array(step, dtype))
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)
        v, u = random_probes(library.array([[np.nan, np.inf]]), library.array(step))
        assert np.all(np.isfinite(np.asarray(v)))
        assert np.all(np.isfinite(np.asarray(u)))


def test_the_counter_starts_again_where_float32_would_stop_counting():
    assert next_step(np.float32(PERIOD - 2)) == PERIOD - 1
    assert next_step(np.float32(PERIOD - 1)) == 0


BOUNDED = [
    pf.ContractiveResidual(4, lipschitz=c, hidden=h, context_dim=k) for c, h, k in ((0.9, (32, 32), 0), (0.5, (), 3))
]


@pytest.mark.parametrize("bijection", BOUNDED, ids=name_of)
def test_it_contracts_whatever_the_weights(bijection):
    # nearly of rank one, and aligned: where units are active little is lost on the way
    params = map_params(lambda _, a: a + 50.0, JAX.params(perturbed(bijection, 8.0)))
    x, c = jnp.asarray(100 * points(bijection, 40)), context(bijection, 40)
    jacobian = jax.vmap(jax.jacrev(lambda x, c: bijection.forward(params, x, c)[0] - x), (0, None if c is None else 0))
    norms = jnp.linalg.matrix_norm(jacobian(x, c), ord=2)
    assert norms.max() <= bijection.lipschitz * (1 + 1e-12)
    assert norms.max() > 0.7 * bijection.lipschitz, "the bound is far from reached, so that this shows nothing"


@pytest.mark.parametrize(("dtype", "digits"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("lipschitz", [0.9, 0.99])
def test_the_inverse_has_the_precision_of_the_dtype_everywhere(dtype, digits, lipschitz):
    bijection = pf.ContractiveResidual(4, lipschitz=lipschitz)
    params = TORCH.params(perturbed(bijection, 8.0), dtype)
    x = TORCH.array(points(bijection, 200) * 10.0 ** np.linspace(-3, 6, 200)[:, None], dtype)
    back = bijection.inverse(params, bijection.forward(params, x)[0])[0]
    assert ((back - x).norm(dim=-1) <= digits * (1 + x.norm(dim=-1))).all()


def estimated(bijection, params, x, steps, run="forward"):
    """log_det and its derivatives along three directions of params and x, for every step: ``(steps, rows + 3)``."""
    rng = np.random.default_rng(8)
    directions = [map_params(lambda _, a: TORCH.array(rng.standard_normal(a.shape)), {**params, "x": x}) for _ in "abc"]

    def total(leaves, step):
        given = {k: v for k, v in leaves.items() if k != "x"}
        log_det = getattr(bijection, run)({**given, "state": {"step": step}}, leaves["x"])[1]
        return log_det.sum(), log_det

    leaves = {**TORCH.params(params), "x": TORCH.array(x)}
    gradients, log_det = torch.func.vmap(torch.func.grad(total, has_aux=True), (None, 0))(leaves, steps)
    slopes = [sum((gradients[k] * d[k]).flatten(1).sum(-1) for k in d) for d in directions]
    return torch.cat([log_det, torch.stack(slopes, -1)], -1)


def assert_unbiased(exact, estimating, params, x, steps, run="forward"):
    expected = estimated(exact, params, x, torch.zeros(1, dtype=torch.float64), run)[0]
    found = estimated(estimating, params, x, torch.arange(float(steps), dtype=torch.float64), run)
    error = found.std(0) / steps**0.5
    assert (error < 0.1 * expected.abs().max()).all(), "too noisy to show a bias"
    assert (error > 0).all()
    assert ((found.mean(0) - expected).abs() < 4 * error).all()


@pytest.mark.parametrize(("dim", "run"), [(1, "forward"), (4, "forward"), (4, "inverse")])
def test_the_estimate_and_its_gradient_are_unbiased_over_steps(dim, run):
    """With one term that is always kept, nearly all is Russian roulette's; in one dimension nothing else is random."""
    exact, estimating = (
        pf.ContractiveResidual(dim, hidden=(8,), lipschitz=0.8, exact=e, terms=1) for e in (True, False)
    )
    # aligned matrices and active units: J is near its bound, and the late terms count
    params = map_params(lambda _, a: a + 1.5, perturbed(exact, 0.5))
    assert_unbiased(exact, estimating, params, 0.3 * points(exact, 3), 3_000, run)


@pytest.mark.slow
def test_the_estimate_obeys_the_laws_that_noise_allows():
    bijection = pf.ContractiveResidual(4, hidden=(6, 5), exact=False)
    laws.test_the_inverse_undoes_the_forward_map_the_same_in_every_library(bijection)
    laws.test_a_batch_is_a_loop_over_its_rows(bijection)
    laws.test_values_and_gradients_are_finite_far_out(bijection)
    laws.test_it_runs_under_jax_vmap(bijection)


def test_only_a_training_step_advances_the_noise():
    bijection = pf.ContractiveResidual(40, hidden=(8,))
    params, y = bijection.init(RNG), RNG.standard_normal((6, 40))
    assert pf.split(params)[1].keys() == {"state"}, "above dim 32 log_det is estimated"
    for stage in ("start", "settle"):
        same, *out = bijection.observe(params, y, stage=stage)
        assert same["state"]["step"] == params["state"]["step"]
        np.testing.assert_array_equal(out[1], bijection.inverse(params, y)[1])
    new, x, log_det = bijection.observe(params, y)
    assert new["state"]["step"] == params["state"]["step"] + 1
    np.testing.assert_array_equal(log_det, bijection.inverse(new, y)[1])
    assert np.abs(log_det - bijection.inverse(params, y)[1]).min() > 0
    np.testing.assert_array_equal(bijection.observe(params, x, forward=True)[2], bijection.forward(new, x)[1])
    assert "state" not in pf.ContractiveResidual(32).init(RNG)


def ring(rows):
    angle = RNG.uniform(0, 2 * np.pi, rows)
    return torch.tensor(2 * np.stack([np.cos(angle), np.sin(angle)], -1) + 0.2 * RNG.standard_normal((rows, 2)))


@pytest.mark.parametrize("exact", [True, False])
def test_a_density_estimate_moves_every_layer_and_its_loss_falls(exact):
    flow = pf.residual_flow(2, flow_layers=3, hidden=(16, 16), exact=exact)
    data, start = ring(300), flow.init(np.random.default_rng(0))
    weights, state = pf.split(map_params(lambda _, a: torch.tensor(a), start))
    leaves = [a.requires_grad_() for a in jax.tree.leaves(weights)]
    optimizer = torch.optim.Adam(leaves, lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        params, x, log_det = flow.observe(pf.merge(weights, state), data)
        state = pf.split(params)[1]
        loss = (0.5 * x.square().sum(-1) + np.log(2 * np.pi) - log_det).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < losses[0] - 0.3
    for leaf, before in zip(leaves, jax.tree.leaves(pf.split(start)[0]), strict=True):
        assert np.all(np.abs(leaf.detach().numpy() - before).reshape(3, -1).max(-1) > 1e-3)


def test_the_recipe_starts_next_to_the_identity_and_scores_in_one_pass():
    flow = pf.residual_flow(4, context_dim=3)
    assert isinstance(flow, pf.Inverse)
    x, c = points(flow), context(flow)
    y, log_det = flow.forward(flow.init(RNG), x, c)
    assert np.abs(y - x).max() < 0.3
    assert np.abs(log_det).max() < 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.ContractiveResidual(0), "dim must be at least 1"),
        (lambda: pf.ContractiveResidual(2, lipschitz=1.0), "lipschitz must lie between 0 and 1"),
        (lambda: pf.ContractiveResidual(2, terms=0), "terms must be at least 1"),
        (lambda: pf.ContractiveResidual(5000), "random probes exist up to dim=4095"),
        (lambda: pf.residual_flow(2, flow_layers=0), "flow_layers must be at least 1"),
    ],
)
def test_mistakes_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
