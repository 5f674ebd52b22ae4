"""bfloat16: weights and values are stored in it, networks multiply in it, sums and solutions are float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cases import ALL, JAX, TORCH, context, name_of, perturbed, points, targets

import ppl_flows as pf
import ppl_flows.numpyro as in_numpyro
import ppl_flows.pyro as in_pyro
from ppl_flows.core.params import flatten, map_params

BF16 = {"torch": torch.bfloat16, "jax": jnp.bfloat16}
LANGUAGES = pytest.mark.parametrize("library", [TORCH, JAX], ids=["torch", "jax"])
SMALL = pf.Chain([pf.Coupling(4, conditioner=pf.MLP((8,))), pf.Shuffle(4), pf.Elementwise(4, pf.RationalQuadratic())])


def cast(a, dtype):
    return a.to(dtype) if isinstance(a, torch.Tensor) else a.astype(dtype)


def rounded(library, params):
    """params with weights in bfloat16 and state in float32."""
    weights, state = pf.split(library.params(params, "float32"))
    return pf.merge(map_params(lambda _, a: cast(a, BF16[library.name]), weights), state)


def as_numpy(a):
    return np.asarray(cast(a.detach(), torch.float64) if isinstance(a, torch.Tensor) else a, dtype=np.float64)


def compiled(library, f):
    return jax.jit(f) if library is JAX else f


@pytest.mark.parametrize("bijection", ALL, ids=name_of)
def test_bfloat16_weights_give_a_float32_log_det_near_the_exact_one(bijection):
    params = rounded(TORCH, perturbed(bijection, 0.1))
    leaves = [a.requires_grad_() for _, a in flatten(pf.split(params)[0])]
    c = None if context(bijection) is None else TORCH.array(context(bijection)).bfloat16()
    for run, at in ((bijection.forward, points), (bijection.inverse, targets)):
        v = TORCH.array(at(bijection)).bfloat16()
        out, log_det = run(params, v, c)
        assert out.dtype == torch.bfloat16
        assert log_det.dtype == torch.float32
        exact_out, exact = run(
            map_params(lambda _, a: as_numpy(a), params), as_numpy(v), None if c is None else as_numpy(c)
        )
        # 8 bits of mantissa in the hidden layers of a coupling and, in a Chain, between the parts
        np.testing.assert_allclose(as_numpy(out), exact_out, rtol=0.05, atol=0.05)
        np.testing.assert_allclose(as_numpy(log_det), exact, rtol=0.05, atol=0.1)
        if leaves:
            gradients = torch.autograd.grad(out.float().sum() + log_det.sum(), leaves, allow_unused=True)
            assert all(g is None or torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("bijection", ALL, ids=name_of)
def test_in_jax_too(bijection):
    params = rounded(JAX, perturbed(bijection, 0.1))
    c = None if context(bijection) is None else JAX.array(context(bijection), "bfloat16")
    for run, at in ((bijection.forward, points), (bijection.inverse, targets)):
        for dtype in ("bfloat16", "float32"):
            v = JAX.array(at(bijection), dtype)
            out, log_det = jax.eval_shape(run, params, v, c)
            assert (out.dtype, log_det.dtype) == (dtype, "float32")


@LANGUAGES
def test_float32_values_meet_bfloat16_weights_in_float32(library):
    params, x = rounded(library, perturbed(SMALL)), points(SMALL)
    exact = SMALL.forward(map_params(lambda _, a: as_numpy(a), params), x)
    out = compiled(library, SMALL.forward)(params, library.array(x, "float32"))
    for a, b in zip(out, exact, strict=True):
        assert str(a.dtype).endswith("float32")
        np.testing.assert_allclose(as_numpy(a), b, rtol=1e-5, atol=1e-5)


def test_many_coordinates_are_summed_in_float32():
    layer = pf.Elementwise(1000)
    params = {"theta": torch.full((1000, 2), 0.1, dtype=torch.bfloat16)}
    one = layer.forward(params, torch.zeros(1000, dtype=torch.bfloat16))[1]
    many = pf.Chain([layer] * 50).forward({str(i): params for i in range(50)}, torch.zeros(1000))[1]
    assert float(many) == pytest.approx(50 * float(one), rel=1e-6)


@pytest.mark.parametrize("remat", ["checkpoint", "reversible"])
@LANGUAGES
def test_remat_in_bfloat16(remat, library):
    stack = pf.Repeat(pf.Coupling(4, conditioner=pf.MLP((8,))), times=2)
    params, x = rounded(library, perturbed(stack, 0.1)), cast(library.array(points(stack)), BF16[library.name])
    found = []
    for flow in (stack, pf.Repeat(stack.part, times=2, remat=remat)):
        loss = lambda p, flow=flow: flow.forward(p, x)[1].sum()  # noqa: E731
        grad = (torch.func.grad if library is TORCH else jax.grad)(loss)
        found.append(jax.tree.leaves(compiled(library, grad)(params)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(as_numpy(a), as_numpy(b), rtol=0.1, atol=0.1)


@LANGUAGES
@pytest.mark.parametrize("base", [None, pf.StudentT(4)], ids=["normal", "StudentT"])
def test_a_flow_scores_and_samples_in_float32(library, base):
    shell, y = (in_pyro if library is TORCH else in_numpyro), points(SMALL)
    params = rounded(library, perturbed(SMALL))
    exact = shell.Flow(SMALL, library.params(map_params(lambda _, a: as_numpy(a), params)), base=base)
    if base is not None:
        base = shell.BaseDistribution(base, rounded(library, base.init(np.random.default_rng(0))))
    flow = shell.Flow(SMALL, params, base=base)
    log_prob = compiled(library, flow.log_prob)
    scored, in_bf16 = log_prob(library.array(y, "float32")), log_prob(cast(library.array(y), BF16[library.name]))
    drawn = (
        flow.sample((1000,)) if library is TORCH else jax.jit(flow.sample, static_argnums=1)(jax.random.key(0), (1000,))
    )
    assert str(scored.dtype).endswith("float32")
    assert str(in_bf16.dtype).endswith("float32")
    assert drawn.dtype.itemsize >= 4  # NumPyro's normal draws in JAX's default dtype, here float64
    expected = compiled(library, exact.log_prob)(library.array(y))
    np.testing.assert_allclose(as_numpy(scored), as_numpy(expected), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(as_numpy(in_bf16), as_numpy(expected), rtol=0.05, atol=0.2)


def test_a_flow_of_bfloat16_weights_trains():
    y = torch.tensor(np.random.default_rng(0).standard_normal((256, 2)) * [2.0, 0.5] + 1.0).bfloat16()
    flow = pf.Chain([pf.Coupling(2, conditioner=pf.MLP((8,))), pf.Elementwise(2)])
    transform = in_pyro.FlowTransform(flow).bfloat16()
    density = in_pyro.Flow(transform)
    before = [p.detach().clone() for p in transform.parameters()]
    optimiser, losses = torch.optim.Adam(transform.parameters(), 0.05), []
    for _ in range(40):
        optimiser.zero_grad()
        loss = -density.log_prob(y).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.5
    moved = [not torch.equal(a, b) for a, b in zip(before, transform.parameters(), strict=True)]
    assert all(moved)
    assert all(p.dtype == torch.bfloat16 for p in transform.parameters())


def test_state_stays_in_float32():
    layer = pf.BatchNorm(2)
    params = TORCH.params(layer.init(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"'state\.mean' is state, which must stay in float32, .*pf\.split"):
        layer.forward(map_params(lambda _, a: a.bfloat16(), params), torch.zeros(3, 2))
    new, *_ = layer.observe(rounded(TORCH, layer.init(np.random.default_rng(0))), torch.randn(8, 2).bfloat16())
    assert [str(a.dtype) for _, a in flatten(new)] == ["torch.bfloat16"] * 2 + ["torch.float32"] * 2


@LANGUAGES
def test_a_file_keeps_the_values(library, tmp_path):
    params = rounded(library, perturbed(SMALL))
    pf.save(tmp_path / "flow.safetensors", SMALL, params)
    loaded = dict(flatten(pf.load(tmp_path / "flow.safetensors")[1]))
    for name, a in flatten(params):
        np.testing.assert_array_equal(loaded[name], as_numpy(a))
