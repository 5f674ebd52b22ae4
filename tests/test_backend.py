"""The seam between array libraries: three namespaces, one protocol."""

import ast
import importlib
import inspect
import subprocess
import sys
from inspect import Parameter
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import ppl_flows
from ppl_flows.core.backend import HOOKS, Hooks
from ppl_flows.core.namespace import ACTIVATIONS, namespace
from ppl_flows.core.params import flatten, map_params, stack, unstack

LIBRARIES = {"numpy": np.asarray, "torch": torch.tensor, "jax": jnp.asarray}
STANDARD_NAMES_OF_OURS = {"take", "take_along_axis", "moveaxis", "unstack"}  # torch's, where array_api_compat is slow
ROOT = Path(ppl_flows.__file__).parent


def ops(library):
    return importlib.import_module(f"ppl_flows.backends.{library}.ops")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_namespace_has_every_hook_with_the_protocols_parameters(library, hook):
    found = getattr(ops(library), hook)
    wanted = list(inspect.signature(getattr(Hooks, hook)).parameters.values())[1:]
    try:
        given = list(inspect.signature(found).parameters.values())
    except ValueError:  # of functions written in C, which have one array
        given = [Parameter("x", Parameter.POSITIONAL_ONLY)]
    assert [
        p for p in given[len(wanted) :] if p.default is Parameter.empty and p.kind is not Parameter.VAR_KEYWORD
    ] == []
    for theirs, ours in zip(given, wanted, strict=False):
        if ours.kind is not Parameter.POSITIONAL_ONLY:
            assert (theirs.name, theirs.kind) == (ours.name, ours.kind)
    assert len(given) >= len(wanted)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_namespace_has_no_hook_that_is_not_in_the_protocol(library):
    def names(node):
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                return [node.name]
            case ast.ImportFrom() if node.module == "ppl_flows.numerics.reversible_pass" or "backends" in node.module:
                return [alias.asname or alias.name for alias in node.names]
        return []

    tree = ast.parse(Path(ops(library).__file__).read_text())
    ours = {name for node in tree.body for name in names(node) if not name.startswith("_")}
    assert ours <= {*HOOKS, *STANDARD_NAMES_OF_OURS}


def test_what_the_library_takes_from_a_namespace_all_three_have():
    used = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (
                (isinstance(node.value, ast.Name) and node.value.id == "xp")
                or (isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "namespace")
            ):
                used.add(node.attr)
    assert {"where", "softplus", "stop_gradient"} <= used
    for library in LIBRARIES:
        assert {name for name in used if not hasattr(ops(library), name)} == set()
    assert set(HOOKS) - used <= set(ACTIVATIONS), "a hook that nothing uses"


def test_a_namespace_is_found_by_one_call():
    x, calls = np.ones(1), []
    namespace(x)
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    namespace(x)
    sys.setprofile(None)
    assert calls == ["namespace"]


@pytest.mark.parametrize("array", [np.float64(1.0), np.ones(2), torch.ones(2), torch.nn.Parameter(torch.ones(2))])
def test_a_namespace_is_found_by_type(array):
    assert namespace(array) is ops("torch" if isinstance(array, torch.Tensor) else "numpy")


def test_activations_are_the_same_in_every_library():
    x = np.linspace(-30, 30, 101)
    for name in ACTIVATIONS:
        a, b, c = (np.asarray(getattr(namespace(v), name)(v)) for v in (make(x) for make in LIBRARIES.values()))
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_hooks_of_arrays_keep_the_dtype_and_agree_with_numpys(library, dtype):
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in ((4, 5, 6), (6, 3), (3,)))
    triangle = np.tril(rng.standard_normal((6, 6)) + 3 * np.eye(6)).astype(dtype)
    kernel = rng.standard_normal((3, 3, 6, 2)).astype(dtype)
    cases = {
        "linear": (x, w, b),
        "logsumexp": (x,),
        "softmax": (x,),
        "masked_sum": (x, x > 0, 1),
        "transposed": (w,),
        "conv2d": (x, kernel),
        "constant": (w.astype("float64"), x),
    }
    make = LIBRARIES[library]
    for name, args in cases.items():
        given = [make(a) if isinstance(a, np.ndarray) and name != "constant" else a for a in args]
        if name == "constant":
            given[1] = make(x)
        found = np.asarray(getattr(ops(library), name)(*given))
        assert found.dtype == dtype, name
        np.testing.assert_allclose(found, getattr(ops("numpy"), name)(*args), rtol=1e-5, atol=1e-5, err_msg=name)
    for lower, a in ((True, triangle), (False, triangle.T)):
        found = np.asarray(ops(library).solve_triangular(make(a.copy()), make(x), lower=lower))
        np.testing.assert_allclose(found @ a.T, x, rtol=1e-4, atol=1e-4)
    for axis in (0, -2, 2):
        n = x.shape[axis]
        parts = ops(library).pieces(make(x), (1, n - 3, 2), axis=axis)
        for found, expected in zip(parts, np.split(x, [1, n - 2], axis=axis), strict=True):
            np.testing.assert_array_equal(np.asarray(found), expected)


def test_logsumexp_takes_infinities():
    x = np.array([[-np.inf, -np.inf], [np.inf, 0.0], [-np.inf, 1.0]])
    for library, make in LIBRARIES.items():
        np.testing.assert_array_equal(np.asarray(ops(library).logsumexp(make(x))), [-np.inf, np.inf, 1.0])


@pytest.mark.parametrize("n", [4, 5])  # JAX unrolls up to four
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_repeated_passes_are_a_loop_over_the_rows(library, reverse, n):
    make, rng = LIBRARIES[library], np.random.default_rng(0)
    params = {"a": rng.standard_normal((n, 3)), "b": {"c": rng.standard_normal(n)}}
    v, context = rng.standard_normal((5, 3)), rng.standard_normal((5, 1))

    def run(row, v, context):
        return v * row["a"] + context + row["b"]["c"], v.sum(-1)

    expected, log_det = v, np.zeros(5)
    for i in reversed(range(n)) if reverse else range(n):
        log_det = log_det + expected.sum(-1)
        expected = expected * params["a"][i] + context + params["b"]["c"][i]
    found = ops(library).repeat_passes(
        run, map_params(lambda _, a: make(a), params), make(v), make(context), make(np.zeros(5)), n, reverse=reverse
    )
    for a, b in zip(found, (expected, log_det), strict=True):
        np.testing.assert_allclose(np.asarray(a), b, rtol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("library", LIBRARIES)
def test_recurrences_are_a_loop_along_the_last_axis(library, length):
    make, rng = LIBRARIES[library], np.random.default_rng(0)
    gain, term = rng.standard_normal((2, 3, length))
    rows = np.exp(rng.standard_normal((4, 3, length)))
    rows[1, 0] = rows[2, 1] = 0.0  # of an observation, and a scale, that is none
    linear, fraction, x, y = np.zeros((3, length)), np.zeros((3, length)), np.zeros(3), np.zeros(3)
    for t in range(length):
        x = linear[:, t] = gain[:, t] * x + term[:, t]
        a, b, c, d = rows[..., t]
        y = fraction[:, t] = (a * y + b) / (c * y + d)
    found = ops(library).recurrence(make(gain), make(term))
    np.testing.assert_allclose(np.asarray(found), linear, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.asarray(ops(library).fractions(*map(make, rows))), fraction, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("library", LIBRARIES)
def test_long_recurrences_neither_overflow_nor_underflow(library):
    make, n = LIBRARIES[library], 5_000
    for row in ((1e3, 1.0, 1.0, 1.0), (1e-3, 1.0, 1.0, 1.0), (1e8, 1e-8, 1e-8, 1e8), (1.0, 1e12, 1e-12, 1.0)):
        a, b, c, d = row
        x, expected = 0.0, np.zeros(n)
        for t in range(n):
            x = expected[t] = (a * x + b) / (c * x + d)
        found = ops(library).fractions(*(make(np.full(n, v)) for v in row))
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-10)


def test_repeated_passes_put_no_frame_between():
    frames = []

    def run(row, v, context):
        frames.append(sys._getframe(1).f_code.co_name)
        return v, v[..., 0]

    ops("numpy").repeat_passes(run, {"a": np.ones((3, 1))}, np.ones((2, 1)), None, np.zeros(2), 3, reverse=False)
    assert frames == ["repeat_passes"] * 3


@pytest.mark.parametrize("library", LIBRARIES)
def test_unstack_undoes_stack(library):
    make = LIBRARIES[library]
    rows = [{"a": make(np.full((2, 3), float(i))), "b": {"c": make(np.array(float(i)))}, "empty": {}} for i in range(3)]
    for row, again in zip(rows, unstack(stack(rows), 3), strict=True):
        assert again.keys() == row.keys()
        for (name, a), (same, b) in zip(flatten(row), flatten(again), strict=True):
            assert name == same
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_walk_over_params_is_one_call_a_level():
    params, calls = {f"w{i}": np.ones(1) for i in range(50)}, []
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    list(flatten(params))
    unstack(params, 1)
    sys.setprofile(None)
    assert len(calls) <= 6


def test_numpy_alone_is_loaded_for_numpy():
    code = (
        "import sys, numpy; from ppl_flows.core.namespace import namespace; namespace(numpy.ones(1)); "
        "assert not {'torch', 'jax'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)
