"""``remat``: the same values and gradients from less memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import JAX, NUMPY, TORCH, context, name_of, perturbed, points

import ppl_flows as pf
import ppl_flows.numpyro as in_numpyro
import ppl_flows.pyro as in_pyro
from ppl_flows.combinators.stack import REMAT
from ppl_flows.conditioners.mlp import DenseNetwork
from ppl_flows.core.params import flatten, map_params
from ppl_flows.descriptions import build, describe

NET = {"conditioner": pf.MLP((6, 5))}
BLOCK = pf.Chain(
    [
        pf.Coupling(4, context_dim=3, conditioner=pf.MLP((5,))),
        pf.Shuffle(4),  # state among the parameters
        pf.Inverse(pf.Coupling(4, conditioner=pf.MLP((4,)))),
    ]
)
STACKS = [pf.Chain([BLOCK, pf.Elementwise(4, pf.SinhArcsinh())]), pf.Repeat(BLOCK, times=3)]
OTHERS = ("checkpoint", "reversible")
each = pytest.mark.parametrize("stack", STACKS, ids=name_of)
other = pytest.mark.parametrize("remat", OTHERS)


def with_remat(stack, remat):
    return dataclasses.replace(stack, remat=remat)


def loss(flow, params, x, c=None):
    """Of both directions."""
    total = 0.0
    for run in (flow.forward, flow.inverse):
        out, log_det = run(params, x, c)
        total = total + (out**3).sum() + (log_det * out[..., 0]).sum()
    return total


def in_torch(flow, *args):
    leaves = [a.clone().requires_grad_() for a in jax.tree.leaves(args)]
    loss(flow, *jax.tree.unflatten(jax.tree.structure(args), leaves)).backward()
    return [np.zeros(a.shape) if a.grad is None else a.grad.numpy() for a in leaves]


def in_jax(flow, *args):
    return list(map(np.asarray, jax.tree.leaves(jax.jit(jax.grad(lambda args: loss(flow, *args)))(args))))


def agree(stack, dtype, scale, within):
    """Gradients under every remat in both languages are torch's plain ones."""
    expected = None
    for library, gradient, remats in ((TORCH, in_torch, REMAT), (JAX, in_jax, OTHERS)):
        args = library.params(perturbed(stack, scale), dtype), library.array(points(stack, 8), dtype)
        args += (library.array(context(stack, 8), dtype),)
        for remat in remats:
            found = gradient(with_remat(stack, remat), *args)
            expected = expected or found
            for g, e in zip(found, expected, strict=True):
                assert np.linalg.norm(g - e) <= within * np.linalg.norm(e)
    assert max(np.abs(g).max() for g in expected) > 1


@each
def test_gradients_are_those_of_autodiff(stack):
    agree(stack, "float64", 0.2, 1e-10)


def test_float32_gradients_agree_too():
    agree(pf.Repeat(pf.real_nvp(8, flow_layers=2, hidden=(8,)), times=8), "float32", 0.05, 1e-5)


def test_gradients_agree_where_an_inverse_is_numerical_or_sequential():
    stack = pf.Chain([pf.MaskedAutoregressive(4, pf.RationalQuadratic(bins=3), **NET), pf.Planar(4), pf.Reverse(4)])
    args = TORCH.params(perturbed(stack)), TORCH.array(points(stack))
    expected = in_torch(stack, *args)
    for remat in OTHERS:
        for g, e in zip(in_torch(with_remat(stack, remat), *args), expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-8 * np.abs(e).max())


@each
@other
def test_values_are_those_of_the_plain_stack(stack, remat):
    for library in (NUMPY, TORCH):  # those of JAX come with its gradients
        args = library.params(perturbed(stack)), library.array(points(stack)), library.array(context(stack))
        for run in ("forward", "inverse"):
            expected = library.run(getattr(stack, run), *args)
            for a, b in zip(library.run(getattr(with_remat(stack, remat), run), *args), expected, strict=True):
                np.testing.assert_array_equal(a, b)


def test_it_runs_under_the_transformations_of_torch():
    stack = pf.Repeat(pf.Coupling(4, conditioner=pf.MLP((3,))), times=2)
    params, x = TORCH.params(perturbed(stack)), TORCH.array(points(stack))
    two, xs = side_by_side(TORCH, stack)
    vmap, grad = torch.func.vmap, torch.func.grad
    results = []
    for remat in REMAT:
        flow = with_remat(stack, remat)

        def one(p, x, flow=flow):
            return loss(flow, p, x)

        found = (
            vmap(grad(one), (0, None))(two, x),
            vmap(grad(one, (0, 1)), (None, 0))(params, x),
            grad(lambda p, flow=flow: loss(pf.Batched(flow, batch=(2,)), p, xs))(two),
            torch.func.jacrev(grad(one, 1), 1)(params, x[0]),
        )
        results.append(jax.tree.leaves(found))
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_it_runs_under_jax_vmap():
    stack = pf.Repeat(pf.Coupling(4, conditioner=pf.MLP((3,))), times=2)
    expected = in_torch(pf.Batched(stack, batch=(2,)), *side_by_side(TORCH, stack))
    found = in_jax(pf.Batched(with_remat(stack, "reversible"), batch=(2,)), *side_by_side(JAX, stack))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def side_by_side(library, stack):
    two = map_params(lambda _, a: np.stack([a, a + 0.01]), perturbed(stack))
    return library.params(two), library.array(np.stack([points(stack)] * 2, axis=1))


def test_second_derivatives_of_torch_autograd():
    stack = pf.Chain([pf.Coupling(4, **NET), pf.Reverse(4)] * 2)
    found = []
    for remat in REMAT:
        p, x = TORCH.params(perturbed(stack)), TORCH.array(points(stack)).requires_grad_()
        (g,) = torch.autograd.grad(loss(with_remat(stack, remat), p, x), x, create_graph=True)
        found.append(torch.autograd.grad((g**2).sum(), x)[0])
    for a in found[1:]:
        torch.testing.assert_close(a, found[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("remat", "passes"), [("none", 1), ("checkpoint", 2), ("reversible", 3)])
def test_passes_of_the_networks(remat, passes, monkeypatch):
    calls = []
    call = DenseNetwork.__call__
    monkeypatch.setattr(DenseNetwork, "__call__", lambda *args: calls.append(1) or call(*args))
    for stack in (pf.Chain([pf.Coupling(4)] * 5), pf.Repeat(pf.Coupling(4), times=5)):
        calls.clear()
        params = map_params(lambda _, a: a.requires_grad_(), TORCH.params(stack.init(np.random.default_rng(0))))
        out, log_det = with_remat(stack, remat).inverse(params, TORCH.array(points(stack)))
        assert len(calls) == 5
        (out.sum() + log_det.sum()).backward()
        assert len(calls) == 5 * passes


def kept(layers, remat, kind):
    """Bytes that torch's forward pass leaves for the backward one, besides the parameters."""
    stack = deep(layers, remat, kind)
    params = map_params(lambda _, a: a.requires_grad_(), TORCH.params(stack.init(np.random.default_rng(0))))
    own = {a.untyped_storage().data_ptr() for _, a in flatten(params)}
    storages = {}

    def pack(a):
        if a.untyped_storage().data_ptr() not in own:
            storages[a.untyped_storage().data_ptr()] = a.untyped_storage()  # alive, or its address is used again
        return a

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda a: a):
        stack.inverse(params, torch.zeros(64, 8, dtype=torch.float64))
    return sum(s.nbytes() for s in storages.values())


def temporary(layers, remat, kind):
    """Bytes of temporary buffers in JAX's compiled gradient, without what its outputs take."""
    stack = deep(layers, remat, kind)
    params = JAX.params(stack.init(np.random.default_rng(0)), "float32")
    grad = jax.jit(jax.grad(lambda p, y: sum(a.sum() for a in stack.inverse(p, y))))
    return grad.lower(params, jnp.zeros((4096, 8), "float32")).compile().memory_analysis().temp_size_in_bytes


def deep(layers, remat, kind):
    layer = pf.Coupling(8, conditioner=pf.MLP((32,)))
    return pf.Chain([layer] * layers, remat=remat) if kind == "Chain" else pf.Repeat(layer, times=layers, remat=remat)


@pytest.mark.parametrize(("measure", "kind"), [(kept, "Chain"), (kept, "Repeat"), (temporary, "Repeat")])
def test_memory(measure, kind):
    few, many = 8, 32
    none, checkpoint, reversible = (measure(many, remat, kind) for remat in REMAT)
    assert none > 3 * measure(few, "none", kind)
    assert checkpoint <= none / 4
    assert reversible <= 1.2 * measure(few, "reversible", kind)
    assert reversible < measure(few, "none", kind)


def stiff():
    """Couplings whose inverse cannot undo them in float32."""
    stack = pf.Repeat(pf.Chain([pf.Coupling(4, conditioner=pf.MLP((8,))), pf.Reverse(4)]), times=10, remat="reversible")
    return stack, perturbed(stack, 0.5), np.random.default_rng(0).standard_normal((8, 4))


def test_what_is_too_ill_conditioned_raises():
    stack, params, x = stiff()
    message = r'Repeat: remat="reversible" .* to a relative 3\.5e-04 .* differ by .*; use remat="checkpoint", float64'
    args = TORCH.params(params, "float32"), TORCH.array(x, "float32")
    with pytest.raises(ValueError, match=message):
        in_torch(stack, *args)
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(torch.func.grad(lambda p, x: loss(stack, p, x)), (None, 0))(*args)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        in_jax(stack, JAX.params(params, "float32"), JAX.array(x, "float32"))
    assert all(np.isfinite(g).all() for g in in_torch(with_remat(stack, "checkpoint"), *args))


def test_the_start_of_a_flow_at_the_origin_is_well_conditioned():
    stack = pf.real_nvp(2, flow_layers=4)
    params = TORCH.params(perturbed(stack, 0.1), "float32")
    x = torch.zeros(2, requires_grad=True)
    loss(with_remat(stack, "reversible"), params, x).backward()
    assert torch.isfinite(x.grad).all()


@other
def test_observe_moves_the_state_and_has_the_same_gradient(remat):
    stateful = pf.BatchNorm(4) if remat == "checkpoint" else pf.ContractiveResidual(4, exact=False, hidden=(5,))
    stack = pf.Repeat(pf.Chain([pf.Coupling(4, conditioner=pf.MLP((5,))), stateful]), times=2)
    y, results = 0.1 * np.random.default_rng(0).standard_normal((6, 4)), []
    for library, chosen in ((TORCH, "none"), (TORCH, remat), (JAX, remat)):
        batch = library.array(y)

        def total(params, chosen=chosen, batch=batch):
            new, x, log_det = with_remat(stack, chosen).observe(params, batch)
            return (x**3).sum() + log_det.sum(), pf.split(new)

        grad = torch.func.grad if library is TORCH else lambda *a, **k: jax.jit(jax.grad(*a, **k))
        results.append(jax.tree.leaves(grad(total, has_aux=True)(library.params(perturbed(stack)))))
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    params = perturbed(stack)
    moved = pf.split(stack.observe(params, y)[0])[1], pf.split(params)[1]
    assert all(np.all(a != b) for a, b in zip(*map(jax.tree.leaves, moved), strict=True))


def test_the_other_stages_are_those_of_the_plain_stack():
    stack = pf.Chain([pf.Coupling(2), pf.ActNorm(2)])
    params, y = perturbed(stack), 3.0 + np.random.default_rng(0).standard_normal((6, 2))
    expected = stack.observe(params, y, stage="start")
    for remat in OTHERS:
        got = with_remat(stack, remat).observe(params, y, stage="start")
        jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_it_is_checked_at_construction():
    with pytest.raises(ValueError, match="Chain: unknown remat 'all'; choose one of none, checkpoint, reversible"):
        pf.Chain([pf.Reverse(2)], remat="all")
    nested = pf.Chain([pf.Coupling(2), pf.Inverse(pf.BatchNorm(2))])
    with pytest.raises(ValueError, match=r"of BatchNorm depends on the whole batch .* or ActNorm"):
        pf.Repeat(nested, times=2, remat="reversible")
    pf.Repeat(nested, times=2, remat="checkpoint")


def test_it_is_a_field_like_any_other(tmp_path):
    for stack in STACKS:
        changed = with_remat(stack, "checkpoint")
        assert eval(repr(changed), vars(pf)) == changed != stack
        assert len({stack, changed, with_remat(stack, "checkpoint")}) == 2
        params = perturbed(stack)
        pf.save(tmp_path / "flow.safetensors", changed, params)
        assert pf.load(tmp_path / "flow.safetensors")[0] == changed


def test_files_from_before_it_load():
    described = {k: v for k, v in describe(STACKS[1]).items() if k != "remat"}
    assert build(described, 0) == STACKS[1]


Y = np.random.default_rng(0).standard_normal((64, 2)).astype("float32") ** 3


def test_a_density_trains_the_same_in_pyro():
    flow, options = pf.real_nvp(2, flow_layers=4, hidden=(8,)), {"steps": 30, "batch_size": 32, "progress": False}
    fits = [in_pyro.fit_density(with_remat(flow, remat), torch.tensor(Y), **options) for remat in REMAT]
    assert fits[0].losses[-5:].mean() < fits[0].losses[:5].mean()
    for fit in fits[1:]:
        np.testing.assert_allclose(fit.losses, fits[0].losses, rtol=1e-4, atol=1e-4)


def test_a_density_trains_in_numpyro():
    flow = pf.Repeat(pf.Coupling(2, conditioner=pf.MLP((8,))), times=2, remat="reversible")
    fit = in_numpyro.fit_density(flow, Y, steps=60, batch_size=32, progress=False)
    assert fit.losses[-5:].mean() < fit.losses[:5].mean()
    first = flow.init(np.random.default_rng(0))
    assert any(
        np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (fit.params["flow"], first)), strict=True)
    )
