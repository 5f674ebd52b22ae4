"""Layers that learn from the batches they see: data-dependent starts, running averages, and where these are kept."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from cases import ALL, JAX, LIBRARIES, NUMPY, TORCH, context, name_of, perturbed, targets

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro
from ppl_flows.core.params import flatten, stack, unstack

NORMALISED = pf.Chain(
    [
        pf.Coupling(2, flip=True, conditioner=pf.MLP((8,))),
        pf.BatchNorm(2),
        pf.Coupling(2, conditioner=pf.MLP((8,))),
        pf.ActNorm(2),
        pf.BatchNorm(2, momentum=0.3),
    ]
)


def skewed(rows: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, 2))
    return np.stack([3 * x[:, 0] + 1, np.exp(0.5 * x[:, 1]) + x[:, 0]], axis=-1)


@pytest.mark.parametrize("bijection", ALL, ids=name_of)
def test_a_training_pass_changes_no_weight_and_where_there_is_no_state_it_is_the_inverse(bijection):
    params, y, c = NUMPY.params(perturbed(bijection)), targets(bijection), context(bijection)
    new, x, log_det = bijection.observe(params, y, c)
    for a, b in zip(flatten(pf.split(params)[0]), flatten(pf.split(new)[0]), strict=True):
        assert a[0] == b[0]
        np.testing.assert_array_equal(a[1], b[1])
    if not pf.split(params)[1]:
        expected, expected_log_det = bijection.inverse(params, y, c)
        np.testing.assert_array_equal(x, expected)
        np.testing.assert_array_equal(log_det, expected_log_det)


@pytest.mark.parametrize("stage", ["start", "train", "settle"])
@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: pf.Repeat(b, times=2), lambda b: pf.Chain([pf.Permute(2), b])])
def test_a_training_pass_is_the_same_in_every_library(stage, wrap):
    bijection = wrap(NORMALISED)

    def observe(params, y):
        new, x, log_det = bijection.observe(params, y, stage=stage)
        return *(a for _, a in sorted(flatten(new))), x, log_det  # jax.jit sorts a dict

    params = perturbed(bijection)
    results = [library.run(observe, library.params(params), library.array(skewed(9))) for library in LIBRARIES]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("forward", [False, True])
def test_act_norm_starts_at_mean_0_and_variance_1(forward):
    batch, layer = skewed(50), pf.ActNorm(2)
    params, out, log_det = layer.observe(layer.init(np.random.default_rng(0)), batch, forward=forward, stage="start")
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(out.var(0), 1, atol=1e-12)
    again, again_log_det = (layer.forward if forward else layer.inverse)(params, batch)
    np.testing.assert_array_equal(out, again)
    np.testing.assert_array_equal(log_det, again_log_det)


def test_act_norm_only_centres_a_constant_column():
    batch = skewed(20)
    batch[:, 1] = 0.1  # its mean is not exactly 0.1, and its variance not exactly 0
    params, out, _ = pf.ActNorm(2).observe(pf.ActNorm(2).init(np.random.default_rng(0)), batch, stage="start")
    assert params["log_scale"][1] == 0
    np.testing.assert_allclose(out[:, 1], 0, atol=1e-15)


def test_in_training_batch_norm_is_its_inverse_under_the_batch_statistics():
    layer, batch = pf.Chain([pf.BatchNorm(2), pf.Reverse(2), pf.BatchNorm(2)]), skewed(30)
    params = perturbed(layer)
    new, x, log_det = layer.observe(params, batch)
    started = layer.observe(params, batch, stage="start")[0]
    expected, expected_log_det = layer.inverse(started, batch)
    np.testing.assert_allclose(x, expected, rtol=1e-12)
    np.testing.assert_allclose(log_det, expected_log_det, rtol=1e-12)
    old = params["2"]["state"]
    np.testing.assert_allclose(new["2"]["state"]["mean"], 0.9 * old["mean"] + 0.1 * batch.mean(0), rtol=1e-12)
    np.testing.assert_allclose(new["2"]["state"]["var"], 0.9 * old["var"] + 0.1 * batch.var(0), rtol=1e-12)


@pytest.mark.slow
def test_gradients_go_through_the_batch_statistics():
    batch, weights = skewed(6), np.random.default_rng(1).standard_normal((6, 2))

    def total(params, y, weights):
        _, x, log_det = NORMALISED.observe(params, y)
        return (x * weights).sum() + log_det.sum()

    params, direction = perturbed(NORMALISED), np.random.default_rng(2).standard_normal(batch.shape)
    step = 1e-6 * direction
    expected = (total(params, batch + step, weights) - total(params, batch - step, weights)) / 2e-6
    in_jax = jax.grad(total, 1)(JAX.params(params), jnp.asarray(batch), jnp.asarray(weights))
    y = torch.tensor(batch, requires_grad=True)
    total(TORCH.params(params), y, torch.tensor(weights)).backward()
    for gradient in (in_jax, y.grad):
        assert float((np.asarray(gradient) * direction).sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
@pytest.mark.parametrize("layer", [pf.ActNorm(2), pf.BatchNorm(2)])
def test_a_batch_of_one_has_no_statistics(layer, shape):
    for library in LIBRARIES:
        params = library.params(layer.init(np.random.default_rng(0)))
        with pytest.raises(ValueError, match=r"needs at least 2 rows, got shape \("):
            layer.observe(params, library.array(np.zeros(shape)), stage="start")


def test_what_cannot_be_observed_is_an_error():
    params = NORMALISED.init(np.random.default_rng(0))
    with pytest.raises(ValueError, match="unknown stage 'fit'; choose one of start"):
        NORMALISED.observe(params, skewed(4), stage="fit")
    with pytest.raises(ValueError, match=r"BatchNorm normalises data .* outside Inverse, or use ActNorm"):
        pf.Inverse(NORMALISED).observe(params, skewed(4))


def test_split_and_merge_are_inverse():
    params = NORMALISED.init(np.random.default_rng(0))
    weights, state = pf.split(params)
    assert [name for name, _ in flatten(state)] == [f"{i}.state.{k}" for i in (1, 4) for k in ("mean", "var")]
    assert dict(flatten(pf.merge(weights, state))) == dict(flatten(params))
    assert pf.merge(weights, state).keys() == params.keys()


def test_repeat_is_a_chain_of_its_rows():
    part = pf.Chain([pf.MaskedAutoregressive(3, conditioner=pf.MLP((4,))), pf.Reverse(3), pf.LULinear(3)])
    repeat = pf.Repeat(part, times=4)
    params, x = perturbed(repeat), np.random.default_rng(0).standard_normal((5, 3))
    rows = unstack(params, 4)
    assert dict(flatten(stack(rows))).keys() == dict(flatten(params)).keys()
    chain_params = {str(i): row for i, row in enumerate(rows)}
    for run in ("forward", "inverse"):
        expected = getattr(pf.Chain([part] * 4), run)(chain_params, x)
        for a, b in zip(getattr(repeat, run)(params, x), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


def test_the_program_of_a_repeat_does_not_grow_with_its_length():
    def size(times):
        repeat = pf.Repeat(pf.MaskedAutoregressive(3, conditioner=pf.MLP((4,))), times=times)
        params = JAX.params(repeat.init(np.random.default_rng(0)))
        return len(str(jax.make_jaxpr(repeat.forward)(params, jnp.ones((5, 3)))).splitlines())

    assert size(2) == size(9)  # a number of two digits may wrap a line


def test_repeat_refuses_what_it_cannot_repeat():
    with pytest.raises(TypeError, match="Repeat takes bijections"):
        pf.Repeat(pf.Affine(), times=2)
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        pf.Repeat(pf.Reverse(2), times=0)


# ----------------------------------------------------------------- in the languages


def pyro_model(y, **options):
    with pyro.plate("rows", len(y)):
        pyro.sample("y", in_pyro.flow("f", NORMALISED, start=y, **options), obs=y)


def numpyro_model(y, **options):
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", in_numpyro.flow("f", NORMALISED, start=y, **options), obs=y)


def nothing(*_, **__):
    """An empty guide."""


STEPS = 5


def pyro_run(y, **options):
    svi = pyro.infer.SVI(pyro_model, nothing, pyro.optim.SGD({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    losses = [svi.step(torch.tensor(y), training=True, **options) for _ in range(STEPS)]
    return losses, {k: v.detach().numpy().copy() for k, v in pyro.get_param_store().items()}


def numpyro_run(y):
    svi = numpyro.infer.SVI(numpyro_model, nothing, numpyro.optim.SGD(1e-3), numpyro.infer.Trace_ELBO())
    state = svi.init(jax.random.key(0), jnp.asarray(y), training=True)
    update = jax.jit(lambda state, y: svi.update(state, y, training=True))
    losses = []
    for _ in range(STEPS):
        state, loss = update(state, jnp.asarray(y))
        losses.append(float(loss))
    params = {f"f.{k}": np.asarray(v) for k, v in flatten(svi.get_params(state)["f"])}
    params |= {f"f$state.{k}": np.asarray(v) for k, v in flatten(state.mutable_state["f$state"]["params"])}
    return losses, params, svi, state


def test_svi_trains_the_same_weights_and_averages_in_both_languages(float64):
    y = skewed(40)
    losses, in_store = pyro_run(y)
    others, params, *_ = numpyro_run(y)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(others, losses, rtol=1e-7)
    assert params.keys() == in_store.keys()
    for name, value in params.items():
        np.testing.assert_allclose(value, in_store[name], rtol=1e-6, atol=1e-8)
    mean, var = y.mean(0), y.var(0)  # at its start; each step then moves the averages once, to where they are
    np.testing.assert_allclose(in_store["f$state.4.state.mean"], mean, rtol=1e-7)
    np.testing.assert_allclose(in_store["f$state.4.state.var"], var, rtol=1e-7)
    assert np.abs(in_store["f$state.1.state.mean"]).max() > 1e-3, "the averages near the base follow the weights"


def test_pyro_state_is_no_site_and_in_the_saved_store(tmp_path):
    y = torch.tensor(skewed(40), dtype=torch.float32)
    trace = pyro.poutine.trace(pyro_model).get_trace(y, training=True)
    assert not [name for name in trace.nodes if "state" in name]
    trace.log_prob_sum()
    store = pyro.get_param_store()
    expected = {name: store[name].detach().clone() for name in store}
    assert len([name for name in expected if ".state." in name]) == 4
    store.save(tmp_path / "store")
    pyro.clear_param_store()
    store.load(tmp_path / "store")
    pyro.poutine.trace(pyro_model).get_trace(y + 5.0)  # neither starts again nor moves an average
    for name, value in expected.items():
        torch.testing.assert_close(store[name].detach(), value, rtol=0, atol=0)


def test_evaluation_is_the_default_and_moves_nothing():
    y = torch.tensor(skewed(40), dtype=torch.float32)
    evaluated = [in_pyro.flow("f", NORMALISED, start=y).log_prob(y) for _ in range(2)]
    assert torch.equal(*evaluated)
    before = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
    in_pyro.flow("f", NORMALISED, training=True).log_prob(2.0 * y + 1.0)
    moved = [k for k, v in pyro.get_param_store().items() if not torch.equal(v, before[k])]
    assert moved == [f"f$state.{i}.state.{k}" for i in (1, 4) for k in ("mean", "var")]


@pytest.mark.parametrize("name", ["state", "hidden.state"])
def test_a_flow_may_be_called_state(name):
    y = torch.tensor(skewed(30), dtype=torch.float32)

    def model():
        with pyro.plate("rows", len(y)):
            pyro.sample("y", in_pyro.flow(name, pf.Chain([pf.Coupling(2), pf.BatchNorm(2)]), training=True), obs=y)

    svi = pyro.infer.SVI(model, nothing, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO())
    losses = [svi.step() for _ in range(20)]
    assert losses[-1] < losses[0] - 1
    assert set(in_pyro.params.stored_state()) == {f"{name}$state.1.state.{k}" for k in ("mean", "var")}


@pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])
def test_fit_measures_in_evaluation_mode_and_moves_nothing_by_it(shell):
    y = skewed(40).astype("float32")
    flow = pf.BatchNorm(2)

    def model():
        if shell is in_pyro:
            with pyro.plate("rows", len(y)):
                pyro.sample("y", shell.flow("f", flow, training=True), obs=torch.tensor(y))
        else:
            with numpyro.plate("rows", len(y)):
                numpyro.sample("y", shell.flow("f", flow, training=True), obs=y)

    result = shell.fit(model, nothing, steps=3, num_particles=1, progress=False)
    if shell is in_pyro:
        params = {k: v.numpy() for k, v in result.params.items()}
        store = pyro.get_param_store()
        assert all(np.array_equal(store[k].detach().numpy(), v) for k, v in params.items())
        state = {k: params[f"f$state.state.{k}"] for k in ("mean", "var")}
        params = {"log_scale": params["f.log_scale"], "shift": params["f.shift"], "state": state}
    else:
        params = jax.tree.map(np.asarray, pf.merge(result.params["f"], result.params["f$state"]["params"]))
    x, log_det = flow.inverse(params, y)
    expected = np.sum(log_det - 0.5 * (x**2 + np.log(2 * np.pi)).sum(-1))
    assert result.elbo.mean == pytest.approx(expected, rel=1e-4)
    assert expected < -result.losses[-1] - 1, "which is not what the training form says"


def test_a_conditioned_transform_stays_in_training():
    transform = in_pyro.FlowTransform(pf.Chain([pf.Coupling(2, context_dim=1), pf.BatchNorm(2)])).train()
    before = transform.params["1"]["state"]["mean"].clone()
    transform.condition(torch.zeros(20, 1)).inv(torch.tensor(skewed(20), dtype=torch.float32))
    assert not torch.equal(transform.params["1"]["state"]["mean"], before)


def test_act_norm_of_a_flow_starts_at_mean_0_and_variance_1_in_both_languages():
    y, flow = skewed(64).astype("float32"), pf.Chain([pf.Coupling(2), pf.ActNorm(2)])

    def pyro_model():
        return in_pyro.flow("f", flow, start=torch.tensor(y))

    x = pyro_model().transforms[0].bijection.parts[1].inverse(pyro_model().transforms[0].params["1"], torch.tensor(y))
    seeded = numpyro.handlers.seed(lambda: in_numpyro.flow("f", flow, start=y), 0)()
    other = flow.parts[1].inverse(seeded.transforms[0].params["1"], jnp.asarray(y))
    for out in (x[0].detach().numpy(), other[0]):
        np.testing.assert_allclose(np.mean(out, axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(np.var(out, axis=0), 1, atol=1e-5)


def test_numpyro_traces_a_training_step_once():
    traces = []
    y = jnp.asarray(skewed(20))

    def model():
        traces.append(1)
        numpyro_model(y, training=True)

    svi = numpyro.infer.SVI(model, nothing, numpyro.optim.Adam(1e-2), numpyro.infer.Trace_ELBO())
    state = svi.init(jax.random.key(0))
    update = jax.jit(svi.update)
    before = len(traces)
    for _ in range(3):
        state, _ = update(state)
    assert len(traces) == before + 1


def test_numpyro_weights_without_their_state_are_an_error():
    y = skewed(20)
    _, _, svi, state = numpyro_run(y)
    weights = svi.get_params(state)
    with pytest.raises(ValueError, match="come without their state"):
        numpyro.handlers.substitute(numpyro.handlers.seed(numpyro_model, 0), weights)(jnp.asarray(y))
    both = weights | state.mutable_state
    numpyro.handlers.substitute(numpyro.handlers.seed(numpyro_model, 0), both)(jnp.asarray(y))


def test_numpyro_fit_refuses_particles_with_state():
    with pytest.raises(ValueError, match=r"num_particles=64, but \['f\$state'\] are mutable"):
        in_numpyro.fit(numpyro_model, nothing, jnp.asarray(skewed(20)), steps=2, progress=False)


def test_params_and_start_together_are_an_error():
    params = NORMALISED.init(np.random.default_rng(0))
    for flow, y in ((in_pyro.flow, torch.zeros(4, 2)), (in_numpyro.flow, jnp.zeros((4, 2)))):
        with pytest.raises(ValueError, match="params or start, not both"):
            flow("f", NORMALISED, params=params, start=y)


@pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])
def test_fit_density_starts_trains_and_settles(shell, tmp_path):
    y = skewed(600).astype("float32")
    given = torch.tensor(y) if shell is in_pyro else jnp.asarray(y)
    fit = shell.fit_density(NORMALISED, given, steps=150, batch_size=64, standardize=False, progress=False)
    assert fit.losses[:10].mean() > fit.losses[-30:].mean() + 0.02
    first, last = (
        fit.bijection.observe(NORMALISED.init(np.random.default_rng(0)), y, stage="start")[0],
        {k: np.asarray(v) for k, v in flatten(fit.params)},
    )
    for name, start in flatten(first):
        assert np.abs(last[name] - start).max() > 1e-3 or ".state." in name, f"{name} did not move"
    np.testing.assert_allclose(last["4.state.mean"], y.mean(0), rtol=1e-4)  # settled: of all rows, not of the last few
    np.testing.assert_allclose(last["4.state.var"], y.var(0), rtol=1e-4)
    pf.save(tmp_path / "flow.safetensors", fit.bijection, fit.params)
    loaded = shell.Flow(*pf.load(tmp_path / "flow.safetensors"))
    np.testing.assert_array_equal(
        np.asarray(loaded.log_prob(given).tolist()), np.asarray(fit.flow.log_prob(given).tolist())
    )


def test_a_pyro_transform_is_made_for_evaluation_and_trains_when_asked():
    y = torch.tensor(skewed(30), dtype=torch.float32)
    transform = in_pyro.FlowTransform(NORMALISED)
    base = torch.distributions.Normal(torch.zeros(2), 1.0)
    d = torch.distributions.TransformedDistribution(torch.distributions.Independent(base, 1), [transform])
    before = {k: v.clone() for k, v in transform.state_dict().items()}
    d.log_prob(y)
    assert all(torch.equal(v, before[k]) for k, v in transform.state_dict().items())
    transform.train()
    d.log_prob(y).sum().backward()
    moved = [k for k, v in transform.state_dict().items() if not torch.equal(v, before[k])]
    assert moved == [f"weights.{i}.state.{k}" for i in (1, 4) for k in ("mean", "var")]
    assert not [name for name, _ in transform.named_parameters() if "state" in name]
    for copied in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert copied.training
        assert all(torch.equal(v, transform.state_dict()[k]) for k, v in copied.state_dict().items())
    transform.eval()
    evaluated = d.log_prob(y)
    assert torch.equal(evaluated, d.log_prob(y))
