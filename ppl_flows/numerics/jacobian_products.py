"""A dense network together with its derivative: products with the Jacobian in closed form, in every array library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ppl_flows.core.namespace import namespace, unit_matrix
from ppl_flows.core.types import Array

EXACT_UP_TO = 32  # dim to which layers take exact determinants and traces: about as many products as an estimate takes

ActivationAndSlope = Callable[[Array], tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class Linearized:
    """A dense network g at rows x ``(*batch, inputs)``: its value, and its Jacobian ``J = dg/dx`` as products.

    Made by ``linearize``. All is ordinary arithmetic, so autodiff differentiates J too. A product costs one pass of
    the network; ``jacobian`` costs ``inputs`` passes; ``trace`` costs one pass up to two hidden layers.

    Args:
        value: g(x), ``(*batch, outputs)``.
        weights: of the layers, each ``(in, out)``.
        slopes: of the activations, one ``(*batch, width)`` per hidden layer.
    """

    value: Array
    weights: tuple[Array, ...]
    slopes: tuple[Array, ...]

    def jvp(self, v: Array) -> Array:
        """``J v`` for v ``(*batch, inputs)``."""
        for w, slope in zip(self.weights, self.slopes, strict=False):
            v = (v @ w) * slope
        return v @ self.weights[-1]

    def vjp(self, u: Array) -> Array:
        """``J^T u`` for u ``(*batch, outputs)``."""
        xp = namespace(u)
        u = u @ xp.matrix_transpose(self.weights[-1])
        for w, slope in zip(self.weights[-2::-1], self.slopes[::-1], strict=True):
            u = (u * slope) @ xp.matrix_transpose(w)
        return u

    def jacobian(self) -> Array:
        """J, ``(*batch, outputs, inputs)``."""
        xp = namespace(self.value)
        columns = self.weights[0]
        for w, slope in zip(self.weights[1:], self.slopes, strict=True):
            columns = (columns * slope[..., None, :]) @ w
        columns = xp.matrix_transpose(columns)
        shape = (*self.value.shape[:-1], *columns.shape[-2:])
        return columns if self.slopes else xp.broadcast_to(columns, shape)

    def trace(self) -> Array:
        """``tr J``, ``(*batch,)``.

        With one or two hidden layers the trace is a quadratic form in the slopes:
        ``tr(W0 D0 W1 D1 W2) = d0^T (W1 * (W2 W0)^T) d1``, whose matrix all rows share.
        """
        xp, weights = namespace(self.value), self.weights
        if len(self.slopes) == 1:
            return xp.sum(self.slopes[0] * xp.sum(weights[0] * xp.matrix_transpose(weights[1]), axis=0), axis=-1)
        if len(self.slopes) == 2:
            form = weights[1] * xp.matrix_transpose(weights[2] @ weights[0])
            return xp.sum((self.slopes[0] @ form) * self.slopes[1], axis=-1)
        return xp.linalg.trace(self.jacobian())


def linearize(
    x: Array, weights: Sequence[Array], biases: Sequence[Array], activations: Sequence[ActivationAndSlope]
) -> Linearized:
    """The network ``x -> act(act(x w0 + b0) w1 + b1) ...`` at x.

    Args:
        x: rows, ``(*batch, inputs)``.
        weights: ``(in, out)`` of every layer.
        biases: ``(out,)`` or ``(*batch, out)`` of every layer: context and time enter through the first one.
        activations: value and slope of each hidden layer's activation: ``activation_and_slope(name)`` or ``lip_swish``.
    """
    slopes = []
    a = x @ weights[0] + biases[0]
    for w, b, activation in zip(weights[1:], biases[1:], activations, strict=True):
        h, slope = activation(a)
        slopes.append(slope)
        a = h @ w + b
    return Linearized(a, tuple(weights), tuple(slopes))


def add_unit_matrix(jacobian: Array) -> Array:
    """``I + J``."""
    return jacobian + unit_matrix(jacobian.shape[-1], jacobian)


def activation_and_slope(name: str) -> ActivationAndSlope:
    """``a -> (activation, its derivative)`` for a name in ``ACTIVATIONS``."""
    return lambda a: (getattr(namespace(a), name)(a), SLOPES[name](a))


def lip_swish(beta: Array) -> ActivationAndSlope:
    """LipSwish, ``a sigmoid(beta a) / 1.1``, and its slope, which stays within (-0.1, 1) for every beta > 0.

    Reference: Chen et al. (2019), Residual Flows for Invertible Generative Modeling, arXiv:1906.02735, sec. 3.3.
    """

    def both(a: Array) -> tuple[Array, Array]:
        s = namespace(a).sigmoid(beta * a)
        return a * s / 1.1, s * (1 + beta * a * (1 - s)) / 1.1

    return both


def _elu(a: Array) -> Array:
    xp = namespace(a)
    return xp.where(a > 0, xp.ones_like(a), xp.exp(xp.minimum(a, xp.zeros_like(a))))


def _gelu(a: Array) -> Array:
    k, c = (2 / 3.141592653589793) ** 0.5, 0.044715
    t = namespace(a).tanh(k * (a + c * a**3))
    return 0.5 * (1 + t) + 0.5 * k * a * (1 - t * t) * (1 + 3 * c * a * a)


def _relu(a: Array) -> Array:
    xp = namespace(a)
    return xp.where(a > 0, xp.ones_like(a), xp.zeros_like(a))


def _sigmoid(a: Array) -> Array:
    s = namespace(a).sigmoid(a)
    return s * (1 - s)


def _silu(a: Array) -> Array:
    s = namespace(a).sigmoid(a)
    return s * (1 + a * (1 - s))


def _softplus(a: Array) -> Array:
    return namespace(a).sigmoid(a)


def _tanh(a: Array) -> Array:
    t = namespace(a).tanh(a)
    return 1 - t * t


SLOPES = {
    "elu": _elu,
    "gelu": _gelu,
    "relu": _relu,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "softplus": _softplus,
    "tanh": _tanh,
}
