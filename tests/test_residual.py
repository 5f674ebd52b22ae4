"""Planar, radial and Sylvester layers: known values, Pyro's layers, variants and recipes."""

import numpy as np
import pyro.distributions.transforms as pyro_transforms
import pytest
import test_laws as laws
import torch
from cases import LIBRARIES, context, name_of, perturbed, points

import ppl_flows as pf
from ppl_flows.core.params import flatten, map_params, unstack

TORCH = LIBRARIES[1]
VARIANTS = [
    pf.Sylvester(4, rank=2),
    pf.Sylvester(4, variant="householder", reflections=2),
    pf.Sylvester(4, rank=3, variant="householder", context_dim=3),
    pf.Sylvester(4, variant="triangular"),
    pf.Sylvester(4, rank=3, variant="triangular", flip=True),
    pf.Sylvester(1),
    pf.Planar(1),
    pf.Radial(1),
]
RECIPES = [pf.planar_flow, pf.radial_flow, pf.sylvester_flow]


@pytest.mark.parametrize("bijection", VARIANTS, ids=name_of)
def test_every_variant_obeys_the_laws(bijection):
    laws.test_the_inverse_undoes_the_forward_map_the_same_in_every_library(bijection)
    laws.test_log_det_is_that_of_the_autodiff_jacobian(bijection)
    laws.test_gradients_are_finite_differences(bijection)
    laws.test_gradients_in_jax_are_those_in_torch(bijection)


@pytest.mark.parametrize("layer", [pf.Planar, pf.Radial, pf.Sylvester])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_inverse_holds_far_from_the_start(layer, scale):
    bijection = layer(4)
    params = perturbed(bijection, scale)
    for x in (points(bijection), 1e3 * points(bijection)):
        y, log_det = bijection.forward(params, x)
        back, back_log_det = bijection.inverse(params, y)
        # the slope may be as small as 1e-3, which takes as many digits from x
        np.testing.assert_allclose(back, x, rtol=1e-10, atol=1e-9)
        np.testing.assert_allclose(back_log_det, -log_det, atol=1e-7)


def inverse_softplus(v):
    return v + torch.log(-torch.expm1(-v))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_planar_is_pyros(sign):
    bijection = pf.Planar(4)
    params, x = TORCH.params(perturbed(bijection, 0.5)), torch.tensor(points(bijection))
    u, w = sign * params["u"], params["w"]
    a = u @ w
    theirs = pyro_transforms.Planar(4)
    theirs.bias.data, theirs.w.data = params["b"], w
    # the u for which Pyro's w.u_hat, log(1 + exp(.)) - 1, is our elu(w.u)
    theirs.u.data = u + (inverse_softplus(torch.nn.functional.elu(a) + 1) - a) * w / (w @ w)
    y, log_det = bijection.forward(params | {"u": u}, x)
    expected = theirs(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(x, expected))


@pytest.mark.parametrize("s", [0.7, -0.7])
def test_radial_is_pyros(s):
    bijection = pf.Radial(4)
    params, x = TORCH.params(perturbed(bijection)), torch.tensor(points(bijection))
    params["s"] = torch.tensor([s], dtype=x.dtype)
    alpha = params["log_alpha"].exp()
    theirs = pyro_transforms.Radial(4)
    theirs.x0.data, theirs.alpha_prime.data = params["x0"], inverse_softplus(alpha)
    theirs.beta_prime.data = inverse_softplus(alpha * (1 + torch.nn.functional.elu(params["s"])))
    y, log_det = bijection.forward(params, x)
    expected = theirs(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(x, expected))


def test_radial_at_its_centre():
    bijection = pf.Radial(3)
    params = TORCH.params(perturbed(bijection))
    x = params["x0"].clone().requires_grad_()
    y, log_det = bijection.forward(params, x)
    log_det.backward()
    torch.testing.assert_close(y, params["x0"])
    torch.testing.assert_close(log_det, 3 * torch.log1p(torch.nn.functional.elu(params["s"][0])))
    torch.testing.assert_close(bijection.inverse(params, y)[0], params["x0"])
    assert torch.all(torch.isfinite(x.grad))


@pytest.mark.parametrize("variant", ["orthogonal", "householder", "triangular"])
def test_sylvester_is_its_formula(variant):
    bijection = pf.Sylvester(5, rank=3, variant=variant, flip=True)
    params, x = perturbed(bijection), points(bijection)
    rotation = {"orthogonal": pf.Orthogonal(5), "householder": pf.Householder(5), "triangular": pf.Reverse(5)}[variant]
    Q = rotation.forward(params["rotation"], np.eye(5))[0].T[:, :3]
    R = np.triu(params["rs"], 1) + np.diag(np.tanh(params["r"]))
    S = np.tril(params["rs"], -1).T + np.diag(np.tanh(params["s"]))
    np.testing.assert_allclose(Q.T @ Q, np.eye(3), atol=1e-12)
    expected = [v + Q @ R @ np.tanh(S @ Q.T @ v + params["b"]) for v in x]
    np.testing.assert_allclose(bijection.forward(params, x)[0], expected, atol=1e-12)


def test_sylvester_is_pyros_where_pyros_log_det_is_that_of_its_map():
    """Pyro multiplies rows by the matrices the paper writes for columns: its map is ``x + R^T Q^T tanh(Q S^T x + b)``.

    Its log det holds for Q = I only, which two equal reflections give; in reverse order the transposes are ours.
    """
    bijection = pf.Sylvester(4, variant="triangular", flip=True)
    params, x = TORCH.params(perturbed(bijection)), torch.tensor(points(bijection))
    theirs = pyro_transforms.Sylvester(4, count_transforms=2)
    theirs.u_unnormed.data = torch.ones(2, 4, dtype=x.dtype)
    theirs.b.data = params["b"].flip(0)
    theirs.R_diag.data, theirs.S_diag.data = params["r"].flip(0), params["s"].flip(0)
    theirs.R_dense.data = params["rs"].T.flip(0, 1)
    theirs.S_dense.data = params["rs"].flip(0, 1)
    theirs = theirs.double()
    y, log_det = bijection.forward(params, x)
    expected = theirs(x)
    torch.testing.assert_close(y, expected)
    # Pyro adds 1e-8 to each factor of the determinant
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(x, expected), rtol=0, atol=1e-6)


def test_a_planar_layer_is_a_sylvester_layer_of_rank_one():
    planar, sylvester = pf.Planar(3), pf.Sylvester(3, rank=1, variant="triangular")
    x = points(planar)
    params = {"rs": np.zeros((1, 1)), "r": np.array([0.4]), "s": np.array([0.8]), "b": np.array([0.3]), "rotation": {}}
    r, s = np.tanh(0.4), np.tanh(0.8)
    along = {"u": np.array([r, 0, 0]), "w": np.array([s, 0, 0]), "b": np.array([0.3])}
    for ours, theirs in zip(sylvester.forward(params, x), planar.forward(along, x), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("context_dim", [0, 3])
def test_recipes_start_next_to_the_identity_and_train_every_layer(recipe, context_dim):
    bijection = recipe(4, context_dim=context_dim)
    x, c = torch.tensor(points(bijection)), TORCH.array(context(bijection))
    params = map_params(lambda _, a: TORCH.array(a).requires_grad_(), bijection.init(np.random.default_rng(0)))
    y, log_det = bijection.forward(params, x, c)
    assert (y - x).abs().max() < 0.3
    back, back_log_det = bijection.inverse(params, y, c)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(back_log_det, -log_det)
    (back.square().sum() + back_log_det.sum()).backward()
    gradients = map_params(lambda _, a: a.grad, params)
    repeated = isinstance(bijection, pf.Repeat)
    for layer in unstack(gradients, bijection.times) if repeated else gradients.values():
        leaves = [g for _, g in flatten(layer)]
        assert all(torch.all(torch.isfinite(g)) for g in leaves)
        assert any(g.abs().max() > 1e-6 for g in leaves)


def test_the_triangular_recipe_takes_turns():
    flow = pf.sylvester_flow(4, variant="triangular", rank=2, flow_layers=3)
    assert [part.flip for part in flow.parts] == [False, True, False]
    assert {part.rank for part in flow.parts} == {2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.Planar(0), "dim must be at least 1"),
        (lambda: pf.Radial(0), "dim must be at least 1"),
        (lambda: pf.Planar(2, conditioner=pf.MLP(activation="sine")), "unknown activation 'sine'"),
        (lambda: pf.Sylvester(3, rank=4), "rank must be one of 1, ..., 3, got 4"),
        (lambda: pf.Sylvester(3, variant="diagonal"), "unknown variant 'diagonal'"),
        (lambda: pf.Sylvester(3, variant="householder", reflections=3), "even and at least 2"),
        (lambda: pf.planar_flow(3, flow_layers=0), "flow_layers must be at least 1"),
        (lambda: pf.sylvester_flow(3, rank=0), "rank must be at least 1, got 0"),
    ],
)
def test_mistakes_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
