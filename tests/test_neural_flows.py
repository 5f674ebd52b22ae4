"""Maps made of networks: against another library or the paper's plain formula, and that they train."""

import numpy as np
import pytest
import torch
from pyro.distributions.transforms import BlockAutoregressive, NeuralAutoregressive
from scipy.integrate import quad
from scipy.special import expit, logit, softmax
from zuko.transforms import UnconstrainedMonotonicTransform

import ppl_flows as pf
from ppl_flows.transformers.deep_sigmoidal import slope_and_shift

RNG = np.random.default_rng(11)
X = 3 * RNG.standard_normal((7, 2))


def test_deep_sigmoidal_is_pyros_map_besides_its_share_of_the_identity():
    h, theta = pf.DeepSigmoidal(units=5), torch.tensor(RNG.standard_normal((7, 2, 15)))
    a, b = slope_and_shift(theta[..., :5], theta[..., 5:10], 5, h.min_slope)
    given = [torch.log(torch.expm1(a)), theta[..., 10:], b]  # what pyro takes: a before softplus, w before softmax, b
    theirs = NeuralAutoregressive(lambda x: [v.swapaxes(-1, -2) for v in given], hidden_units=5)
    x = torch.tensor(X)
    y, (log_slope, e) = theirs(x), (h.forward(theta, x)[1], h.min_slope)
    torch.testing.assert_close(h.forward(theta, x)[0], e * x + (1 - e) * y, rtol=0, atol=1e-11)
    slope = (log_slope.exp() - e) / (1 - e)
    their_log_det = theirs.log_abs_det_jacobian(x, y)
    torch.testing.assert_close(slope.log().sum(-1), their_log_det, rtol=0, atol=1e-6)  # theirs adds 1e-8 to each a


def test_deep_dense_sigmoidal_is_the_papers_formula():
    t = pf.DeepDenseSigmoidal(units=3, layers=3)
    theta = RNG.standard_normal((7, 2, t.size))
    h, stop = X[..., None], 0
    for inputs, outputs in ((1, 3), (3, 3), (3, 1)):  # eqs. 10-13, in probabilities instead of logarithms
        a, b, w, u = np.split(theta[..., stop:], np.cumsum([3, 3, 3 * outputs, 3 * inputs if inputs > 1 else 0]), -1)[
            :4
        ]
        stop += 6 + 3 * outputs + u.shape[-1]
        a, b = slope_and_shift(a, b, t.units, t.min_slope)
        u = softmax(u.reshape(7, 2, 3, inputs), -1) if inputs > 1 else np.ones((7, 2, 3, 1))
        w = softmax(w.reshape(7, 2, outputs, 3), -1)
        h = logit(np.einsum("...ij,...j", w, expit(a * np.einsum("...ij,...j", u, h) + b)))
    expected = t.min_slope * X + (1 - t.min_slope) * h[..., 0]
    np.testing.assert_allclose(t.forward(theta, X)[0], expected, rtol=1e-9)  # the logit of a number near 1 rounds


def test_deep_dense_sigmoidal_of_one_layer_is_deep_sigmoidal():
    theta = RNG.standard_normal((2, 12))
    dense, plain = pf.DeepDenseSigmoidal(4, layers=1), pf.DeepSigmoidal(4)
    for a, b in zip(dense.forward(theta, X), plain.forward(theta, X), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


each = pytest.mark.parametrize(
    "transformer", [pf.DeepSigmoidal(), pf.DeepDenseSigmoidal(), pf.UnconstrainedMonotone()], ids=repr
)


@each
def test_theta_zero_is_the_identity_and_the_tails_keep_their_digits(transformer):
    x = np.array([-1e6, -40.0, -1.0, 0.0, 1e-3, 2.0, 40.0, 1e6])
    y, log_slope = transformer.forward(np.zeros(transformer.size), x)
    np.testing.assert_allclose(y, x, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(log_slope, 0, atol=1e-14)
    for theta in RNG.standard_normal((3, transformer.size)):
        y = transformer.forward(theta, x)[0]
        np.testing.assert_allclose(transformer.inverse(theta, y)[0], x, rtol=1e-11, atol=1e-11)


@each
def test_equal_units_part_in_training(transformer):
    """From theta = 0, without a network to tell units apart: two modes, which an affine map cannot fit."""
    flow = pf.Inverse(pf.Elementwise(1, transformer))  # the inverse of the flow is the closed direction
    params = {"theta": torch.zeros(1, transformer.size, dtype=torch.float64, requires_grad=True)}
    rng = np.random.default_rng(0)
    data = torch.tensor(0.3 * rng.standard_normal((400, 1)) + np.where(rng.random((400, 1)) < 0.5, -1.0, 1.5))
    optimizer = torch.optim.Adam(params.values(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        z, log_det = flow.inverse(params, data)
        loss = -(torch.distributions.Normal(0, 1).log_prob(z)[..., 0] + log_det).mean()
        loss.backward()
        optimizer.step()
    gaussian = float(torch.log(data.std()) + 0.5 * np.log(2 * np.pi * np.e))
    truth = 0.5 * np.log(2 * np.pi * np.e * 0.3**2) + np.log(2)  # entropy of the two modes
    within = 0.3 if isinstance(transformer, pf.UnconstrainedMonotone) else 0.1  # its slope changes less sharply
    assert truth - 0.1 < loss.item() < truth + within < gaussian - 0.3


def integrand(h, theta):
    """exp of UnconstrainedMonotone's network, of one coordinate, as a function of s of any shape."""
    w, b, v, v_0 = h._weights(theta[:-1])
    return lambda s: (v_0 + (v * (s[..., None] * w + b).tanh()).sum(-1)).exp()


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_unconstrained_monotone_is_the_integral_and_zukos_map(scale):
    h = pf.UnconstrainedMonotone(hidden=4)
    for theta in torch.tensor(scale * RNG.standard_normal((5, h.size))):
        x = torch.linspace(-5, 5, 7, dtype=torch.float64)
        f = integrand(h, theta)
        y, log_slope = h.forward(theta, x)
        expected = [
            quad(lambda s, f=f: f(torch.tensor(s)).item(), 0, b, epsabs=1e-12, limit=200)[0] for b in x.tolist()
        ]
        torch.testing.assert_close(y - theta[-1], torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7)
        theirs, their_log_slope = UnconstrainedMonotonicTransform(f, n=h.nodes).call_and_ladj(x)
        torch.testing.assert_close(y - theta[-1], theirs, rtol=1e-12, atol=1e-12)
        # theirs is the integrand itself, ours the derivative of the sum: equal as far as the sum has converged
        torch.testing.assert_close(log_slope, their_log_slope, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nodes", [2, 3, 5, 9, 32])
def test_the_sum_increases_for_every_network(nodes):
    """The bound on w keeps the slope within half of the integrand, also for few nodes and extreme weights."""
    h = pf.UnconstrainedMonotone(hidden=6, nodes=nodes)
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    for theta in torch.tensor(RNG.choice([0.1, 1.0, 10.0, 1e3], (300, 1)) * RNG.standard_normal((300, h.size))):
        ratio = h.forward(theta, x)[1].exp() / integrand(h, theta)(x)
        assert 0.5 <= ratio.min() <= ratio.max() <= 1.5


def test_block_neural_autoregressive_is_pyros_map():
    ours = pf.BlockNeuralAutoregressive(3, hidden_factor=4)
    params = ours.init(np.random.default_rng(0))
    params = {name: torch.tensor(a + 0.3 * RNG.standard_normal(a.shape)) for name, a in params.items()}
    params["gate"] = torch.full((3,), 0.1, dtype=torch.float64)
    theirs = BlockAutoregressive(3, hidden_factors=[4, 4], residual="gated").double()
    theirs.gate.data = torch.tensor([-0.4], dtype=torch.float64)  # theirs is the share of x; ours goes 4 times faster
    for i, layer in enumerate(theirs.layers):
        n, m = ours._sizes[i]
        own = torch.block_diag(*params[f"d{i}"]).T
        off = params[f"w{i}"].T * layer.mask_o
        norm = (own.exp() * layer.mask_d + off).norm(dim=1, keepdim=True)
        layer._weight.data = own + off
        layer._diag_weight.data = norm.log()  # undoes their weight normalisation
        layer.bias.data = params[f"b{i}"]
        assert own.shape == (3 * m, 3 * n)
    x = torch.tensor(RNG.standard_normal((7, 3)))
    y, log_det = ours.forward(params, x)
    expected = theirs(x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)  # theirs adds 1e-8 in several places
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(x, expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("recipe", [pf.naf, pf.umnn, pf.bnaf])
@pytest.mark.parametrize(("dim", "context_dim"), [(1, 0), (3, 0), (3, 2)])
def test_the_recipes_start_next_to_the_identity_and_are_inverted(recipe, dim, context_dim):
    flow = recipe(dim, context_dim=context_dim)
    params = flow.init(np.random.default_rng(0))
    x = RNG.standard_normal((20, dim))
    c = RNG.standard_normal((20, context_dim)) if context_dim else None
    y, log_det = flow.forward(params, x, c)
    start = x[:, ::-1] if recipe is pf.bnaf else x  # bnaf has two layers, and the order reversed in between
    assert np.abs(y - start).max() < 0.1
    assert np.abs(log_det).max() < 0.1
    back, back_log_det = flow.inverse(params, y, c)
    np.testing.assert_allclose(back, x, rtol=0, atol=1e-11)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="flow_layers must be at least 1"):
        recipe(dim, flow_layers=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.DeepSigmoidal(units=0), "units must be at least 1, got 0"),
        (lambda: pf.DeepSigmoidal(min_slope=0.0), "min_slope must lie between 0 and 1, got 0.0"),
        (lambda: pf.DeepDenseSigmoidal(layers=0), "layers must be at least 1, got 0"),
        (lambda: pf.UnconstrainedMonotone(nodes=1), "nodes must be at least 2, got 1"),
        (lambda: pf.UnconstrainedMonotone(bound=-1.0), "bound must be positive and finite, got -1.0"),
        (lambda: pf.BlockNeuralAutoregressive(0), "dim must be at least 1, got 0"),
    ],
)
def test_fields_out_of_range_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
