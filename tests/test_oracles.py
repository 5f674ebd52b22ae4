"""Whole layers against those of zuko, FlowJAX and nflows with the same weights: values and log dets, both ways.

The libraries parametrise scales and splines in their own ways. ``Translated`` reads their theta; network, masks,
wiring and formulas remain ours, in NumPy, with which the laws compare torch and JAX.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import equinox as eqx
import flowjax.bijections as flowjax
import jax
import numpy as np
import paramax
import pytest
import torch
import zuko
from scipy.special import expit
from zuko.transforms import MonotonicRQSTransform

import ppl_flows as pf

DIM, CONTEXT, BINS, BOUND, WIDTH = 4, 3, 5, 3.0, 6
MASK = (False, True, False, True)  # True passes
NFLOWS = np.load(Path(__file__).parent / "oracles" / "nflows.npz")  # made by record_nflows.py beside it
RNG = np.random.default_rng(11)
X, C = 1.5 * RNG.standard_normal((20, DIM)), RNG.standard_normal((20, CONTEXT))  # some beyond the splines' bound


@dataclass(frozen=True)
class Translated(pf.Transformer):
    """``inner``, whose theta ``translate`` makes from the ``theirs`` numbers of another library."""

    inner: pf.Transformer
    translate: Callable[[np.ndarray], np.ndarray]
    theirs: int

    @property
    def size(self):
        return self.theirs

    def forward(self, theta, x):
        return self.inner.forward(self.translate(theta), x)

    def inverse(self, theta, y):
        return self.inner.inverse(self.translate(theta), y)


def affine(log_scale, shift=0):
    """Their affine map, whose theta holds the shift at this place and at the other what log_scale takes."""

    def translate(theta):
        return np.stack([theta[..., shift], log_scale(theta[..., 1 - shift])], axis=-1)

    return Translated(pf.Affine(max_log_scale=None), translate, 2)


def spline(translate, theirs=3 * BINS - 1, min_bin=1e-3):
    return Translated(pf.RationalQuadratic(bins=BINS, bound=BOUND, min_bin=min_bin), translate, theirs)


def raw_slopes(slopes, min_slope=1e-3):
    """What ``RationalQuadratic`` takes for these slopes at the inner knots."""
    return np.log(np.expm1(slopes - min_slope)) - np.log(np.expm1(1 - min_slope))


def mlp(weights):
    """MLP's params from ``(out, in)`` matrices and biases."""
    return {f"{k}{i}": np.asarray(a).T for i, layer in enumerate(weights) for k, a in zip("wb", layer, strict=True)}


def made(weights, degrees):
    """MaskedMLP's params, which sorts its units by degree."""
    order, (first, *others) = np.argsort(degrees, kind="stable"), [[np.asarray(a) for a in layer] for layer in weights]
    weights = [first, *([w[:, order], b] for w, b in others)]
    params = mlp([*([w[order], b[order]] for w, b in weights[:-1]), weights[-1]])
    if len(params["w0"]) > DIM:  # the context comes after x
        params |= {"w0": params["w0"][:DIM], "c": params["w0"][DIM:]}
    return params


def agree(bijection, params, x, c, y, log_det):
    for got, expected in zip(bijection.forward(params, x, c), (y, log_det), strict=True):
        np.testing.assert_allclose(got, np.asarray(expected), rtol=0, atol=1e-10)
    for got, expected in zip(bijection.inverse(params, np.asarray(y), c), (x, -np.asarray(log_det)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)  # divides by slopes down to 0.01


# nflows: recorded


def recorded(name):
    """``(x, None, y, log_det)`` and the parameters by their names."""
    arrays = {key.partition("/")[2]: a for key, a in NFLOWS.items() if key.startswith(name + "/")}
    return (arrays.pop("x"), None, arrays.pop("y"), arrays.pop("log_det")), arrays


def layers_of(arrays):
    values = list(arrays.values())
    return list(zip(values[::2], values[1::2], strict=True))


def nflows_spline(theta, divide_by=1.0):
    widths_and_heights, slopes = theta[..., : 2 * BINS] / divide_by, theta[..., 2 * BINS :]
    return np.concatenate([widths_and_heights, raw_slopes(1e-3 + np.logaddexp(0, slopes))], axis=-1)


def test_affine_coupling_is_nflows():
    numbers, arrays = recorded("affine_coupling")
    *hidden, (w, b) = layers_of(arrays)
    one_by_one = [0, 2, 1, 3]  # their outputs are all shifts, then all scales
    h = affine(lambda u: np.log(expit(u + 2) + 1e-3))
    layer = pf.Coupling(DIM, h, mask=MASK, conditioner=pf.MLP((WIDTH, WIDTH), activation="tanh"))
    agree(layer, mlp([*hidden, (w[one_by_one], b[one_by_one])]), *numbers)


def test_spline_coupling_with_a_residual_network_is_nflows():
    numbers, arrays = recorded("spline_coupling")
    h = spline(partial(nflows_spline, divide_by=WIDTH**0.5))  # as they do for their own networks
    layer = pf.Coupling(DIM, h, mask=MASK, conditioner=pf.MLP((WIDTH,), activation="tanh", residual=True))
    agree(layer, mlp(layers_of(arrays)), *numbers)


def test_affine_autoregressive_layer_is_nflows():
    numbers, arrays = recorded("affine_autoregressive")
    h = affine(lambda u: np.log(np.logaddexp(0, u) + 1e-3), shift=1)
    layer = pf.MaskedAutoregressive(DIM, h, conditioner=pf.MLP((WIDTH, WIDTH), activation="tanh"))
    agree(layer, made(layers_of(arrays), np.arange(WIDTH) % (DIM - 1)), *numbers)


def test_spline_autoregressive_layer_with_residual_blocks_is_nflows():
    numbers, arrays = recorded("spline_autoregressive")
    layer = pf.MaskedAutoregressive(
        DIM, spline(nflows_spline), conditioner=pf.MLP((WIDTH,), activation="tanh", residual=True)
    )
    agree(layer, made(layers_of(arrays), np.arange(WIDTH) % (DIM - 1)), *numbers)


def test_lu_linear_is_nflows():
    numbers, arrays = recorded("lu")
    lu = np.diag(np.log(np.logaddexp(0, arrays["unconstrained_upper_diag"]) + 1e-3))
    lu[np.tril_indices(DIM, -1)], lu[np.triu_indices(DIM, 1)] = arrays["lower_entries"], arrays["upper_entries"]
    agree(pf.LULinear(DIM), {"lu": lu, "b": arrays["bias"]}, *numbers)


def test_householder_is_nflows():
    numbers, arrays = recorded("householder")
    agree(pf.Householder(DIM, reflections=4), {"v": arrays["q_vectors"]}, *numbers)


# zuko


def softly_clipped(a, bound):
    return a / (1 + np.abs(a / bound))


def zukos_spline(theta):
    log_min = np.log(1e-3)
    widths_and_heights = softly_clipped(theta[..., : 2 * BINS], log_min / 2)
    slopes = np.exp(softly_clipped(theta[..., 2 * BINS :], log_min))
    return np.concatenate([widths_and_heights, raw_slopes(slopes)], axis=-1)


ZUKO = {
    "affine": (affine(lambda s: softly_clipped(s, np.log(1e-3))), {}),
    "spline": (
        spline(zukos_spline, min_bin=1e-300),  # they bound no bin from below
        {"univariate": partial(MonotonicRQSTransform, bound=BOUND), "shapes": [(BINS,), (BINS,), (BINS - 1,)]},
    ),
}


def zukos(make, **kwargs):
    """The layer at random weights, those weights, and its numbers."""
    torch.manual_seed(0)
    layer = make(DIM, CONTEXT, hidden_features=(8, 8), activation=torch.nn.Tanh, **kwargs).double()
    for parameter in layer.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    y, log_det = layer(torch.tensor(C)).call_and_ladj(torch.tensor(X))
    weights = [(m.weight.detach(), m.bias.detach()) for m in layer.hyper if hasattr(m, "weight")]
    return weights, (X, C, y.detach(), log_det.detach())


@pytest.mark.parametrize("h", ZUKO)
def test_coupling_is_zukos(h):
    ours, theirs = ZUKO[h]
    weights, numbers = zukos(zuko.flows.GeneralCouplingTransform, mask=MASK, **theirs)
    layer = pf.Coupling(DIM, ours, mask=MASK, context_dim=CONTEXT, conditioner=pf.MLP((8, 8), activation="tanh"))
    agree(layer, mlp(weights), *numbers)


@pytest.mark.parametrize("h", ZUKO)
def test_autoregressive_layer_is_zukos(h):
    ours, theirs = ZUKO[h]
    weights, numbers = zukos(zuko.flows.MaskedAutoregressiveTransform, **theirs)
    layer = pf.MaskedAutoregressive(DIM, ours, context_dim=CONTEXT, conditioner=pf.MLP((8, 8), activation="tanh"))
    agree(layer, made(weights, np.arange(8) % DIM), *numbers)


# FlowJAX


def flowjaxs_spline(theta):
    return np.delete(theta, [2 * BINS, 3 * BINS], axis=-1)  # the slopes at the ends, kept at 1


ONE = np.log(np.expm1(1.0))  # their scale is 1 at 0
FLOWJAX = {
    "affine": (affine(lambda s: np.log(np.logaddexp(0, s + ONE))), flowjax.Affine()),
    "spline": (
        spline(flowjaxs_spline, 3 * BINS + 1, min_bin=1e-3 / (2 * BOUND)),
        flowjax.RationalQuadraticSpline(knots=BINS - 1, interval=BOUND),
    ),
}


def flowjaxs(make, network, h, **kwargs):
    """The layer's weights and its numbers."""
    layer = make(
        jax.random.key(0),
        transformer=FLOWJAX[h][1],
        dim=DIM,
        cond_dim=CONTEXT,
        nn_width=8,
        nn_depth=2,
        nn_activation=jax.numpy.tanh,
        **kwargs,
    )
    layer = paramax.unwrap(layer)
    if h == "spline":  # outputs that are 0 leave the slopes at the ends at 1
        last = network(layer).layers[-1]
        ends = np.arange(len(last.bias)) % (3 * BINS + 1)
        inner = (ends != 2 * BINS) & (ends != 3 * BINS)
        zeroed = last.weight * inner[:, None], last.bias * inner
        layer = eqx.tree_at(lambda l: [network(l).layers[-1].weight, network(l).layers[-1].bias], layer, zeroed)
    y, log_det = jax.jit(jax.vmap(layer.transform_and_log_det))(X, C)
    return [(part.weight, part.bias) for part in network(layer).layers], (X, C, y, log_det)


@pytest.mark.parametrize("h", FLOWJAX)
def test_coupling_is_flowjaxs(h):
    weights, numbers = flowjaxs(flowjax.Coupling, lambda layer: layer.conditioner, h, untransformed_dim=1)
    mask = (True, False, False, False)
    layer = pf.Coupling(
        DIM, FLOWJAX[h][0], mask=mask, context_dim=CONTEXT, conditioner=pf.MLP((8, 8), activation="tanh")
    )
    agree(layer, mlp(weights), *numbers)


@pytest.mark.parametrize("h", FLOWJAX)
def test_autoregressive_layer_is_flowjaxs(h):
    weights, numbers = flowjaxs(flowjax.MaskedAutoregressive, lambda layer: layer.masked_autoregressive_mlp, h)
    weights = [(np.where(w == 0, 1.0, w), b) for w, b in weights]  # what their masks made 0, ours must too
    layer = pf.MaskedAutoregressive(
        DIM, FLOWJAX[h][0], context_dim=CONTEXT, conditioner=pf.MLP((8, 8), activation="tanh")
    )
    agree(layer, made(weights, np.arange(8) % DIM), *numbers)
