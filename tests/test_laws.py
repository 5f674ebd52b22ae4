"""The laws of a bijection, on every one of them. The tolerances are for float64 unless said."""

import functools
import pickle

import foreign_flows
import jax
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
FAR = 6  # points far out


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


def ways_of(bijection):
    """Where what is looked at lies, and of which support: of ``forward`` and ``inverse``."""
    return {
        "forward": (points, bijection.domain, bijection.event_shape),
        "inverse": (targets, bijection.codomain, bijection.output_shape),
    }


def weights_of(bijection, way):
    """Of two sums over what comes out and its log_dets: over points, and with weights of one over what is far out."""
    rng = np.random.default_rng(2)
    of = bijection.output_shape if way == "forward" else bijection.event_shape
    weights = [np.zeros((2, ROWS + FAR, *shape)) for shape in (of, ())]
    for w in weights:
        w[0, :ROWS], w[1, ROWS:] = rng.standard_normal(w[0, :ROWS].shape), 1.0
    return weights


@functools.lru_cache(maxsize=8)
def gradients(bijection, way, library):
    """What comes out at points and far out, the gradient of a weighted sum at the points, and of the sum far out."""
    at, support, shape = ways_of(bijection)[way]
    params, v, c = arrays(bijection, at=at)
    far = clipped(support, far_out(shape))
    v = np.concatenate([v, far])
    c = None if c is None else np.concatenate([c, np.broadcast_to(c[0], (len(far), c.shape[-1]))])
    weights = [library.array(w) for w in weights_of(bijection, way)]

    def sums(params, v, c):
        out = getattr(bijection, way)(params, v, c)
        return [sum((a * w[i]).sum() for a, w in zip(out, weights, strict=True)) for i in (0, 1)], out

    params, v, c = library.params(params), library.array(v), library.array(c)
    if library is JAX:

        @jax.jit
        def program(params, v, c):
            _, pull, out = jax.vjp(lambda params, v: sums(params, v, c), params, v, has_aux=True)
            return out, [jax.tree.leaves(pull(of)) for of in ([1.0, 0.0], [0.0, 1.0])]

        return program(params, v, c)
    leaves = [a.requires_grad_() for a in jax.tree.leaves((params, v))]
    totals, out = sums(params, v, c)
    return [a.detach() for a in out], [
        torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        for total in totals
    ]


@each
def test_log_det_is_that_of_the_autodiff_jacobian(bijection):
    for way, (at, _, _) in ways_of(bijection).items():
        params, v, c = arrays(bijection, TORCH, at=at)
        run = getattr(bijection, way)
        of_rows = torch.func.vmap(
            torch.func.jacrev(lambda params, v, c, run=run: run(params, v, c)[0], argnums=1),
            (None, 0, None if c is None else 0),
        )
        jacobian = of_rows(params, v, c)
        expected = torch.linalg.slogdet(jacobian.reshape(ROWS, v[0].numel(), -1))[1]
        torch.testing.assert_close(run(params, v, c)[1], expected, rtol=0, atol=1e-8 + precision(bijection))


@each
def test_values_and_gradients_are_finite_far_out(bijection):
    for way in ("forward", "inverse"):
        values, (_, gradient) = gradients(bijection, way, TORCH)
        for leaf in (*values, *gradient):
            assert np.all(np.isfinite(leaf.numpy()))


@pytest.mark.parametrize(
    "bijection", [*ALL, *(pytest.param(b, marks=pytest.mark.slow) for b in OTHERS)], ids=name_of, scope="module"
)
def test_gradients_in_jax_are_those_in_torch(bijection):
    for way in ("forward", "inverse"):
        for a, b in zip(*(jax.tree.leaves(gradients(bijection, way, lib)) for lib in (JAX, TORCH)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 + 50 * precision(bijection))


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
def test_gradients_are_finite_differences(bijection):
    def weighted(params, v, way):
        out = getattr(bijection, way)(params, v, context(bijection, ROWS))
        return sum((a * w[0, :ROWS]).sum() for a, w in zip(out, weights_of(bijection, way), strict=True))

    rng = np.random.default_rng(1)
    for way, (at, _, _) in ways_of(bijection).items():
        start = perturbed(bijection), at(bijection, ROWS)
        direction = jax.tree.map(lambda a: rng.standard_normal(a.shape), start)
        up, down = (weighted(*jax.tree.map(lambda a, d, h=h: a + h * d, start, direction), way) for h in (1e-6, -1e-6))
        *of_params, of_v = gradients(bijection, way, TORCH)[1][0]
        slopes = zip([*of_params, of_v[:ROWS]], jax.tree.leaves(direction), strict=True)
        got = sum(float((gradient.numpy() * along).sum()) for gradient, along in slopes)
        # along a direction of many parameters a solver's error has a slope too
        slack = {"forward": 50, "inverse": 10}[way] * precision(bijection)
        assert got == pytest.approx((up - down) / 2e-6, rel=1e-5, abs=1e-6 + slack)


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
