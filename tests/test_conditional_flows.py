"""Flows that are given their context after they are made, in both languages alike."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ppl_flows as pf

SHELLS = {"pyro": torch.as_tensor, "numpyro": jnp.asarray}
BIJECTION = pf.maf(2, flow_layers=1, hidden=(6,), context_dim=3)
PARAMS = BIJECTION.init(np.random.default_rng(1))


def close(a, b):
    a, b = (x.detach() if isinstance(x, torch.Tensor) else x for x in (a, b))
    np.testing.assert_allclose(np.asarray(a), np.asarray(b))


@pytest.fixture(params=SHELLS)
def shell(request, float64):
    module = importlib.import_module(f"ppl_flows.{request.param}")
    module_dist = importlib.import_module(f"{request.param}.distributions")
    return module, module_dist, SHELLS[request.param]


def draw(flow, shape=()):
    return flow.sample(jax.random.key(0), shape) if hasattr(flow, "tree_flatten") else flow.sample(shape)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_flow_waits_for_its_context(shell):
    module, _, array = shell
    waiting = module.Flow(BIJECTION, PARAMS)
    with pytest.raises(ValueError, match="got no context"):
        waiting.log_prob(array(numbers(2)))
    for batch in ((), (5,), (4, 5)):
        context, y = array(numbers(*batch, 3)), array(numbers(*batch, 2, seed=1))
        given = waiting.condition(context)
        assert tuple(given.batch_shape) == batch
        assert draw(given, (7,)).shape == (7, *batch, 2)
        at_once = module.Flow(BIJECTION, PARAMS, context=context)
        close(given.log_prob(y), at_once.log_prob(y))
    with pytest.raises(ValueError, match="got no context"):
        draw(waiting)
    with pytest.raises(ValueError, match="expects context of shape"):
        waiting.condition(array(numbers(5, 2)))


def test_all_else_of_a_flow_stays_with_its_context(shell):
    module, dist, array = shell
    options = {"base": pf.StudentT(2), "support": dist.constraints.simplex, "path_gradients": True}
    context = array(numbers(5, 3))
    at_once = module.Flow(BIJECTION, PARAMS, context=context, **options)
    given = module.Flow(BIJECTION, PARAMS, **options).condition(array(numbers(3))).condition(context)
    assert given.path_gradients
    y = draw(at_once)
    assert y.shape == (5, 3)
    close(given.log_prob(y), at_once.log_prob(y))


def test_a_flow_that_takes_no_context_does_not_swallow_one(shell):
    module, _, array = shell
    with pytest.raises(ValueError, match="context_dim=0"):
        module.Flow(pf.maf(2)).condition(array(numbers(3)))


def test_the_density_of_data_with_a_context_is_given_one(shell):
    module, _, array = shell
    fitted = module.fit_density(BIJECTION, numbers(40, 2), context=numbers(40, 3), steps=2, progress=False)
    y, context = array(numbers(5, 2)), array(numbers(5, 3))
    expected = module.Flow(fitted.bijection, fitted.params, context=context).log_prob(y)
    close(fitted.flow.condition(context).log_prob(y), expected)


def test_contexts_of_a_start_are_of_any_library(shell):
    module, _, array = shell
    bijection, start, context = pf.Chain([BIJECTION, pf.ActNorm(2)]), numbers(4, 2), numbers(4, 3)
    made = [
        module.flow(f"f{i}", bijection, start=start, context=given)
        for i, given in enumerate((array(context), context, context.tolist()))
    ]
    for other in made[1:]:
        close(other.log_prob(array(start)), made[0].log_prob(array(start)))
