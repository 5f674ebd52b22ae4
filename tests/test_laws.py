"""The laws of a bijection, on every one of them. The tolerances are for float64 unless said."""

import functools
import pickle

import foreign_flows
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import (
    ALL,
    JAX,
    LIBRARIES,
    NUMPY,
    OTHERS,
    TORCH,
    Library,
    clipped,
    context,
    name_of,
    onto_the_reals,
    perturbed,
    points,
    precision,
    targets,
)

import ppl_flows as pf

# of the scope of a module: the tests of one bijection follow each other, in one process
every_pair = pytest.mark.parametrize("bijection", ALL + OTHERS, ids=name_of, scope="module")
each = pytest.mark.parametrize("bijection", ALL, ids=name_of, scope="module")
conditional = pytest.mark.parametrize("bijection", [b for b in ALL if b.context_dim], ids=name_of)
library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda lib: lib.name)

ROWS = 6


def arrays(bijection: pf.Bijection, library: Library = NUMPY, dtype: str = "float64", at=points):
    """Perturbed params, points and context as arrays of the library."""
    c = context(bijection, ROWS)
    return (
        library.params(perturbed(bijection), dtype),
        library.array(at(bijection, ROWS), dtype),
        library.array(c, dtype),
    )


@every_pair
def test_the_inverse_undoes_the_forward_map_the_same_in_every_library(bijection):
    def there_and_back(params, x, c):
        y, log_det = bijection.forward(params, x, c)
        return y, log_det, *bijection.inverse(params, y, c)

    results = [library.run(there_and_back, *arrays(bijection, library)) for library in LIBRARIES]
    for y, log_det, back, back_log_det in results:
        np.testing.assert_allclose(back, points(bijection, ROWS), rtol=0, atol=1e-10 + precision(bijection))
        np.testing.assert_allclose(back_log_det, -log_det, rtol=0, atol=1e-9 + precision(bijection))
        np.testing.assert_allclose(y, results[0][0], rtol=1e-12, atol=1e-12 + precision(bijection))
        np.testing.assert_allclose(log_det, results[0][1], rtol=1e-12, atol=1e-12 + precision(bijection))


@each
def test_the_forward_map_undoes_the_inverse(bijection):
    params, y, c = arrays(bijection, at=targets)
    x, log_det = bijection.inverse(params, y, c)
    again, again_log_det = bijection.forward(params, x, c)
    np.testing.assert_allclose(again, y, rtol=0, atol=1e-10 + precision(bijection))
    np.testing.assert_allclose(again_log_det, -log_det, rtol=0, atol=1e-9 + precision(bijection))


def far_out(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([np.full(shape, s * m) for m in (10.0, 1e3, 1e6) for s in (1, -1)])


def weights_of(bijection):
    """Of a sum over x and log_det, whose gradient is looked at."""
    rng = np.random.default_rng(2)
    return rng.standard_normal((ROWS, *bijection.event_shape)), rng.standard_normal(ROWS)


@functools.lru_cache(maxsize=8)
def derivatives(bijection, way):
    """What three laws look at, in one program of JAX: of ``forward`` or ``inverse`` the Jacobian at every row, what is
    found far out (values and the gradient of all of them), and of the inverse the gradient of a weighted sum."""
    at, support, shape = {
        "forward": (points, bijection.domain, bijection.event_shape),
        "inverse": (targets, bijection.codomain, bijection.output_shape),
    }[way]
    params, v, c = arrays(bijection, JAX, at=at)
    far = clipped(support, far_out(shape))
    c = None if c is None else jnp.concatenate([c, jnp.broadcast_to(c[0], (len(far), c.shape[-1]))])

    @jax.jit
    def program(params, v, c):
        out, pull = jax.vjp(lambda params, v: getattr(bijection, way)(params, v, c), params, v)
        size, is_far = out[0][0].size, jnp.arange(len(v)) >= ROWS
        units = jnp.eye(size).reshape(size, 1, *out[0].shape[1:])  # of each row: rows do not see each other
        along = jnp.broadcast_to(units, (size, *out[0].shape)), jnp.zeros((size, len(v)))
        ones = jnp.where(is_far.reshape(-1, *[1] * (out[0].ndim - 1)), jnp.ones(out[0].shape), 0.0), 1.0 * is_far
        of_params, of_v = jax.vmap(pull)(jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), along, ones))
        jacobians = of_v[:-1, :ROWS].reshape(size, ROWS, -1).swapaxes(0, 1)
        found = out, of_v[-1], jax.tree.map(lambda a: a[-1], of_params)
        if way == "forward":
            return jacobians, found
        # not under vmap, which may take another way
        of_params, of_v = pull(
            jax.tree.map(lambda w, a: jnp.zeros(a.shape).at[:ROWS].set(w), weights_of(bijection), out)
        )
        return jacobians, found, (of_params, of_v[:ROWS])

    return program(params, jnp.concatenate([v, far]), c)


@each
def test_log_det_is_that_of_the_autodiff_jacobian(bijection):
    for way, at in (("forward", points), ("inverse", targets)):
        log_det = getattr(bijection, way)(*arrays(bijection, at=at))[1]
        expected = np.linalg.slogdet(derivatives(bijection, way)[0])[1]
        np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-8 + precision(bijection))


@each
def test_values_and_gradients_are_finite_far_out(bijection):
    for way in ("forward", "inverse"):
        for leaf in jax.tree.leaves(derivatives(bijection, way)[1]):
            assert np.all(np.isfinite(leaf))


@each
def test_a_batch_is_a_loop_over_its_rows(bijection):
    params, x, c = arrays(bijection)
    y, log_det = bijection.forward(params, x, c)
    for i in range(len(x)):
        row, row_log_det = bijection.forward(params, x[i], None if c is None else c[i])
        np.testing.assert_allclose(row, y[i], rtol=1e-12, atol=1e-12 + precision(bijection))
        np.testing.assert_allclose(row_log_det, log_det[i], rtol=1e-12, atol=1e-12 + precision(bijection))
    stacked, stacked_log_det = bijection.inverse(params, np.stack([y, y]), c)
    assert stacked.shape == (2, *x.shape)
    assert stacked_log_det.shape == (2, len(x))


@conditional
@library
def test_one_context_serves_a_batch_and_many_contexts_one_point(bijection, library):
    def broadcast(params, x, c):
        y, log_det = bijection.forward(params, x[0], c)
        return y, log_det, bijection.inverse(params, y[0], c[0])[0], bijection.inverse(params, y, c[0])[0]

    y, log_det, back, many = library.run(broadcast, *arrays(bijection, library))
    x = points(bijection, ROWS)
    assert many.shape == x.shape
    assert y.shape == x.shape[:1] + bijection.output_shape
    assert log_det.shape == x.shape[:1]
    assert np.abs(y[0] - y[1]).max() > 1e-6, "the context does not reach the output"
    np.testing.assert_allclose(back, x[0], rtol=0, atol=1e-10 + precision(bijection))


@pytest.mark.parametrize("bijection", [b for b in ALL if onto_the_reals(b)], ids=name_of)
def test_far_points_come_back(bijection):
    params, _, c = arrays(bijection)
    far, c = far_out(bijection.event_shape), None if c is None else c[0]
    back, _ = bijection.inverse(params, bijection.forward(params, far, c)[0], c)
    # a coordinate whose map depends on the others loses a digit or two
    np.testing.assert_allclose(back, far, rtol=1e-12 + precision(bijection))


@every_pair
def test_gradients_through_the_inverse_are_finite_differences(bijection):
    params, y, c = arrays(bijection, at=targets)
    rng = np.random.default_rng(1)
    directions = jax.tree.map(lambda a: rng.standard_normal(a.shape), (params, y))
    weights = weights_of(bijection)

    def total(params, y, c, weights):
        x, log_det = bijection.inverse(params, y, c)
        return (x * weights[0]).sum() + (log_det * weights[1]).sum()

    def moved(step):
        p, v = jax.tree.map(lambda a, d: a + step * d, (params, y), directions)
        return total(p, v, c, weights)

    expected = (moved(1e-6) - moved(-1e-6)) / 2e-6
    p, v, tc = arrays(bijection, TORCH, at=targets)
    leaves = [a.requires_grad_() for a in jax.tree.leaves((p, v))]
    total(p, v, tc, [torch.tensor(w) for w in weights]).backward()
    for gradient in (jax.tree.leaves(derivatives(bijection, "inverse")[2]), [a.grad for a in leaves]):
        got = sum(
            float((np.asarray(g) * d).sum())
            for g, d in zip(gradient, jax.tree.leaves(directions), strict=True)
            if g is not None
        )
        # central differences of step 1e-6; along a direction of many parameters a solver's error has a slope too
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-6 + 10 * precision(bijection))


@pytest.mark.slow
@each
def test_it_runs_under_jax_vmap(bijection):
    params, x, c = arrays(bijection, JAX)
    y = arrays(bijection, JAX, at=targets)[1]
    two = jax.tree.map(lambda a: np.stack([a, a + 0.01]), (params, x, y))

    def both(params, x, y, c):
        return bijection.forward(params, x, c), bijection.inverse(params, y, c)

    mapped = jax.jit(jax.vmap(both, (0, 0, 0, None)))(*two, c)
    one = bijection.forward(*arrays(bijection)), bijection.inverse(*arrays(bijection, at=targets))
    for a, b in zip(jax.tree.leaves(mapped), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-10, atol=1e-11 + precision(bijection))


@each
def test_it_runs_under_torch_func(bijection):
    params, _, c = arrays(bijection, TORCH)
    two = jax.tree.map(lambda a: torch.stack([a, a + 0.01]), params)
    within = {"rtol": 1e-7, "atol": 1e-7 + precision(bijection)}
    for run, at in ((bijection.forward, points), (bijection.inverse, targets)):
        x = arrays(bijection, TORCH, at=at)[1]
        expected, log_det = run(params, x, c)
        rows = torch.func.vmap(run, (None, 0, None if c is None else 0))(params, x, c)[0]
        torch.testing.assert_close(rows, expected, **within)
        stacked = torch.func.vmap(run, (0, 0, None))(two, torch.stack([x, x]), c)[0]
        torch.testing.assert_close(stacked[0], expected, **within)
        row_context = None if c is None else c[0]
        jacobian = torch.func.jacrev(lambda x, run=run, c=row_context: run(params, x, c)[0])(x[0])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian.reshape(x[0].numel(), -1))[1], log_det[0], **within)


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@library
def test_the_dtype_is_that_of_the_input(bijection, dtype, library):
    for run, at in ((bijection.forward, points), (bijection.inverse, targets)):
        args = arrays(bijection, library, dtype, at)
        for out in jax.eval_shape(run, *args) if library is JAX else run(*args):
            assert str(out.dtype).endswith(dtype)


@each
def test_the_same_seed_gives_the_same_parameters_and_another_seed_others(bijection):
    def leaves(seed):
        return jax.tree.leaves(bijection.init(np.random.default_rng(seed)))

    for a, b in zip(leaves(0), leaves(0), strict=True):
        np.testing.assert_array_equal(a, b)
    random = [a for a in leaves(0) if np.ptp(a) > 0]
    others = [a for a in leaves(1) if np.ptp(a) > 0]
    assert not random or any(np.any(a != b) for a, b in zip(random, others, strict=True))


@each
def test_it_is_a_value(bijection, tmp_path):
    """Hashable, picklable, rebuilt by its repr, and kept in a file."""
    assert eval(repr(bijection), vars(pf) | vars(foreign_flows)) == bijection
    assert hash(pickle.loads(pickle.dumps(bijection))) == hash(bijection)
    params = perturbed(bijection)
    pf.save(tmp_path / "flow.safetensors", bijection, params)
    loaded, loaded_params = pf.load(tmp_path / "flow.safetensors")
    assert loaded == bijection
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(loaded_params), strict=True):
        np.testing.assert_array_equal(a, b)


@each
@library
def test_wrong_shapes_are_errors_that_name_both_sides(bijection, library):
    params, x, c = arrays(bijection, library)
    with pytest.raises(ValueError, match=r"expects arrays of shape .*got \(5, 99\)"):
        bijection.forward(params, library.array(np.zeros((5, 99))), c)
    if c is None:
        with pytest.raises(ValueError, match="context_dim=0"):
            bijection.forward(params, x, x)
    else:
        with pytest.raises(ValueError, match="got no context"):
            bijection.forward(params, x)
        with pytest.raises(ValueError, match="expects context of shape"):
            bijection.forward(params, x, c[:, :1])
