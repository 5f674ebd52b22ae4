"""Passes of torch on another device: on ``meta``, which every machine has, and which takes no tensor of the CPU."""

from contextlib import contextmanager

import numpy as np
import pyro
import pytest
import torch
from cases import ALL, TORCH, context, layers, name_of, perturbed

import ppl_flows as pf
from ppl_flows.core.params import map_params
from ppl_flows.pyro import Flow

pytestmark = pytest.mark.slow  # the first operation on meta imports much of torch
ROWS = 6


def on_meta(bijection):
    return map_params(lambda _, a: a.to("meta"), TORCH.params(perturbed(bijection)))


@contextmanager
def values_unseen():
    """Where an iteration looks at values, to see whether it may end, there are none: all before was on the device."""
    try:
        yield
    except RuntimeError as error:
        if "Tensor.item() cannot be called on meta tensors" not in str(error):
            raise


@pytest.mark.parametrize("bijection", ALL, ids=name_of)
def test_whatever_a_pass_makes_is_where_its_arguments_are(bijection):
    c = context(bijection, ROWS)
    c = None if c is None else torch.tensor(c, device="meta")
    shapes = {"forward": (bijection.event_shape, bijection.output_shape)}
    shapes["inverse"] = shapes["forward"][::-1]
    for way, (given, made) in shapes.items():
        x = torch.empty(ROWS, *given, dtype=torch.float64, device="meta")
        with values_unseen():
            out, log_det = getattr(bijection, way)(on_meta(bijection), x, c)
            assert (out.device.type, log_det.device.type) == ("meta", "meta")
            assert (out.shape, log_det.shape) == ((ROWS, *made), (ROWS,))


def test_only_iterations_look_at_values():
    """Of the layers that stand alone; else the law above could pass everywhere without looking."""
    looked = set()
    for bijection in layers():
        c = context(bijection, ROWS)
        c = None if c is None else torch.tensor(c, device="meta")
        try:
            bijection.forward(on_meta(bijection), torch.empty(ROWS, *bijection.event_shape, device="meta").double(), c)
        except RuntimeError:
            looked.add(type(bijection))
    assert looked == {pf.NeuralODE}


@pytest.mark.parametrize("base", [None, pf.StudentT(4)], ids=["normal", "Student's t"])
def test_a_flow_draws_and_scores_where_its_parameters_are(base):
    bijection = pf.real_nvp(4)
    with pyro.validation_enabled(False):  # which looks at values
        density = Flow(bijection, on_meta(bijection), base=base)
        draws = density.rsample((5,))
        scores = density.log_prob(draws)
    assert (draws.device.type, draws.shape) == ("meta", (5, 4))
    assert (scores.device.type, scores.shape) == ("meta", (5,))
    on_cpu = Flow(bijection, TORCH.params(perturbed(bijection)), base=base)
    assert np.isfinite(on_cpu.log_prob(torch.zeros(4).double()).item())
