"""Sites placed by their priors: exact conditionals, exact inverses, in every array library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ppl_flows.inference.site_priors import Independent, Joint, Pseudo, Walk

SIZE = 6
LIBRARIES = {"numpy": np.asarray, "torch": torch.tensor, "jax": jnp.asarray}


def a_prior(kind, batch=(), seed=0):
    """Of NumPy arrays; a walk has a coefficient before its first step, too, which must not count."""
    rng = np.random.default_rng(seed)
    loc, scale = rng.standard_normal((*batch, SIZE)), np.exp(rng.standard_normal((*batch, SIZE)))
    if kind is Independent:
        return Independent(loc, scale)
    if kind is Walk:
        return Walk(loc, rng.standard_normal((*batch, SIZE)), scale)
    tril = np.tril(rng.standard_normal((*batch, SIZE, SIZE)))
    diagonal = np.arange(SIZE)
    tril[..., diagonal, diagonal] = scale
    return Joint(loc, tril)


def observed(batch=(), seed=1):
    rng = np.random.default_rng(seed)
    return Pseudo(np.exp(2 * rng.standard_normal(SIZE)), rng.standard_normal(SIZE))


def moments(prior):
    """Mean and precision of one prior, by dense linear algebra."""
    if isinstance(prior, Independent):
        return prior.loc, np.diag(1 / prior.scale**2)
    if isinstance(prior, Joint):
        return prior.loc, np.linalg.inv(prior.scale_tril @ prior.scale_tril.T)
    steps = np.eye(SIZE) - np.diag(prior.coefficient[1:], -1)  # steps @ u = loc + scale * eps
    return np.linalg.solve(steps, prior.loc), steps.T @ np.diag(1 / prior.scale**2) @ steps


KINDS = pytest.mark.parametrize("kind", [Independent, Walk, Joint], ids=lambda k: k.__name__)
BATCHES = pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)


@KINDS
def test_places_are_the_exact_conditional(kind):
    """A standard normal becomes prior times pseudo-observations: their mean, and covariance."""
    prior, seen = a_prior(kind), observed()
    mean, precision = moments(prior)
    joint = precision + np.diag(seen.precision)
    expected = np.linalg.solve(joint, precision @ mean + seen.precision * seen.value)
    found, _ = prior.place(np.zeros(SIZE), seen)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    columns = np.stack([prior.place(e, seen)[0] - found for e in np.eye(SIZE)], axis=1)
    np.testing.assert_allclose(columns @ columns.T, np.linalg.inv(joint), rtol=1e-9, atol=1e-12)


@KINDS
def test_without_observations_places_are_the_non_centred_form(kind):
    prior, none = a_prior(kind), Pseudo(np.zeros(SIZE), np.full(SIZE, 7.0))
    w = np.random.default_rng(2).standard_normal(SIZE)
    if kind is Independent:
        expected = prior.loc + prior.scale * w
    elif kind is Joint:
        expected = prior.loc + prior.scale_tril @ w
    else:
        expected, before = [], 0.0
        for a, phi, s, eps in zip(*prior, w, strict=True):
            before = a + (phi * before if expected else 0.0) + s * eps
            expected.append(before)
    np.testing.assert_allclose(prior.place(w, none)[0], expected, rtol=1e-12)


@KINDS
def test_a_precise_observation_is_the_centred_form(kind):
    prior, value = a_prior(kind), observed().value
    u, log_det = prior.place(np.ones(SIZE), Pseudo(np.full(SIZE, 1e12), value))
    np.testing.assert_allclose(u, value + 1e-6, rtol=1e-7)
    np.testing.assert_allclose(log_det, np.log(1e-6), rtol=1e-7)


@KINDS
@BATCHES
@pytest.mark.parametrize("library", LIBRARIES)
def test_unplace_undoes_place(kind, batch, library):
    make = LIBRARIES[library]
    prior, seen = (type(p)(*map(make, p)) for p in (a_prior(kind, batch), observed()))
    w = make(np.random.default_rng(2).standard_normal((*batch, SIZE)))
    u, log_det = prior.place(w, seen)
    again, back = prior.unplace(u, seen)
    assert log_det.shape == back.shape == w.shape
    np.testing.assert_allclose(np.asarray(again), np.asarray(w), atol=1e-9)
    np.testing.assert_allclose(np.asarray(back), -np.asarray(log_det), rtol=1e-12)


@KINDS
@BATCHES
def test_a_batch_is_a_loop_over_its_rows(kind, batch):
    prior, seen = a_prior(kind, batch), observed()
    v = np.random.default_rng(2).standard_normal((*batch, SIZE))
    for method in ("place", "unplace"):
        made, log_det = getattr(prior, method)(v, seen)
        for row in np.ndindex(batch):
            alone = getattr(kind(*(a[row] for a in prior)), method)(v[row], seen)
            np.testing.assert_allclose(made[row], alone[0], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(log_det[row], alone[1], rtol=1e-10)


@KINDS
@pytest.mark.parametrize("method", ["place", "unplace"])
def test_the_jacobian_is_lower_triangular_and_its_log_det_that_of_autodiff(kind, method):
    prior, seen = kind(*map(jnp.asarray, a_prior(kind))), Pseudo(*map(jnp.asarray, observed()))
    v = jnp.asarray(np.random.default_rng(2).standard_normal(SIZE))
    jacobian = np.asarray(jax.jacobian(lambda v: getattr(prior, method)(v, seen)[0])(v))
    np.testing.assert_allclose(np.triu(jacobian, 1), 0, atol=1e-12)
    np.testing.assert_allclose(getattr(prior, method)(v, seen)[1], np.log(np.diag(jacobian)), rtol=1e-10)


@KINDS
def test_every_library_gives_the_same_numbers_and_gradients(kind):
    given = (*a_prior(kind, (2,)), *observed(), np.random.default_rng(2).standard_normal((2, SIZE)))

    def total(*arrays):
        *prior, precision, value, v = arrays
        seen = Pseudo(precision, value)
        (u, log_det), (w, back) = (getattr(kind(*prior), method)(v, seen) for method in ("place", "unplace"))
        return (u**2).sum() + log_det.sum() + (w**2).sum() + 2 * back.sum()

    in_jax, gradients = jax.jit(jax.value_and_grad(total, argnums=range(len(given))))(*map(jnp.asarray, given))
    leaves = [torch.tensor(a, requires_grad=True) for a in given]
    in_torch = total(*leaves)
    in_torch.backward()
    assert total(*given) == pytest.approx(float(in_jax), rel=1e-10)
    assert in_torch.item() == pytest.approx(float(in_jax), rel=1e-10)
    for ours, theirs in zip(leaves, gradients, strict=True):
        lower = np.tril if ours.ndim == 3 else np.asarray  # what is above the diagonal of a factor does not count
        grad = np.zeros(ours.shape) if ours.grad is None else ours.grad.numpy()
        np.testing.assert_allclose(lower(grad), lower(theirs), rtol=1e-8, atol=1e-9)


@KINDS
def test_pull_is_minus_the_gradient_of_the_priors_log_density(kind):
    prior, u = a_prior(kind), np.random.default_rng(2).standard_normal(SIZE)
    mean, precision = moments(prior)
    np.testing.assert_allclose(prior.pull(u), precision @ (u - mean), rtol=1e-9, atol=1e-12)


def test_the_spread_is_about_the_standard_deviation():
    prior = a_prior(Joint)
    np.testing.assert_allclose(prior.spread, np.sqrt(np.diag(prior.scale_tril @ prior.scale_tril.T)), rtol=1e-12)
    for kind in (Independent, Walk):
        np.testing.assert_array_equal(a_prior(kind).spread, a_prior(kind).scale)


@KINDS
@pytest.mark.parametrize("library", LIBRARIES)
def test_extreme_precisions_and_scales_are_finite_with_their_gradients(kind, library):
    make, v = LIBRARIES[library], np.random.default_rng(2).standard_normal(SIZE)

    def total(seen, *prior):
        made = [getattr(kind(*prior), m)(make(v), Pseudo(seen, make(v))) for m in ("place", "unplace")]
        return sum(u.sum() + log_det.sum() for u, log_det in made)

    run = {"jax": jax.jit(jax.value_and_grad(total, argnums=range(len(kind._fields) + 1)))}.get(library, total)
    for precision in (0.0, 1e-12, 1e12):
        for scale in (1e-6, 1.0, 1e6):
            *others, scales = a_prior(kind)
            found = run(*map(make, (np.full(SIZE, precision), *others, scale * scales)))
            assert all(np.isfinite(np.asarray(a)).all() for a in jax.tree.leaves(found)), (precision, scale)


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("coefficient", [0.0, 0.9, 1.0, -1.5])
def test_walks_of_any_length_and_coefficient_invert(length, coefficient):
    rng, seen = np.random.default_rng(0), observed()
    prior = Walk(np.zeros(length), np.full(length, coefficient), np.full(length, 0.3))
    seen, w = Pseudo(*(np.resize(a, length) for a in seen)), rng.standard_normal(length)
    np.testing.assert_allclose(prior.unplace(prior.place(w, seen)[0], seen)[0], w, atol=1e-9)


def test_a_long_walk_stays_finite():
    prior, seen = Walk(*(np.full(3_000, v) for v in (0.0, 1.0, 1e-3))), Pseudo(np.full(3_000, 5.0), np.ones(3_000))
    u, log_det = prior.place(np.random.default_rng(0).standard_normal(3_000), seen)
    assert np.isfinite(u).all()
    assert np.isfinite(log_det).all()
    assert np.isfinite(prior.unplace(u, seen)[0]).all()
