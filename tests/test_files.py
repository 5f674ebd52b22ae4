"""Files: what is kept comes back, what does not fit is named, and nothing is executed."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import ppl_flows as pf
from ppl_flows.core.params import flatten
from ppl_flows.numpyro import Flow as NumPyroFlow
from ppl_flows.numpyro import FlowTransform as NumPyroTransform
from ppl_flows.pyro import Flow as PyroFlow
from ppl_flows.pyro import FlowTransform as PyroTransform

FLOW = pf.Chain([pf.nsf(3, flow_layers=2), pf.Reverse(3), pf.maf(3, flow_layers=1, context_dim=2)])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "flow.safetensors"


def test_a_flow_moves_from_pyro_to_numpyro_and_back(path, tmp_path):
    context = np.random.default_rng(0).standard_normal((5, 2)).astype("float32")
    y = np.random.default_rng(1).standard_normal((5, 3)).astype("float32")
    there = PyroTransform(FLOW, seed=4)
    pf.save(path, there.bijection, there.params)
    moved = NumPyroTransform(*pf.load(path), context=context)
    expected = PyroFlow(there.condition(torch.tensor(context))).log_prob(torch.tensor(y)).detach()
    np.testing.assert_allclose(NumPyroFlow(moved).log_prob(y), expected, rtol=1e-5)
    again = tmp_path / "again.safetensors"
    pf.save(again, moved.bijection, moved.params)
    back = PyroTransform(*pf.load(again))
    expected_params = dict(flatten(there.params))
    for name, a in flatten(back.params):
        torch.testing.assert_close(a, expected_params.pop(name), rtol=0, atol=0)
    assert not expected_params


def test_the_file_holds_arrays_under_dotted_names_and_a_description(path):
    params = FLOW.init(np.random.default_rng(0))
    pf.save(path, FLOW, params)
    assert set(load_file(path)) == {name for name, _ in flatten(params)}
    assert not list(path.parent.glob("*.partial"))


def test_params_that_do_not_fit_are_refused_and_an_old_file_survives(path):
    params = FLOW.init(np.random.default_rng(0))
    pf.save(path, FLOW, params)
    with pytest.raises(ValueError, match=r"'0\.0\.b' should have shape .* got None"):
        pf.save(path, FLOW, {**params, "0": {}})
    assert pf.load(path)[0] == FLOW


@pytest.mark.parametrize("dtype", ["complex128", "longdouble", "object"])
def test_arrays_that_no_file_holds_are_named(path, dtype):
    params = {name: a.astype(dtype) for name, a in pf.ActNorm(2).init(np.random.default_rng(0)).items()}
    with pytest.raises(ValueError, match=r"save: '.*' has dtype .*; convert it"):
        pf.save(path, pf.ActNorm(2), params)


def rewritten(path, **changes):
    """The file with its description changed by hand."""
    params = FLOW.init(np.random.default_rng(0))
    pf.save(path, FLOW, params)
    description = {"class": "Chain", "parts": [{"class": "Reverse", "dim": 3}]} | changes
    save_file({"x": np.zeros(1)}, path, metadata={"format": "1", "bijection": json.dumps(description)})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class": "os.system"}, "unknown class 'os.system'"),
        ({"class": "load"}, "unknown class 'load'"),
        ({"parts": [{"class": "Reverse", "dim": 3, "colour": 1}]}, "unknown field .*colour.* of Reverse"),
        ({}, "'x' should have shape None"),
    ],
)
def test_an_unknown_class_field_or_array_is_an_error_that_names_it(path, changes, message):
    with pytest.raises(ValueError, match=message):
        pf.load(rewritten(path, **changes))


def test_a_file_of_another_kind_is_an_error(path):
    path.write_text("not a flow")
    with pytest.raises(ValueError, match=r"is not a \.safetensors file"):
        pf.load(path)


def test_another_format_and_another_packages_class_are_errors(path):
    save_file({"x": np.zeros(1)}, path)
    with pytest.raises(ValueError, match="expected a ppl_flows file of format 1 or 2, got None"):
        pf.load(path)

    class Reverse(pf.Bijection):
        dim = 3

        def _forward(self, params, x, context):
            return x, 0.0

        _inverse = _forward

    with pytest.raises(
        ValueError, match=r"only ppl_flows' own classes and registered ones can be saved.*call pf\.register"
    ):
        pf.save(path, Reverse(), {})


@pytest.mark.parametrize("layer", [pf.ContractiveResidual(3, exact=False), pf.BatchNorm(2), pf.Coupling(np.int64(2))])
def test_state_and_sizes_that_are_numpys_come_back(layer, path):
    params = layer.init(np.random.default_rng(0))
    pf.save(path, layer, params)
    loaded, loaded_params = pf.load(path)
    assert loaded == layer
    expected = dict(flatten(params))
    for name, a in flatten(loaded_params):
        np.testing.assert_array_equal(a, expected.pop(name), strict=True)
    assert not expected
