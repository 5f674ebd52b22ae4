"""What comes in at the outermost call: arrays of several libraries and dtypes, mappings, numbers, wrong thetas."""

import dataclasses
import pickle
from types import MappingProxyType

import numpy as np
import pytest
import torch
from cases import JAX, LIBRARIES, TORCH, context, perturbed, points

import ppl_flows as pf

FLOW = pf.Chain([pf.LULinear(3), pf.nsf(3, flow_layers=2, hidden=(5,)), pf.maf(3, flow_layers=1, hidden=(5,))])
library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)


@pytest.mark.slow
@pytest.mark.parametrize("library", [TORCH, JAX], ids=lambda library: library.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_data_meet_the_weights_of_a_library(library, dtype):
    params, x = perturbed(FLOW), points(FLOW).astype(dtype)
    y, log_det = FLOW.forward(library.params(params), x)
    expected, expected_log_det = FLOW.forward(params, x)
    assert type(y) is type(library.array(x))
    np.testing.assert_allclose(np.asarray(y), expected, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(log_det), expected_log_det, rtol=1e-12, atol=1e-12)


@library
@pytest.mark.parametrize(("of_params", "of_x"), [("float32", "float64"), ("float64", "float32")])
def test_arrays_of_two_dtypes_are_cast_to_the_wider_one(library, of_params, of_x):
    params = perturbed(FLOW)
    y, log_det = library.run(FLOW.forward, library.params(params, of_params), library.array(points(FLOW), of_x))
    assert y.dtype == "float64"
    np.testing.assert_allclose(y, FLOW.forward(params, points(FLOW))[0], rtol=1e-5, atol=1e-5)
    assert np.all(np.isfinite(log_det))


@library
def test_whole_numbers_are_numbers(library):
    layer = pf.LogitTransform((1, 2, 1))
    pixels = np.array([[[[0], [1]]]])
    expected, expected_log_det = layer.inverse({}, pixels.astype(float))
    for dtype in ("uint8", "int64"):
        x, log_det = layer.inverse({}, library.array(pixels, dtype))
        assert "float" in str(x.dtype)
        np.testing.assert_allclose(np.asarray(x), expected, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(log_det), expected_log_det, rtol=1e-6)


def test_other_mappings_than_dicts_are_params_too():
    params = FLOW.init(np.random.default_rng(0))

    def proxies(tree):
        return MappingProxyType({k: proxies(v) if isinstance(v, dict) else v for k, v in tree.items()})

    y, log_det = FLOW.inverse(proxies(params), points(FLOW))
    expected, expected_log_det = FLOW.inverse(params, points(FLOW))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(log_det, expected_log_det)
    state = {"a": MappingProxyType({"state": {"x": np.ones(1)}})}
    assert pf.split(state) == ({"a": {}}, state)


@library
def test_wide_state_beside_narrow_weights_leaves_the_log_det_in_float32(library):
    if library.name == "numpy":
        pytest.skip("NumPy has no bfloat16")
    flow = pf.Chain([pf.BatchNorm(2), pf.Frozen(pf.iaf(2, hidden=(4,))), pf.Coupling(2)])
    weights, state = pf.split(library.params(perturbed(flow)))
    cast = (lambda a: a.to(torch.bfloat16)) if library is TORCH else (lambda a: a.astype("bfloat16"))
    weights = {k: {n: cast(a) for n, a in v.items()} for k, v in weights.items()}
    x, log_det = flow.inverse(pf.merge(weights, state), cast(library.array(points(flow))))
    assert str(x.dtype).endswith("bfloat16")
    assert str(log_det.dtype).endswith("float32")


@dataclasses.dataclass(frozen=True)
class Wrong(pf.Conditioner):
    """A network that gives one number too many, in a class that nothing can pickle."""

    def bind(self, inputs, outputs, context_dim=0):
        class Network:
            def init(self, rng):
                return {"w": np.zeros((inputs, outputs + 1))}

            def __call__(self, params, x, context):
                return x @ params["w"]

        return Network()


@library
@pytest.mark.parametrize(
    ("layer", "outputs"),
    [
        (pf.Coupling(4, conditioner=Wrong()), 4),
        (pf.Coupling((2, 2, 2), mask="checkerboard", conditioner=Wrong()), 4),
        (pf.Elementwise(3, conditioner=Wrong(), context_dim=2), 6),
        (pf.Planar(3, conditioner=Wrong(), context_dim=2), 7),
    ],
)
def test_a_network_of_the_wrong_size_is_named(layer, outputs, library):
    params, c = library.params(perturbed(layer)), library.array(context(layer))
    with pytest.raises(ValueError, match=f"the network must give {outputs} numbers .* gave theta of shape"):
        layer.forward(params, library.array(points(layer)), c)


def test_what_is_derived_from_the_fields_is_not_pickled():
    layer = pf.Coupling(4, conditioner=Wrong())
    layer.init(np.random.default_rng(0))  # binds the network
    assert pickle.loads(pickle.dumps(layer)) == layer


def test_a_chain_can_be_given_other_parts():
    chain = pf.Chain([pf.Reverse(2)])
    assert dataclasses.replace(chain, parts=chain.parts * 2) == pf.Chain([pf.Reverse(2)] * 2)


def test_a_multi_scale_flow_may_be_batched_inside():
    mixing = pf.PerPixel(pf.LULinear(2), height=2, width=2)
    flow = pf.MultiScale([pf.Batched(mixing, batch=(3,))])
    assert flow.batch_shape == (3,)
    y, log_det = flow.forward(flow.init(np.random.default_rng(0)), np.ones(8))
    assert (y.shape, log_det.shape) == ((3, 2, 2, 2), (3,))


def test_our_own_errors_come_through_whatever_else_is_in_the_params():
    flow = pf.Chain([pf.BatchNorm(2), pf.Coupling(2)])
    params = {**flow.init(np.random.default_rng(0)), "note": np.zeros(1)}
    with pytest.raises(ValueError, match="needs at least 2 rows"):
        flow.observe(params, np.ones((1, 2)))
