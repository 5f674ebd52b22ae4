"""A layer or recipe that cannot work is refused where it is made, with the way out."""

import numpy as np
import pytest

import ppl_flows as pf
from ppl_flows.core.namespace import ACTIVATIONS, HOOKS, namespace


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.Coupling(1), "needs dim >= 2.*use Elementwise or MaskedAutoregressive"),
        (lambda: pf.Coupling(4, mask="checkers"), "unknown mask 'checkers'; choose one of halves"),
        (lambda: pf.Coupling(3, mask=(True, True)), "mask must hold 3 bools"),
        (lambda: pf.Coupling(2, mask=(True, True)), "some True and some False"),
        (
            lambda: pf.Coupling(4, conditioner=pf.MLP(activation="swish")),
            "unknown activation 'swish'; choose one of elu",
        ),
        (lambda: pf.Coupling(4, conditioner=pf.MLP(64)), r"hidden must be a tuple of widths such as \(64, 64\)"),
        (lambda: pf.MaskedAutoregressive(0), "dim must be at least 1"),
        (lambda: pf.MaskedAutoregressive(3, conditioner=pf.MLP((0,))), "every hidden width must be at least 1"),
        (
            lambda: pf.MaskedAutoregressive(3, conditioner=pf.MLP((8, 9), residual=True)),
            r"all have one width.*give \(8, 8\)",
        ),
        (lambda: pf.Permute(3, order=(0, 0, 1)), "must be a permutation of 0, ..., 2"),
        (lambda: pf.Chain([]), "no parts"),
        (lambda: pf.Chain([pf.Reverse(3), pf.Reverse(4)]), r"gives shape \(3,\)"),
        (lambda: pf.Chain([pf.iaf(2, context_dim=1), pf.iaf(2, context_dim=3)]), "disagree on context_dim"),
        (lambda: pf.iaf(3, flow_layers=0), "flow_layers must be at least 1, got 0"),
        (lambda: pf.nsf(3, wiring="residual"), "unknown wiring 'residual'"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_bijection_is_refused():
    with pytest.raises(TypeError, match="Chain takes bijections, got Affine"):
        pf.Chain([pf.Affine()])


@pytest.mark.parametrize("wiring", [pf.Elementwise, pf.Coupling, pf.MaskedAutoregressive])
def test_what_is_no_transformer_is_refused(wiring):
    for wrong in ("alternating", pf.RationalQuadratic, pf.Reverse(4)):
        with pytest.raises(TypeError, match=f"{wiring.__name__}: transformer must be one such as pf.Affine"):
            wiring(4, wrong)


def test_a_mask_may_be_an_array():
    assert pf.Coupling(3, mask=np.array([True, False, True])).mask == (True, False, True)


def test_what_is_no_array_is_refused():
    with pytest.raises(TypeError, match="expected a NumPy, torch or JAX array, got list"):
        pf.Reverse(2).forward({}, [1.0, 2.0])


def test_the_namespaces_have_the_same_hooks():
    import jax.numpy as jnp
    import torch

    for array in (np.ones(1), torch.ones(1), jnp.ones(1)):
        xp = namespace(array)
        for name in (*HOOKS, *ACTIVATIONS):
            assert callable(getattr(xp, name)), f"{xp.__name__} lacks {name}"


def test_activations_are_the_same_in_every_library():
    import jax.numpy as jnp
    import torch

    x = np.linspace(-30, 30, 101)
    for name in ACTIVATIONS:
        a, b, c = (np.asarray(getattr(namespace(v), name)(v)) for v in (x, torch.tensor(x), jnp.asarray(x)))
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(a, c, rtol=1e-12, atol=1e-13)


def test_masks_are_what_their_names_say():
    x = np.arange(5.0)
    params = pf.Coupling(5, pf.Additive()).init(np.random.default_rng(0))
    for mask, flip, passing in [
        ("halves", False, [0, 1]),
        ("halves", True, [2, 3, 4]),
        ("alternating", False, [0, 2, 4]),
        ((False, True, False, False, False), False, [1]),
    ]:
        layer = pf.Coupling(5, pf.Additive(), mask=mask, flip=flip)
        params = layer.init(np.random.default_rng(0))
        y, _ = layer.forward({k: a + 1.0 for k, a in params.items()}, x)
        assert np.flatnonzero(y == x).tolist() == passing
    random = pf.Coupling(6, mask="random", seed=1).mask
    assert sum(random) == 3
    assert random != pf.Coupling(6, mask="random", seed=2).mask


@pytest.mark.parametrize("recipe", [pf.nice, pf.real_nvp, pf.iaf, pf.maf, pf.nsf, pf.guide_flow])
def test_recipes_start_next_to_the_identity(recipe):
    x = np.random.default_rng(0).standard_normal((50, 6))
    bijection = recipe(6)
    y, log_det = bijection.forward(bijection.init(np.random.default_rng(0)), x)
    if recipe in (pf.nsf, pf.guide_flow):  # next to a permutation
        x, y = np.sort(x), np.sort(y)
    assert np.abs(y - x).max() < 0.5
    assert np.abs(log_det).max() < 0.5
