"""Flows on the circle: their base, their data, and what may stand beside them in a chain."""

import math

import numpy as np
import pytest

import ppl_flows as pf

CIRCLE = pf.CircularRationalQuadratic.domain
LAYERS = {
    "elementwise": pf.Elementwise(2, pf.CircularRationalQuadratic(bins=4)),
    "coupling": pf.Coupling(2, pf.CircularRationalQuadratic(bins=4)),
    "autoregressive": pf.Inverse(pf.MaskedAutoregressive(2, pf.CircularRationalQuadratic(bins=4))),
}
each = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def shell(lang):
    return getattr(pf, lang.ppl.__name__)


def uniform(lang):
    return lang.dist.Uniform(-math.pi, math.pi).expand([2]).to_event(1)


@each
def test_circular_layers_map_angles_onto_angles(layer):
    assert layer.domain == layer.codomain == (CIRCLE,) * 2
    chain = pf.Chain([layer, pf.Reverse(2), pf.Permute(2), layer, pf.Shuffle(2)])
    assert chain.domain == chain.codomain == (CIRCLE,) * 2
    assert pf.Repeat(pf.Chain([pf.Reverse(2), layer]), times=2).domain == (CIRCLE,) * 2
    with pytest.raises(ValueError, match="takes coordinate 0 in"):
        pf.Chain([layer, pf.Elementwise(2)])


@each
def test_a_base_on_the_reals_is_refused(lang, layer):
    for base in (None, pf.StudentT(2), lang.dist.Normal(lang.array([0.0, 0.0]), 1.0).to_event(1)):
        with pytest.raises(ValueError, match=r"lies; give a base that does, such as a uniform, .*expand\(\[dim\]\)"):
            shell(lang).Flow(layer, base=base)
    with pytest.raises(ValueError, match="no normal lies"):
        layer.to_torch()
    density = shell(lang).Flow(layer, base=uniform(lang))
    assert np.shape(density.log_prob(lang.array(np.array([[math.pi, -math.pi]])))) == (1,)


def test_a_density_of_angles_keeps_to_the_circle(lang):
    angles = np.random.default_rng(0).vonmises(1.0, 2.0, (60, 2))
    angles[0] = math.pi, -math.pi
    options = {"steps": 2, "batch_size": 16, "progress": False}
    fit = shell(lang).fit_density(LAYERS["elementwise"], angles, base=uniform(lang), **options)
    assert fit.bijection == LAYERS["elementwise"]  # no location and scale
    with pytest.raises(ValueError, match="standardize=False"):
        shell(lang).fit_density(LAYERS["elementwise"], angles, base=uniform(lang), standardize=True, **options)
    with pytest.raises(ValueError, match="not inside the bijection's range"):
        shell(lang).fit_density(LAYERS["elementwise"], angles + 2 * math.pi, base=uniform(lang), **options)


def test_what_rearranges_takes_intervals_that_are_all_the_same():
    squashed = pf.Elementwise(2, pf.Sigmoid())
    for mix in (pf.Reverse(2), pf.Permute(2), pf.Shuffle(2), pf.Inverse(pf.Permute(2))):
        assert pf.Chain([squashed, mix]).codomain == squashed.codomain
        assert pf.Chain([mix, pf.Inverse(squashed)]).domain == squashed.codomain
        for first, last in ((pf.Coupling(2, pf.Sigmoid()), mix), (mix, pf.Inverse(pf.Coupling(2, pf.Sigmoid())))):
            with pytest.raises(ValueError, match="takes coordinate 1 in"):
                pf.Chain([first, last])
        partly = pf.Inverse(pf.Partial(pf.Elementwise(1, pf.Sigmoid()), dim=2, index=(1,)))
        with pytest.raises(ValueError, match="takes coordinate 1 in"):
            pf.Chain([mix, partly])
