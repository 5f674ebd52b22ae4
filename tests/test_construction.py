"""A layer or recipe that cannot work is refused where it is made, with the way out."""

import numpy as np
import pytest

import ppl_flows as pf
from ppl_flows.core.params import flatten


def first(layer, x=None):
    return layer.forward({}, np.zeros(layer.event_shape) if x is None else x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.Coupling(1), "needs dim >= 2.*use Elementwise or MaskedAutoregressive"),
        (lambda: pf.Coupling((4, 4, 1)), "one channel cannot be split; squeeze first, or use mask='checkerboard'"),
        (lambda: pf.Coupling(4, mask="checkers"), "unknown mask 'checkers'; choose one of halves"),
        (lambda: pf.Coupling(4, mask="checkerboard"), "unknown mask 'checkerboard'; choose one of halves"),
        (lambda: pf.Coupling(3, mask=(True, True)), "mask must hold 3 bools"),
        (lambda: pf.Coupling(2, mask=(True, True)), "some True and some False"),
        (lambda: pf.Coupling(4, context_dim=-1), "Coupling: context_dim must be at least 0, got -1"),
        (lambda: pf.MLP(activation="swish"), "unknown activation 'swish'; choose one of elu"),
        (lambda: pf.MLP((8, 0)), "every hidden width must be at least 1, got 0"),
        (lambda: pf.MLP((8, 9), residual=True), r"all have one width.*give \(8, 8\)"),
        (lambda: pf.ConvNet(blocks=-1), "ConvNet: blocks must be at least 0, got -1"),
        (lambda: pf.CausalAttention(6, heads=4), "width must be a multiple of heads"),
        (lambda: pf.MaskedAutoregressive(0), "dim must be at least 1"),
        (lambda: pf.MaskedAutoregressive((4, 2)), "positions of 2 numbers; use pf.CausalAttention"),
        (lambda: pf.MaskedAutoregressive(4, conditioner=pf.CausalAttention(), method="jacobi"), "method='auto'"),
        (lambda: pf.Permute(3, order=(0, 0, 1)), "must be a permutation of 0, ..., 2"),
        (lambda: pf.Chain([]), "no parts"),
        (
            lambda: pf.Chain([pf.Batched(pf.ActNorm(2), batch=(8,)), pf.ActNorm(2), pf.Batched(pf.nsf(2), batch=(3,))]),
            r"Chain: the batch shapes \(8,\) of part 0, \(3,\) of part 2 do not broadcast",
        ),
        (
            lambda: pf.MultiScale([pf.Batched(pf.Coupling((2, 2, 2 * k)), batch=(4 - k,)) for k in (2, 1)]),
            r"MultiScale: the batch shapes \(2,\) of scale 0, \(3,\) of scale 1 do not broadcast",
        ),
        (lambda: pf.Chain([pf.Reverse(3), pf.Reverse(4)]), r"gives shape \(3,\)"),
        (lambda: pf.Chain([pf.iaf(2, context_dim=1), pf.iaf(2, context_dim=3)]), "disagree on context_dim"),
        (lambda: pf.Chain([pf.Reverse(2)], names=["a.b"]), "different names, strings without dots"),
        (lambda: pf.Chain({"a$state": pf.Reverse(2)}), "strings without dots and dollars"),
        (lambda: pf.Chain({0: pf.Reverse(2)}), "different names, strings"),
        (lambda: pf.Chain({"a": pf.Reverse(2)}, names=["b"]), "as a mapping or with names, not both"),
        (lambda: pf.Coupling(4).forward(None, np.zeros(4)), "must be a nested dict, got None"),
        (lambda: pf.Elementwise(3).forward({"theta": 0.5}, np.zeros(3)), "'theta' should be an array, got a float"),
        (lambda: pf.Chain([pf.Reverse(2), pf.Reverse(2)], names=["a", "a"]), "2 parts need as many different names"),
        (lambda: pf.iaf(3, flow_layers=0), "iaf: flow_layers must be at least 1, got 0"),
        (lambda: pf.nsf(0), "nsf: dim must be at least 1, got 0"),
        (lambda: pf.nsf(1, mask="foo"), "unknown mask 'foo'; choose one of halves, alternating, random"),
        (lambda: pf.nsf(3, wiring="residual"), "unknown wiring 'residual'"),
        (lambda: pf.glow((4, 4, 1), scales=0), "glow: scales must be at least 1, got 0"),
        (lambda: pf.glow((4, 4)), r"glow: shape must be \(height, width, channels\)"),
        (lambda: first(pf.Coupling(4)), r"params do not fit Coupling: 'b0' should have shape \(64,\), got None"),
        (lambda: first(pf.nsf(2)), r"params do not fit Repeat: .*make them with bijection.init or pf.load"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.Coupling(4.0), "Coupling: dim must be a whole number, got 4.0"),
        (lambda: pf.Coupling(True), "Coupling: dim must be a whole number, got True"),
        (lambda: pf.ActNorm("3"), "ActNorm: dim must be a whole number, got '3'"),
        (lambda: pf.nsf(3.0), "nsf: dim must be a whole number, got 3.0"),
        (lambda: pf.nice((4, 4, 1)), r"nice: dim must be a whole number.*recipes of images are pf.glow"),
        (lambda: pf.iaf(4, hidden=32), r"iaf: hidden must be a tuple of widths such as \(32, 32\), got 32"),
        (lambda: pf.iaf(4, hidden=(8.0,)), "every hidden width must be a whole number, got 8.0"),
        (lambda: pf.iaf(4, hidden=(8,), conditioner=pf.MLP()), "give conditioner or hidden, not both"),
        (lambda: pf.iaf(4, conditioner=pf.MLP(), activation="tanh"), "iaf: give conditioner or activation, not both"),
        (lambda: pf.glow((4, 4, 2), conditioner=pf.ConvNet(), hidden=3), "glow: give conditioner or hidden, not both"),
        (lambda: pf.tarflow((4, 4, 2), conditioner=pf.CausalAttention(), width=8), "give conditioner or width, not"),
        (
            lambda: pf.Chain(pf.Reverse(2)),
            "Chain takes a sequence or a mapping of bijections, got Reverse.*into a list",
        ),
        (lambda: pf.MLP(64), r"MLP: hidden must be a tuple of widths such as \(32, 32\), got 64"),
        (lambda: pf.RationalQuadratic(8.0), "RationalQuadratic: bins must be a whole number, got 8.0"),
        (lambda: pf.StudentT(2.5), "StudentT: dim must be a whole number, got 2.5"),
        (lambda: pf.Repeat(pf.Reverse(3), 2), "takes 2 positional arguments but 3 were given"),
        (lambda: pf.Coupling(4, pf.Affine(), "halves"), "takes from 2 to 3 positional arguments but 4 were given"),
        (lambda: pf.Chain([pf.Affine()]), "Chain takes bijections such as pf.nsf.2., got Affine"),
        (lambda: pf.Inverse(pf.nsf), "Inverse takes bijections.*a recipe such as pf.nsf, or a class, is called first"),
        (lambda: pf.Coupling(4, conditioner=(64, 64)), r"conditioner must be one such as pf.MLP\(\(64, 64\)\), got"),
        (lambda: pf.Coupling(4, conditioner=pf.ConvNet()), "network of events with 3 axes, but these have 1"),
        (lambda: pf.Coupling(4, conditioner=pf.CausalAttention()), "belongs into MaskedAutoregressive"),
        (lambda: pf.MaskedAutoregressive(4, conditioner=pf.ConvNet()), "conditioner must be one that can be masked"),
        (lambda: pf.Reshape(4), "Reshape: shape must be one such as"),
        (lambda: pf.Batched(pf.Reverse(2), batch=3), r"batch must be a shape such as \(8,\), got 3"),
        (lambda: first(pf.Reverse(2), [1.0, 2.0]), "expected a NumPy, torch or JAX array, got list"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_where_it_is_made(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("made", [pf.nsf(2), pf.glow((4, 4, 2), hidden=4), pf.Coupling(4, context_dim=3)])
def test_a_bijection_prints_one_line_for_people(made):
    line = str(made)
    assert "\n" not in line
    assert len(line) < 120
    weights = pf.split(made.init(np.random.default_rng(0)))[0]
    assert f"{sum(a.size for _, a in flatten(weights)):,} parameters" in line


@pytest.mark.parametrize("wiring", [pf.Elementwise, pf.Coupling, pf.MaskedAutoregressive])
def test_what_is_no_transformer_is_refused(wiring):
    for wrong in ("alternating", pf.RationalQuadratic, pf.Reverse(4)):
        with pytest.raises(TypeError, match=f"{wiring.__name__}: transformer must be one such as pf.Affine"):
            wiring(4, wrong)


def test_a_mask_may_be_an_array():
    assert pf.Coupling(3, mask=np.array([True, False, True])).mask == (True, False, True)


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
