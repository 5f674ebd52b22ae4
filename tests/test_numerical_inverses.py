"""Inverses without a closed form: their precision over twelve orders of magnitude, in both languages and dtypes."""

import sys

import jax
import numpy as np
import pytest
import torch
from cases import DIM, JAX, TORCH, layers, name_of, perturbed, public, wired

import ppl_flows as pf


def numerical(bijection):
    formulas = getattr(bijection, "transformer", bijection)
    return "numerical_inverse" in vars(sys.modules[type(formulas).__module__])


NUMERICAL = [
    b
    for b in [*layers(), *(wired(pf.Elementwise, t) for t in public(pf.Transformer))]
    if numerical(b)
    if not b.context_dim
]
MAGNITUDES = np.geomspace(1e-6, 1e6, 25)
POINTS = np.random.default_rng(0).permuted(np.tile(np.concatenate([MAGNITUDES, -MAGNITUDES])[:, None], DIM), axis=0)


def error(got, expected):
    """Relative to the larger of the point and 1, the scale on which the maps bend and shift."""
    got, expected = (np.asarray(a, "float64") for a in (got, expected))
    return np.max(np.abs(got - expected) / np.maximum(np.abs(expected), 1.0))


def test_the_layers_are_found():
    assert {pf.Planar(DIM), pf.Sylvester(DIM), pf.BlockNeuralAutoregressive(DIM)} < set(NUMERICAL)
    assert len(NUMERICAL) >= 11


@pytest.mark.parametrize("bijection", NUMERICAL, ids=name_of)
@pytest.mark.parametrize(("dtype", "precision"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize(
    "library", [TORCH, pytest.param(JAX, marks=pytest.mark.slow)], ids=lambda library: library.name
)
def test_every_point_comes_back(bijection, dtype, precision, library):
    """Under vmap, in JAX under jit too."""
    params, x = library.params(perturbed(bijection), dtype), library.array(POINTS, dtype)

    def there_and_back(x):
        return bijection.inverse(params, bijection.forward(params, x)[0])[0]

    back = jax.jit(jax.vmap(there_and_back))(x) if library is JAX else torch.func.vmap(there_and_back)(x)
    assert error(back, x) < precision


@pytest.mark.parametrize("bijection", NUMERICAL, ids=name_of)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_inverse_solves_the_equation_far_from_the_start(bijection, scale):
    """Where the slope is small, other x give the same digits of y: it is y that must come back."""
    params = perturbed(bijection, scale)
    again, _ = bijection.forward(params, bijection.inverse(params, POINTS)[0])
    assert error(again, POINTS) < 1e-12
