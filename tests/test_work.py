"""How often the networks run: what a wasted pass would double, and no test of values would notice."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from numpyro.infer.reparam import NeuTraReparam

import ppl_flows as pf
from ppl_flows import numpyro as pfn
from ppl_flows import pyro as pfp
from ppl_flows.numpyro import compiled_steps
from ppl_flows.numpyro.flow_handlers import PathGradients as NumPyroPathGradients
from ppl_flows.pyro.flow_handlers import PathGradients as PyroPathGradients

LAYERS = 2


def recipe(dim):
    return pf.real_nvp(dim, flow_layers=LAYERS, hidden=(8,))


@pytest.fixture
def passes(monkeypatch):
    """One entry for every pass of a coupling; in JAX for every one in a traced program."""
    seen, original = [], pf.Coupling._apply
    monkeypatch.setattr(pf.Coupling, "_apply", lambda *args: seen.append(1) or original(*args))
    return seen


def pyro_model():
    pyro.sample("x", pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))


def numpyro_model():
    numpyro.sample("x", numpyro.distributions.Normal(jnp.zeros(3), 1.0).to_event(1))


# the path gradient needs the score of the draw with fixed parameters: one more pass of every layer, back
@pytest.mark.parametrize(("estimator", "expected"), [("reparam", LAYERS), ("path", 2 * LAYERS)])
def test_an_svi_step_in_pyro_runs_each_layer_once(passes, estimator, expected):
    guide = pfp.AutoFlow(pyro_model, recipe)
    scored = PyroPathGradients(estimator=estimator)(guide)
    svi = pyro.infer.SVI(pyro_model, scored, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    svi.step()
    passes.clear()
    svi.step()
    assert len(passes) == expected


@pytest.mark.parametrize(("estimator", "expected"), [("reparam", LAYERS), ("path", 2 * LAYERS)])
def test_an_svi_step_in_numpyro_runs_each_layer_once_and_is_traced_once(passes, estimator, expected):
    guide = pfn.AutoFlow(numpyro_model, recipe)
    scored = NumPyroPathGradients(guide, estimator=estimator)
    svi = numpyro.infer.SVI(numpyro_model, scored, numpyro.optim.Adam(1e-3), numpyro.infer.Trace_ELBO())
    state = svi.init(jax.random.key(0))
    update = jax.jit(svi.update)
    passes.clear()
    for _ in range(3):
        state, _ = update(state)
    assert len(passes) == expected


def test_a_neutra_density_runs_each_layer_once(passes):
    guide = pfn.AutoFlow(numpyro_model, recipe)
    svi = numpyro.infer.SVI(numpyro_model, guide, numpyro.optim.Adam(1e-3), numpyro.infer.Trace_ELBO())
    params = svi.get_params(svi.init(jax.random.key(0)))
    warped = NeuTraReparam(guide, params).reparam(numpyro_model)
    start, potential, *_ = numpyro.infer.util.initialize_model(jax.random.key(1), warped)
    passes.clear()
    jax.jit(jax.value_and_grad(potential))(start.z)
    assert len(passes) == LAYERS


@pytest.mark.slow
def test_a_fit_in_numpyro_has_one_set_of_buffers_and_leaves_the_users_alone(monkeypatch):
    carries, compile_once = [], compiled_steps.compile_once

    def kept(f, *args, **options):
        block = compile_once(f, *args, **options)
        return lambda carry, *steps: carries.append(carry) or block(carry, *steps)

    monkeypatch.setattr(compiled_steps, "compile_once", kept)
    options = {"steps": 40, "num_particles": 2, "draws": 100, "tolerance": None, "progress": False}
    first = pfn.fit(numpyro_model, pfn.AutoFlow(numpyro_model, recipe, start="init"), **options)
    given = jax.tree.map(jnp.array, first.params)
    values = jax.tree.map(np.array, given)
    again = pfn.AutoFlow(numpyro_model, recipe, start="init")
    second = pfn.fit(numpyro_model, again, init_params=given, **options)
    assert len(carries) >= 40, "every block of both fits is at least one dispatch"
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carries))
    jax.tree.map(np.testing.assert_array_equal, given, values)
    jax.tree.map(np.testing.assert_array_equal, first.params, values)
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), second.params, values))


@pytest.mark.parametrize("recipe", [pf.real_nvp, pf.nsf, pf.maf, pf.iaf, pf.guide_flow], ids=lambda r: r.__name__)
def test_a_program_in_jax_does_not_grow_with_depth(recipe):
    def equations(flow_layers):
        flow = recipe(4, flow_layers=flow_layers)
        params = jax.tree.map(jnp.asarray, flow.init(np.random.default_rng(0)))
        lowered = jax.jit(jax.grad(lambda p, x: flow.inverse(p, x)[1].sum())).lower(params, jnp.ones((3, 4)))
        return lowered.as_text().count("\n")

    assert equations(64) == equations(10)  # up to four repetitions of a pair are no loop


def test_a_network_in_jax_keeps_one_array_of_each_hidden_layer():
    layer = pf.Coupling(4, conditioner=pf.MLP((7, 7)))  # silu, whose own rule keeps three
    params = jax.tree.map(jnp.asarray, layer.init(np.random.default_rng(0)))
    _, pull = jax.vjp(lambda p: layer.inverse(p, jnp.ones((5, 4))), params)
    assert [leaf.shape for leaf in jax.tree.leaves(pull)].count((5, 7)) == 2


def test_a_program_in_jax_does_not_spell_its_masks_out():
    layer = pf.MaskedAutoregressive(64, conditioner=pf.MLP((64, 64)))
    params = jax.tree.map(jnp.asarray, layer.init(np.random.default_rng(0)))
    program = jax.jit(layer.forward).lower(params, jnp.ones((3, 64))).as_text()
    assert len(program) < 4 * 64 * 64  # numbers in its masks; in full each takes several characters
