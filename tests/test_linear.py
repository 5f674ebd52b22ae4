"""The linear layers against plain matrices and against Pyro's."""

import numpy as np
import pyro.distributions.transforms as pyro_transforms
import pytest
import test_laws as laws
import torch
from cases import LIBRARIES, name_of, perturbed, points

import ppl_flows as pf
from ppl_flows.core.namespace import namespace

TORCH = LIBRARIES[1]
LINEAR = [
    pf.LULinear(4, order="random", seed=1),
    pf.LULinear(3, order=(2, 0, 1), bias=False),
    pf.TriangularAffine(4),
    pf.Householder(5),
    pf.Householder(4, reflections=2),
    pf.Orthogonal(4),
    *(layer(1) for layer in (pf.LULinear, pf.TriangularAffine, pf.Householder, pf.Orthogonal)),
]
each = pytest.mark.parametrize("bijection", LINEAR, ids=name_of)


def matrix_and_shift(bijection, params):
    """A and b of ``y = A x + b``, read off the images of 0 and of the unit vectors."""
    dim = bijection.dim
    b = bijection.forward(params, np.zeros(dim))[0]
    return (bijection.forward(params, np.eye(dim))[0] - b).T, b


@each
def test_every_variant_obeys_the_laws(bijection):
    laws.test_the_inverse_undoes_the_forward_map_the_same_in_every_library(bijection)
    laws.test_log_det_is_that_of_the_autodiff_jacobian(bijection)


@each
def test_it_is_affine_and_log_det_that_of_its_matrix(bijection):
    params, x = perturbed(bijection), points(bijection)
    A, b = matrix_and_shift(bijection, params)
    y, log_det = bijection.forward(params, x)
    np.testing.assert_allclose(y, x @ A.T + b, atol=1e-12)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(A)[1], atol=1e-12)


@each
def test_it_starts_at_its_permutation(bijection):
    A, b = matrix_and_shift(bijection, bijection.init(np.random.default_rng(0)))
    order = getattr(bijection, "order", range(bijection.dim))
    np.testing.assert_allclose(A, np.eye(bijection.dim)[list(order)], atol=1e-12)
    np.testing.assert_array_equal(b, 0.0)


@pytest.mark.parametrize("bijection", [pf.Householder(5), pf.Householder(32), pf.Orthogonal(32)], ids=name_of)
def test_rotations_stay_rotations_far_from_the_start(bijection):
    A, _ = matrix_and_shift(bijection, perturbed(bijection, scale=3.0))
    np.testing.assert_allclose(A @ A.T, np.eye(bijection.dim), atol=1e-12)
    assert np.linalg.det(A) == pytest.approx(1.0)
    assert np.abs(A - np.eye(bijection.dim)).max() > 0.1


def test_lu_linear_is_the_product_of_its_factors():
    bijection = pf.LULinear(4, order=(2, 0, 3, 1))
    params = perturbed(bijection)
    lu = params["lu"]
    L = np.tril(lu, -1) + np.eye(4)
    U = np.triu(lu, 1) + np.diag(np.exp(np.diag(lu)))
    P = np.eye(4)[[2, 0, 3, 1]]
    np.testing.assert_allclose(matrix_and_shift(bijection, params)[0], P @ L @ U, atol=1e-12)


def test_a_drawn_order_is_kept():
    drawn = pf.LULinear(8, order="random", seed=3)
    assert sorted(drawn.order) == list(range(8))
    assert drawn.order == pf.Permute(8, seed=3).order
    assert pf.LULinear(3).order == (0, 1, 2)


def test_householder_is_pyros():
    bijection = pf.Householder(4)
    params, x = TORCH.params(perturbed(bijection)), torch.tensor(points(bijection))
    theirs = pyro_transforms.Householder(4, count_transforms=4)
    theirs.u_unnormed.data = params["v"]
    torch.testing.assert_close(bijection.forward(params, x)[0], theirs(x))
    torch.testing.assert_close(bijection.inverse(params, x)[0], theirs.inv(x))


def test_triangular_affine_is_pyros():
    bijection = pf.TriangularAffine(4)
    params, x = TORCH.params(perturbed(bijection)), torch.tensor(points(bijection))
    l = params["l"]
    theirs = pyro_transforms.LowerCholeskyAffine(params["b"], l.tril(-1) + torch.diag(l.diagonal().exp()))
    y, log_det = bijection.forward(params, x)
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(x, y))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda lib: lib.name)
def test_solve_triangular_solves_every_row(library):
    rng = np.random.default_rng(0)
    lower, b = np.tril(rng.standard_normal((3, 3))) + 3 * np.eye(3), rng.standard_normal((2, 5, 3))
    for a, is_lower in ((lower, True), (lower.T, False)):
        for rows in (b, b[0, 0]):
            xp = namespace(library.array(a))
            (x,) = library.run(
                lambda a, b, xp=xp, is_lower=is_lower: (xp.solve_triangular(a, b, lower=is_lower),),
                library.array(a),
                library.array(rows),
            )
            np.testing.assert_allclose(x @ a.T, rows, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.LULinear(0), "dim must be at least 1"),
        (lambda: pf.LULinear(3, order="reverse"), "unknown order 'reverse'"),
        (lambda: pf.LULinear(3, order=(0, 0, 1)), "must be a permutation"),
        (lambda: pf.Householder(3, reflections=3), "even and at least 2, got 3"),
        (lambda: pf.TriangularAffine(0), "dim must be at least 1"),
        (lambda: pf.Orthogonal(0), "dim must be at least 1"),
    ],
)
def test_mistakes_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
