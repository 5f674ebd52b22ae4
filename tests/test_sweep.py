"""The inverse of a masked network does the arithmetic of about one pass, by every method, and so do its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import JAX, NUMPY, TORCH
from jax.extend import core as jax_core
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import ppl_flows as pf
from ppl_flows.conditioners.masked_mlp import MaskedMLP
from ppl_flows.numerics import triangular_sweep

DIM, ROWS, CONTEXT = 64, 100, 2
RNG = np.random.default_rng(1)
X, C = RNG.standard_normal((ROWS, DIM)), RNG.standard_normal((ROWS, CONTEXT))
METHODS = pytest.mark.parametrize("method", ["sweep", "jacobi"])
KINDS = {
    "plain": {},
    "residual": {"conditioner": pf.MLP((128, 128), residual=True)},
    "context-flip": {"context_dim": CONTEXT, "flip": True},
    "spline": {"transformer": pf.RationalQuadratic(bins=4)},
    "numerical": {"transformer": pf.DeepSigmoidal(units=3)},
}
each = pytest.mark.parametrize("kind", KINDS)


def layer_of(kind: str, dim: int = DIM, **fields) -> pf.MaskedAutoregressive:
    return pf.MaskedAutoregressive(dim, **{"conditioner": pf.MLP((128, 128)), **KINDS[kind], **fields})


def initial(layer: pf.Bijection) -> dict[str, np.ndarray]:
    return layer.init(np.random.default_rng(0))


def perturbed(layer: pf.Bijection) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {k: a + 0.5 * rng.standard_normal(a.shape) / len(a) ** 0.5 for k, a in layer.init(rng).items()}


def inputs(layer: pf.Bijection, library, x=X) -> tuple:
    return library.array(x), library.array(C[: len(x)]) if layer.context_dim else None


class Products(TorchDispatchMode):
    """Multiplications and additions in matrix products."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_", "bmm", "mv", "addmv"):
            self.flops += 2 * out.numel() * args[1 if name.startswith("add") else 0].shape[-1]
        return out


def torch_flops(f, *args) -> int:
    with Products() as counter:
        f(*args)
    return counter.flops


def jax_flops(jaxpr: jax_core.Jaxpr) -> int:
    """As ``Products``, loops counted as often as they run."""
    total = 0
    for eqn in jaxpr.eqns:
        params = eqn.params
        if eqn.primitive.name == "custom_linear_solve":
            params = {"solve": params["jaxprs"].solve}  # what runs of it
        inner = [p for p in jax.tree.leaves(params) if isinstance(p, jax_core.Jaxpr | jax_core.ClosedJaxpr)]
        inner = [getattr(p, "jaxpr", p) for p in inner]
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        total += times * sum(jax_flops(p) for p in inner)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = np.prod([eqn.invars[0].aval.shape[i] for i in contracted], dtype=int)
            total += 2 * depth * np.prod(eqn.outvars[0].aval.shape, dtype=int)
    return int(total)


@each
def test_inverting_in_torch_takes_at_most_one_pass_of_arithmetic(kind):
    layer = layer_of(kind)
    params, args = TORCH.params(initial(layer)), inputs(layer, TORCH)
    one_pass = torch_flops(layer.forward, params, *args)
    assert 0.4 * one_pass < torch_flops(layer.inverse, params, *args) <= 1.1 * one_pass


@each
def test_the_gradient_of_the_inverse_in_torch_takes_a_few_passes(kind):
    layer = layer_of(kind)
    params = {k: torch.tensor(a, requires_grad=True) for k, a in initial(layer).items()}
    x, context = inputs(layer, TORCH)

    def with_gradient(run):
        y, log_det = run(params, x.requires_grad_(), context)
        (y.sum() + log_det.sum()).backward()

    assert torch_flops(with_gradient, layer.inverse) <= 1.8 * torch_flops(with_gradient, layer.forward)


@pytest.mark.parametrize(
    ("kind", "dim"),
    [*((kind, DIM) for kind in KINDS), ("residual", 100)],  # 100: neither blocks nor degrees of one size
)
def test_inverting_in_jax_takes_at_most_two_passes_of_arithmetic(kind, dim):
    layer = layer_of(kind, dim)
    params, (x, context) = JAX.params(initial(layer)), inputs(layer, JAX, RNG.standard_normal((ROWS, dim)))

    def flops(f):
        return jax_flops(jax.make_jaxpr(f)(params, x).jaxpr)

    def gradient(run):
        return jax.grad(lambda p, x: sum(jnp.sum(a) for a in run(p, x, context)), (0, 1))

    one_pass = flops(lambda p, x: layer.forward(p, x, context))
    assert 0.4 * one_pass < flops(lambda p, x: layer.inverse(p, x, context)) <= 2 * one_pass
    assert flops(gradient(layer.inverse)) <= 2.5 * flops(gradient(layer.forward))


@each
def test_the_dense_network_is_not_passed_to_invert(kind, monkeypatch):
    """The plain loop passes it dim times."""
    layer = layer_of(kind)
    passes = []
    trace = MaskedMLP.trace
    monkeypatch.setattr(MaskedMLP, "trace", lambda *args: passes.append(1) or trace(*args))
    layer.inverse(TORCH.params(initial(layer)), *inputs(layer, TORCH))
    jax.make_jaxpr(layer.inverse)(JAX.params(initial(layer)), *inputs(layer, JAX))
    assert not passes


def counted_passes(monkeypatch) -> list[int]:
    passes = []
    whole_pass = triangular_sweep.whole_pass
    monkeypatch.setattr(triangular_sweep, "whole_pass", lambda *args: passes.append(1) or whole_pass(*args))
    return passes


@each
def test_jacobi_iteration_takes_few_passes_and_never_more_than_there_are_coordinates(kind, monkeypatch):
    layer, passes = layer_of(kind, method="jacobi"), counted_passes(monkeypatch)
    x = X[:1].astype("float32")
    for arrays, most in ((initial(layer), 15), (perturbed(layer), DIM)):
        params = {k: torch.tensor(a, dtype=torch.float32) for k, a in arrays.items()}
        y, context = inputs(layer, TORCH, x)
        layer.inverse(params, y, None if context is None else context.to(torch.float32))
        assert 2 <= len(passes) <= most
        passes.clear()


def test_auto_iterates_for_few_rows_in_torch_and_sweeps_otherwise(monkeypatch):
    passes = counted_passes(monkeypatch)
    layer = layer_of("plain")
    params = TORCH.params(initial(layer))
    for rows, iterates in ((1, True), (DIM // 4, True), (DIM // 4 + 1, False)):
        layer.inverse(params, torch.tensor(X[:rows]))
        assert bool(passes) is iterates, rows
        passes.clear()
    short = layer_of("plain", dim=31)
    short.inverse(TORCH.params(initial(short)), torch.tensor(X[:1, :31]))
    layer.inverse(initial(layer), X[:1])
    jax.make_jaxpr(layer.inverse)(JAX.params(initial(layer)), X[:1])
    assert not passes


def test_a_captured_graph_holds_for_other_data_whatever_the_method():
    layer = layer_of("plain", dim=5, method="jacobi", conditioner=pf.MLP((6,)))
    params = TORCH.params(perturbed(layer))

    def gradient(y):
        y = y.detach().requires_grad_()
        x, log_det = layer.inverse(params, y)
        return torch.autograd.grad((x**2).sum() + log_det.sum(), y)[0]

    graph = make_fx(gradient)(torch.zeros(2, 5, dtype=torch.float64))
    y = torch.tensor(X[:2, :5])
    np.testing.assert_allclose(graph(y), gradient(y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "method", "dim"),  # 3 is one block, 37 are three of which the last is not full
    [*((kind, "sweep", 37) for kind in KINDS), ("context-flip", "sweep", 3), ("context-flip", "jacobi", 37)],
)
def test_every_method_undoes_the_forward_map(kind, method, dim):
    layer = layer_of(kind, dim, method=method, conditioner=pf.MLP((40, 40), residual=kind == "residual"))
    params, x = perturbed(layer), X[:6, :dim]
    y, log_det = layer.forward(params, *inputs(layer, NUMPY, x))
    for library in (NUMPY, TORCH, JAX):
        p, (y_, context) = library.params(params), inputs(layer, library, y)
        back, back_log_det = library.run(lambda y, p=p, c=context: layer.inverse(p, y, c), y_)
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-11)  # a hundredfold of rounding, by the steepest slopes
        np.testing.assert_allclose(back_log_det, -log_det, rtol=0, atol=1e-11)


@METHODS
def test_a_row_that_is_not_a_number_leaves_the_others_right(method):
    layer = layer_of("plain", dim=5, method=method, conditioner=pf.MLP((6,)))
    params, y = TORCH.params(perturbed(layer)), torch.tensor(X[:3, :5])
    expected = layer.inverse(params, y)
    y[1, 2] = float("nan")
    x, log_det = layer.inverse(params, y)
    assert torch.isnan(x[1, 2])
    np.testing.assert_allclose(x[[0, 2]], expected[0][[0, 2]], rtol=0, atol=1e-12)
    np.testing.assert_allclose(log_det[[0, 2]], expected[1][[0, 2]], rtol=0, atol=1e-12)


def test_rows_mapped_by_torch_func_may_be_batches_that_share_weights_and_broadcast_a_context():
    layer = layer_of("context-flip", dim=5, conditioner=pf.MLP((6,)))
    params, y, c = TORCH.params(perturbed(layer)), torch.tensor(X[:12, :5]).reshape(4, 3, 5), torch.tensor(C[:4])
    mapped = torch.func.vmap(layer.inverse, (None, 0, 0))(params, y, c)
    for i in range(4):
        for found, expected in zip(mapped, layer.inverse(params, y[i], c[i]), strict=True):
            np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-12)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="auto, sweep, jacobi"):
        pf.MaskedAutoregressive(3, method="newton")


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("context_dim", [0, 2])
def test_a_coordinate_depends_on_all_before_it_and_on_none_after(context_dim, residual):
    layer = pf.MaskedAutoregressive(5, context_dim=context_dim, conditioner=pf.MLP(residual=residual))
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(a + 0.3 * rng.standard_normal(a.shape)) for k, a in layer.init(rng).items()}
    context = jnp.ones(2) if context_dim else None
    jacobian = jax.jacrev(lambda x: layer.forward(params, x, context)[0])(jnp.asarray(X[0, :5]))
    assert np.all(np.triu(jacobian, 1) == 0)
    assert np.all(np.abs(jacobian[np.tril_indices(5)]) > 1e-8)
    if context_dim:
        first = jax.jacrev(lambda c: layer.forward(params, jnp.asarray(X[0, :5]), c)[0])(context)
        assert np.all(np.abs(first) > 1e-8), "every coordinate, the first too, sees the context"


@pytest.mark.parametrize("hidden", [(), (3,), (9, 9)])  # fewer units than degrees, and more
def test_a_residual_inverse_undoes_its_forward_map_for_every_width(hidden):
    layer = pf.MaskedAutoregressive(6, conditioner=pf.MLP(hidden, residual=True))
    params = {k: a + 0.3 * np.sin(np.arange(a.size)).reshape(a.shape) for k, a in initial(layer).items()}
    x = X[:7, :6]
    for library in (NUMPY, TORCH, JAX):
        p = library.params(params)
        back, log_det = library.run(lambda y, p=p: layer.inverse(p, layer.forward(p, y)[0]), library.array(x))
        np.testing.assert_allclose(back, x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(log_det, -layer.forward(params, x)[1], rtol=0, atol=1e-12)
