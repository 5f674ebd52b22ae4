"""Continuous flows: closed forms, zuko's solver, the estimated trace, torch.func, what goes wrong, and training."""

import importlib
import sys

import jax
import numpy as np
import pytest
import test_laws as laws
import test_residual_flow as residual
import torch
from cases import JAX, LIBRARIES, NUMPY, TORCH, context, perturbed, points
from scipy.linalg import expm
from zuko.transforms import FreeFormJacobianTransform

import ppl_flows as pf
from ppl_flows.conditioners.mlp import MLP
from ppl_flows.core.params import map_params

TIGHT = {"rtol": 1e-11, "atol": 1e-11}
library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda lib: lib.name)


@library
def test_a_linear_field_moves_by_the_matrix_exponential(library):
    bijection = pf.NeuralODE(3, hidden=(), **TIGHT)
    x = points(bijection)
    A = np.random.default_rng(1).standard_normal((3, 3))
    params = {"w0": np.concatenate([A, np.zeros((1, 3))]), "b0": np.zeros(3)}
    for run, sign in ((bijection.forward, 1), (bijection.inverse, -1)):
        y, log_det = library.run(run, library.params(params), library.array(x))
        np.testing.assert_allclose(y, x @ expm(sign * A), atol=1e-8)
        np.testing.assert_allclose(log_det, sign * np.trace(A), atol=1e-8)


def test_it_is_zukos_free_form_jacobian_transform_of_the_same_field():
    bijection = pf.NeuralODE(4, hidden=(6, 5), context_dim=3, **TIGHT)
    params, x = TORCH.params(perturbed(bijection, 0.5)), TORCH.array(points(bijection))
    c = TORCH.array(context(bijection))
    net = MLP((6, 5), activation="tanh").bind(4, 4, 4)
    theirs = FreeFormJacobianTransform(
        lambda t, x: net(params, x, torch.cat([c, t * torch.ones_like(c[:, :1])], -1)), **TIGHT
    )
    for run, other in ((bijection.forward, theirs), (bijection.inverse, theirs.inv)):
        y, log_det = other.call_and_ladj(x)
        found = run(params, x, c)
        torch.testing.assert_close(found[0], y, rtol=0, atol=1e-8)
        torch.testing.assert_close(found[1], log_det, rtol=0, atol=1e-6)  # zuko gives the trace a looser tolerance


def test_the_tolerances_decide_the_precision():
    tight = pf.NeuralODE(4, hidden=(6, 5), **TIGHT)
    params, x = TORCH.params(perturbed(tight, 0.5)), TORCH.array(points(tight))
    exact = tight.forward(params, x)

    def error(tolerance):
        found = pf.NeuralODE(4, hidden=(6, 5), rtol=tolerance, atol=tolerance).forward(params, x)
        return max((a - b).abs().max().item() for a, b in zip(found, exact, strict=True))

    assert error(1e-8) < 1e-6 < 10 * error(1e-4) < 1e-1


@pytest.mark.parametrize("library", [TORCH, JAX], ids=lambda lib: lib.name)
def test_a_hard_row_does_not_hide_among_easy_ones(library):
    bijection = pf.NeuralODE(2, hidden=(8,))
    params = library.params(perturbed(bijection, 1.0))
    far = np.concatenate([[[0.3, -0.2]], 1e3 * np.ones((2_000, 2))])  # tanh is flat there
    alone = library.run(bijection.forward, params, library.array(far[:1]))
    among = library.run(bijection.forward, params, library.array(far))
    for a, b in zip(alone, among, strict=True):
        np.testing.assert_allclose(b[:1], a, rtol=0, atol=1e-5)


def test_the_estimated_trace_and_its_gradient_are_unbiased_over_steps():
    exact = pf.NeuralODE(4, hidden=(8,), exact=True)
    x = points(exact, 3)
    residual.assert_unbiased(exact, pf.NeuralODE(4, hidden=(8,), exact=False), perturbed(exact, 0.5), x, 2_000)


def test_the_estimate_is_for_deep_networks_of_many_dimensions_and_a_training_step_advances_it():
    rng = np.random.default_rng(0)
    assert "state" not in pf.NeuralODE(33).init(rng), "two hidden layers: the exact trace costs nothing"
    assert "state" not in pf.NeuralODE(32, hidden=(4, 4, 4)).init(rng)
    bijection = pf.NeuralODE(33, hidden=(4, 4, 4))
    params, y = bijection.init(rng), rng.standard_normal((5, 33))
    for stage in ("start", "settle"):
        assert bijection.observe(params, y, stage=stage)[0]["state"]["step"] == params["state"]["step"]
    new, _, log_det = bijection.observe(params, y)
    assert new["state"]["step"] == params["state"]["step"] + 1
    np.testing.assert_array_equal(log_det, bijection.inverse(new, y)[1])
    assert np.abs(log_det - bijection.inverse(params, y)[1]).min() > 0


def test_the_estimate_runs_everywhere():
    bijection = pf.NeuralODE(4, hidden=(6, 5, 4), exact=False)
    args = [laws.arrays(bijection, lib)[:2] for lib in LIBRARIES]
    results = [lib.run(bijection.forward, *a) for lib, a in zip(LIBRARIES, args, strict=True)]
    for y, log_det in results[1:]:
        np.testing.assert_allclose(y, results[0][0], atol=1e-4)
        np.testing.assert_allclose(log_det, results[0][1], atol=1e-4)


def test_torch_func_maps_gradients_over_params_and_rows():
    """Mapped over, torchdiffeq sees one batch; each mapped flow has its own gradients."""
    bijection = pf.NeuralODE(3, hidden=(5,), context_dim=2, **TIGHT)
    params, x, c = TORCH.params(perturbed(bijection)), TORCH.array(points(bijection)), TORCH.array(context(bijection))
    several = map_params(lambda _, a: torch.stack([a, 1.3 * a]), params)

    def loss(params, x, c):
        y, log_det = bijection.forward(params, x, c)
        return y.square().sum() - log_det.sum()

    per_row = torch.func.vmap(torch.func.grad(loss, (0, 1)), (None, 0, 0))
    found = torch.func.vmap(per_row, (0, None, None))(several, x, c)
    for i in range(2):
        for row in range(len(x)):
            chosen = map_params(lambda _, a, i=i: a[i].clone().requires_grad_(), several)
            x_row = x[row].clone().requires_grad_()
            loss(chosen, x_row, c[row]).backward()
            torch.testing.assert_close(found[1][i, row], x_row.grad, rtol=0, atol=1e-7)
            for name, a in chosen.items():
                torch.testing.assert_close(found[0][name][i, row], a.grad, rtol=0, atol=1e-7)


def test_second_derivatives_exist_in_autograd_and_are_refused_under_torch_func():
    bijection = pf.NeuralODE(2, hidden=(4,), **TIGHT)
    params, x = TORCH.params(perturbed(bijection)), TORCH.array(points(bijection)[0])

    def log_det(x):
        return bijection.forward(params, x)[1]

    hessian, step = torch.autograd.functional.hessian(log_det, x), 1e-4
    gradient = torch.func.grad(log_det)
    expected = [(gradient(x + e) - gradient(x - e)) / (2 * step) for e in step * torch.eye(2)]
    torch.testing.assert_close(hessian, torch.stack(expected), rtol=0, atol=1e-5)
    with pytest.raises(NotImplementedError, match=r"torch.autograd has them"):
        torch.func.jacrev(gradient)(x)


@pytest.mark.parametrize(("library", "package"), [(TORCH, "torchdiffeq"), (JAX, "diffrax")])
def test_a_missing_solver_is_an_error_that_says_what_to_install(library, package, monkeypatch):
    folder = importlib.import_module(f"ppl_flows.backends.{library.name}")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{folder.__name__}.ode", raising=False)
    monkeypatch.delattr(folder, "ode", raising=False)
    bijection = pf.NeuralODE(2, hidden=(4,))
    with pytest.raises(ImportError, match=f"pip install {package}"):
        bijection.forward(library.params(perturbed(bijection)), library.array(points(bijection)))
    bijection.forward(perturbed(bijection), points(bijection))


@pytest.mark.parametrize(("library", "slope"), [(TORCH, np.nan), (JAX, -1e6)])  # the latter would take 300,000 steps
def test_a_solver_that_fails_gives_nan(library, slope):
    bijection = pf.NeuralODE(1, hidden=())
    params = library.params({"w0": [[slope], [0.0]], "b0": [0.0]})
    y, log_det = library.run(bijection.forward, params, library.array([[1.0]]))
    assert np.isnan(y)
    assert np.isnan(log_det)


def test_a_density_estimate_moves_all_weights_and_its_loss_falls():
    flow, data = pf.ffjord(2, hidden=(16, 16)), residual.ring(200)
    start = flow.init(np.random.default_rng(0))
    params = map_params(lambda _, a: torch.tensor(a, requires_grad=True), start)
    leaves = jax.tree.leaves(params)
    optimizer = torch.optim.Adam(leaves, lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        x, log_det = flow.inverse(params, data)
        loss = (0.5 * x.square().sum(-1) + np.log(2 * np.pi) - log_det).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3
    for leaf, before in zip(leaves, jax.tree.leaves(start), strict=True):
        assert np.abs(leaf.detach().numpy() - before).max() > 1e-3


@pytest.mark.parametrize("context_dim", [0, 3])
def test_the_recipe_starts_next_to_the_identity(context_dim):
    flow = pf.ffjord(4, flow_layers=2, context_dim=context_dim)
    x = points(flow)
    y, log_det = flow.forward(flow.init(np.random.default_rng(0)), x, NUMPY.array(context(flow)))
    assert 0 < np.abs(y - x).max() < 0.3
    assert np.abs(log_det).max() < 0.3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.NeuralODE(0), "dim must be at least 1"),
        (lambda: pf.NeuralODE(2, rtol=0.0), "rtol must be positive and finite"),
        (lambda: pf.NeuralODE(2, activation="sine"), "unknown activation 'sine'"),
        (lambda: pf.NeuralODE(5000, exact=False), "random probes exist up to dim=4095"),
        (lambda: pf.ffjord(2, flow_layers=0), "flow_layers must be at least 1"),
    ],
)
def test_mistakes_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
