"""Whatever shapes, dtypes and kinds of arrays come in: it works, or it is an error in the library's own words."""

import dataclasses
import importlib
import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
from cases import ALL, LIBRARIES, OTHERS, arguments, context, perturbed, public, recipes, takes, targets
from hypothesis import given, settings
from hypothesis import strategies as st

import ppl_flows as pf
from ppl_flows.core.params import flatten, map_params

FEW = settings(derandomize=True, deadline=None, max_examples=25, database=None)
EVERY = [*ALL, *OTHERS, *recipes()]
FAST = [pf.Coupling(3, context_dim=2), pf.maf(3, flow_layers=1, hidden=(4,)), pf.Elementwise(3, pf.RationalQuadratic())]
OWN = (TypeError, ValueError)
SHELLS = {"pyro": torch.as_tensor, "numpyro": jnp.asarray}
shells = pytest.mark.parametrize("name", SHELLS)


def shell(name):
    return importlib.import_module(f"ppl_flows.{name}")


# --- params of other shapes


@pytest.mark.parametrize("bijection", EVERY, ids=repr)
def test_params_of_other_shapes_do_not_broadcast(bijection):
    params = perturbed(bijection)
    if not dict(flatten(params)):
        pytest.skip("it has no parameters")
    stacked = map_params(lambda _, a: np.stack([a] * 5), params)  # as of an ensemble, one for each of the rows
    wide = next((name for name, a in flatten(params) if a.ndim and a.shape[-1] > 1), None)
    narrow = map_params(lambda name, a: a[..., :1] if name == wide else a, params)
    for other in [stacked] if wide is None else [stacked, narrow]:
        for run in (bijection.inverse, bijection.observe):
            with pytest.raises(ValueError, match=f"params do not fit {type(bijection).__name__}: .* should have shape"):
                run(other, targets(bijection), context(bijection))


# --- batches without rows


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
@FEW
@given(bijection=st.sampled_from(EVERY), batch=st.sampled_from([(0,), (2, 0), (0, 1)]), forward=st.booleans())
def test_a_batch_without_rows_has_no_results(library, bijection, batch, forward):
    before, after = bijection.event_shape, bijection.output_shape
    before, after = (before, after) if forward else (after, before)
    given_context = context(bijection)
    run = bijection.forward if forward else bijection.inverse
    v, log_det = (run if library.name != "jax" else partial(jax.eval_shape, run))(
        library.params(perturbed(bijection)),
        library.array(np.zeros((*batch, *before)), "float32"),
        None if given_context is None else library.array(given_context[0]),
    )
    assert tuple(v.shape) == (*batch, *after)
    assert tuple(log_det.shape) == batch


def test_a_training_pass_wants_rows():
    flow = pf.Chain([pf.BatchNorm(3), pf.Coupling(3)])
    with pytest.raises(ValueError, match=r"observe got a batch without rows, of shape \(0, 3\)"):
        flow.observe(flow.init(np.random.default_rng(0)), np.zeros((0, 3)))
    flow = pf.Coupling(2, context_dim=1)
    with pytest.raises(ValueError, match=r"without rows, of shape \(1, 2\) and context \(0, 1\)"):
        flow.observe(flow.init(np.random.default_rng(0)), np.zeros((1, 2)), np.zeros((0, 1)))


def test_the_gradient_of_no_rows_is_zero():
    flow = FAST[1]
    params = map_params(lambda _, a: torch.tensor(a, requires_grad=True), perturbed(flow))
    flow.inverse(params, torch.zeros(0, 3).double())[1].sum().backward()
    assert all(not a.grad.any() for _, a in flatten(params))


@shells
@FEW
@given(n=st.integers(0, 1), base=st.sampled_from([None, pf.StudentT(3), pf.NormalMixture(3)]))
@pytest.mark.slow_in_numpyro
def test_a_flow_samples_and_scores_any_number_of_rows(name, n, base):
    array = SHELLS[name]
    flow = shell(name).Flow(FAST[1], base=base)
    draws = flow.sample((n,)) if name == "pyro" else flow.sample(jnp.zeros(2, "uint32"), (n,))
    assert tuple(draws.shape) == (n, 3)
    assert tuple(flow.log_prob(draws).shape) == (n,)
    assert tuple(flow.log_prob(array(np.zeros((n, 3), "float32"))).shape) == (n,)


# --- events and contexts of other shapes


@shells
@FEW
@given(bijection=st.sampled_from(FAST), shape=st.lists(st.integers(0, 4), max_size=2).map(tuple), direct=st.booleans())
@pytest.mark.slow_in_numpyro
def test_only_events_of_the_right_size_pass(name, bijection, shape, direct):
    array = SHELLS[name]
    values = array(np.zeros(shape, "float32"))
    conditions = array(np.zeros(2, "float32")) if bijection.context_dim else None
    flow = shell(name).Flow(bijection, context=conditions, validate_args=False)
    run = flow.transforms[0].inv if direct else flow.log_prob
    if shape[-1:] == (3,):
        assert tuple(run(values).shape) == (shape if direct else shape[:-1])
    else:
        with pytest.raises(ValueError, match="the event axes come last"):
            run(values)


@shells
@FEW
@given(
    rows=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    conditions=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    size=st.integers(1, 3),
)
def test_a_context_has_its_size_and_a_batch_that_broadcasts(name, rows, conditions, size):
    array = SHELLS[name]
    values, given_context = array(np.zeros((*rows, 3), "float32")), array(np.zeros((*conditions, size), "float32"))
    make = lambda: shell(name).Flow(FAST[0], context=given_context, validate_args=False)  # noqa: E731
    if size != 2:
        with pytest.raises(ValueError, match=r"expects context of shape \(\*batch, 2\)"):
            make()
        return
    flow = make()
    assert tuple(flow.batch_shape) == conditions
    try:
        joint = np.broadcast_shapes(rows, conditions)
    except ValueError:
        with pytest.raises(ValueError, match="do not broadcast; give one context, or one for each row"):
            flow.log_prob(values)
        with pytest.raises(ValueError, match="broadcast"):
            flow.expand(rows)
        return
    assert tuple(flow.log_prob(values).shape) == joint
    assert tuple(flow.expand(joint).batch_shape) == joint


@shells
@FEW
@given(bijection=st.sampled_from(FAST), data=st.data())
def test_params_that_would_broadcast_are_refused_by_name(name, bijection, data):
    params = bijection.init(np.random.default_rng(0))
    wide = [leaf for leaf, a in flatten(params) if a.ndim and a.shape[0] > 1]
    wrong = data.draw(st.sampled_from(wide))
    params = map_params(lambda leaf, a: a[:1] if leaf == wrong else a, params)
    made = shell(name)
    for make in (made.FlowTransform, made.Flow, lambda b, p: made.flow("z", b, params=p)):
        with pytest.raises(ValueError, match=f"'{wrong}' should have shape"):
            make(bijection, params)
    with pytest.raises(ValueError, match="'loc' should have shape"):
        made.BaseDistribution(pf.DiagonalNormal(3), {"loc": np.zeros(1), "log_scale": np.zeros(3)})


# --- kinds of arrays

KINDS = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a.tolist())),
    "table": pd.DataFrame,
    "numpy": np.asarray,
    "reversed": lambda a: a[::-1].copy()[::-1],
    "columns": np.asfortranarray,
    "read-only": lambda a: np.broadcast_to(a, a.shape),
    "torch": torch.tensor,
    "jax": jnp.asarray,
}
DTYPES = ("float32", "float64", "float16", "int64", "uint8", "bool")


def mixes(kind, library):
    """Whether arrays of that kind go with params of the library: JAX takes NumPy's as its own."""
    return kind == library or (kind, library) == ("jax", "numpy")


def whole_rows():
    return np.random.default_rng(0).integers(0, 2, (6, 3))


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
@FEW
@given(
    bijection=st.sampled_from(FAST),
    kind=st.sampled_from(sorted(KINDS)),
    dtype=st.sampled_from(DTYPES),
    of_params=st.sampled_from(["float32", "float64"]),
)
def test_a_pass_takes_arrays_of_any_dtype_and_says_which_kinds_it_does_not(library, bijection, kind, dtype, of_params):
    params = perturbed(bijection)
    rows = whole_rows()
    conditions = None if context(bijection) is None else np.zeros(2)
    expected = bijection.inverse(params, rows.astype(float), conditions)
    value = KINDS[kind](rows.astype(dtype))
    if conditions is not None:
        conditions = library.array(conditions)
    run = lambda: bijection.inverse(library.params(params, of_params), value, conditions)  # noqa: E731
    if kind in ("list", "tuple", "table") or (kind in ("torch", "jax") and not mixes(kind, library.name)):
        with pytest.raises(TypeError, match="convert"):
            run()
        return
    got = run()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, dtype=float), b, rtol=1e-2, atol=1e-2)  # of float16


@shells
@FEW
@given(kind=st.sampled_from(sorted(KINDS)), dtype=st.sampled_from(DTYPES))
def test_contexts_and_weights_may_be_arrays_of_any_kind(name, kind, dtype):
    array = SHELLS[name]
    rows = whole_rows()
    flow = shell(name).Flow(FAST[0], context=KINDS[kind](rows[:, :2].astype(dtype)))
    plain = shell(name).Flow(FAST[0], context=array(rows[:, :2].astype("float64")))
    values = array(np.ones((6, 3)))
    np.testing.assert_allclose(
        np.asarray(flow.log_prob(values).detach() if name == "pyro" else flow.log_prob(values)),
        np.asarray(plain.log_prob(values).detach() if name == "pyro" else plain.log_prob(values)),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", SHELLS)
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_fit_density_takes_arrays_lists_and_tables(name, kind):
    options = {"steps": 1, "progress": False}
    rows = np.random.default_rng(0).standard_normal((20, 3)).round(2)
    fitted = shell(name).fit_density(FAST[0], KINDS[kind](rows), context=KINDS[kind](rows[:, :2]), **options)
    same = shell(name).fit_density(FAST[0], rows, context=rows[:, :2], **options)
    np.testing.assert_array_equal(fitted.losses, same.losses)


@shells
@pytest.mark.parametrize("dtype", DTYPES)
def test_fit_density_takes_any_dtype(name, dtype):
    rows = whole_rows().astype(dtype)
    fitted = shell(name).fit_density(FAST[1], rows, steps=1, progress=False)
    same = shell(name).fit_density(FAST[1], rows.astype(float), steps=1, progress=False)
    np.testing.assert_array_equal(fitted.losses, same.losses)


# --- nonsense in the fields

NONSENSE = {
    "int": (-1, 1.5, True, math.nan, "3", None),
    "float": (-1.0, math.nan, math.inf, -math.inf, True, "3", (1.0,)),
    "bool": (2, -1, 0.5, math.nan, "yes", ()),
    "str": ("nonsense", 3, math.nan, ()),
    "tuple[int, ...]": ((8.0,), (0,), (-1,), (True,), 8, "8", math.nan),
}


def fields_with_nonsense():
    for base in (pf.Bijection, pf.Transformer, pf.Conditioner, pf.AutoregressiveConditioner, pf.Base):
        for made in public(base):
            for field in dataclasses.fields(made):
                kinds = str(field.type).split(" | ")
                for value in NONSENSE.get(kinds[0], ()) if field.init else ():
                    if not (value is None and field.default is None):
                        yield made, field.name, value


@pytest.mark.parametrize(
    ("made", "field", "value"), [*fields_with_nonsense()], ids=lambda v: v.__name__ if isinstance(v, type) else str(v)
)
def test_nonsense_in_a_field_is_refused_where_it_is_made(made, field, value):
    taken = inspect.signature(made).parameters
    positional, named = arguments(made.__name__) if issubclass(made, pf.Bijection) else ((), {})
    if issubclass(made, pf.Base):
        positional = (3,)
    with pytest.raises(OWN, match=field.split("_")[0]):
        made(**{**dict(zip(taken, positional, strict=False)), **named, field: value})


@FEW
@given(data=st.data())
def test_nonsense_in_an_argument_of_a_recipe_is_refused(data):
    found = [getattr(pf, name) for name in pf.__all__]
    recipe = data.draw(st.sampled_from([f for f in found if inspect.isfunction(f) and takes(f, "context_dim")]))
    parameters = inspect.signature(recipe).parameters
    name = data.draw(st.sampled_from(list(parameters)))
    kind = parameters[name].annotation
    kinds = [k for k in str(kind).split(" | ") if k in NONSENSE]
    if name == "hidden" and "Hidden" in str(kind):
        kinds = ["tuple[int, ...]"]
    if not kinds or name == "exact":
        return
    value = data.draw(st.sampled_from([v for v in NONSENSE[kinds[0]] if v is not None]))
    if (name, value) in (("hidden", "8"),):
        return
    first = next(iter(parameters))
    arguments = {first: 4 if first == "dim" else (4, 4, 2), name: value}
    with pytest.raises(OWN):
        recipe(**arguments)
    assert targets(recipe(arguments[first]) if name != first else pf.nsf(2), 1).shape[0] == 1
