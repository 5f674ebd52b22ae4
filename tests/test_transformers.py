"""What every transformer is: increasing, and the identity at theta = 0 if it is onto the reals."""

import numpy as np
import pytest
from cases import public

import ppl_flows as pf

each = pytest.mark.parametrize("transformer", public(pf.Transformer), ids=lambda c: c.__name__)


# the components of a mixture must differ, or they would never separate
NEXT_TO_IT = {"MixtureGaussianization": 0.06, "MixtureLogisticCDF": 0.02}


@pytest.mark.parametrize(
    "transformer", [t for t in public(pf.Transformer) if t.codomain == t.domain], ids=lambda c: c.__name__
)
def test_theta_zero_is_the_identity(transformer):
    h = transformer()
    x = np.array([-20.0, -4.9, -3.0, -1.0, 0.0, 0.3, 2.9, 4.99, 20.0])
    if transformer is pf.CircularRationalQuadratic:
        x = x[np.abs(x) < np.pi]
    if transformer is pf.MixtureGaussianization:
        x = x[np.abs(x) <= 3.0]  # further out the tails of its logistics bend it
    y, log_slope = h.forward(np.zeros((len(x), h.size)), x)
    near = NEXT_TO_IT.get(transformer.__name__, 1e-9)
    np.testing.assert_allclose(y, x, rtol=0, atol=near)
    np.testing.assert_allclose(log_slope, 0.0, atol=near)


@each
def test_it_is_increasing(transformer):
    h = transformer()
    theta = 0.5 * np.random.default_rng(0).standard_normal(h.size)
    x = np.linspace(-3.0, 3.0, 400)
    y, _ = h.forward(np.broadcast_to(theta, (400, h.size)), x)
    steps = np.diff(y)
    if transformer is pf.CircularRationalQuadratic:
        steps = steps[steps > -np.pi]  # where the circle is cut
    assert np.all(steps > 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bins": 1}, "bins must be at least 2"),
        ({"bound": 0.0}, "bound must be positive"),
        ({"min_bin": 0.5}, "min_bin must lie between 0 and 0.125"),
        ({"min_slope": 1.0}, "min_slope must lie between 0 and 1"),
    ],
)
def test_a_spline_outside_its_range_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        pf.RationalQuadratic(**fields)


def test_bounds_that_are_not_positive_are_refused():
    for transformer in (pf.Affine, pf.Multiplicative):
        with pytest.raises(ValueError, match="max_log_scale must be positive"):
            transformer(max_log_scale=0.0)
