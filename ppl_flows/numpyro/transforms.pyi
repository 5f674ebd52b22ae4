# Generated from the classes by `make docs`; do not edit.
# ruff: noqa: E501
"""Every bijection under its own name as a transform class; see transforms.py."""

from collections.abc import Iterable, Mapping
from typing import Any

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Params
from ppl_flows.numpyro.transform import FlowTransform

__all__ = [
    "ActNorm",
    "AtContext",
    "BatchNorm",
    "Batched",
    "BlockNeuralAutoregressive",
    "Chain",
    "ContractiveResidual",
    "Coupling",
    "Elementwise",
    "Frozen",
    "Householder",
    "Inverse",
    "Invertible1x1Conv",
    "LULinear",
    "LogitTransform",
    "MaskedAutoregressive",
    "MultiScale",
    "NeuralODE",
    "Orthogonal",
    "Partial",
    "PerPixel",
    "Permute",
    "Planar",
    "Radial",
    "Repeat",
    "Reshape",
    "Reverse",
    "Shuffle",
    "Squeeze",
    "Sylvester",
    "TriangularAffine",
]

class ActNorm(FlowTransform):
    """Scale and shift per coordinate, started from data: ``y = x exp(log_scale) + shift``, on the last axis."""

    def __init__(
        self,
        dim: int,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class AtContext(FlowTransform):
    """A conditional bijection at one context, which it holds as state: a bijection that takes no context."""

    def __init__(
        self,
        part: Bijection,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class BatchNorm(FlowTransform):
    """Batch normalisation of the data side, on the last axis: ``x = (y - m) / sqrt(v + eps) exp(log_scale) + shift``."""

    def __init__(
        self,
        dim: int,
        *,
        momentum: float = 0.1,
        eps: float = 1e-05,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Batched(FlowTransform):
    """One bijection with parameters of its own for every element of a batch, such as the rows of a plate."""

    def __init__(
        self,
        part: Bijection,
        *,
        batch: tuple[int, ...],
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class BlockNeuralAutoregressive(FlowTransform):
    """One autoregressive network that is itself the map: ``y = (1 - g) x + g f(x)``, each f_t increasing in x_t."""

    def __init__(
        self,
        dim: int,
        *,
        hidden_factor: int = 8,
        layers: int = 2,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Chain(FlowTransform):
    """Bijections one after another: ``forward`` applies the first part first."""

    def __init__(
        self,
        parts: Iterable[Bijection] | Mapping[str, Bijection],
        *,
        names: Iterable[str] | None = None,
        remat: str = "none",
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class ContractiveResidual(FlowTransform):
    """A residual block that is invertible because it contracts: ``y = x + g(x)`` with ``Lip(g) <= lipschitz < 1``."""

    def __init__(
        self,
        dim: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        lipschitz: float = 0.9,
        exact: bool | None = None,
        terms: int = 10,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Coupling(FlowTransform):
    """One part of x passes and conditions the map of the other: ``y_a = x_a, y_b = h(x_b; net(x_a, context))``."""

    def __init__(
        self,
        dim: int | tuple[int, ...],
        transformer: Transformer = ...,
        *,
        mask: str | tuple[bool, ...] = "halves",
        flip: bool = False,
        seed: int = 0,
        conditioner: Conditioner | None = None,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
    ) -> None: ...

class Elementwise(FlowTransform):
    """Every coordinate through its own scalar map: ``y_i = h(x_i; theta_i)``."""

    def __init__(
        self,
        dim: int,
        transformer: Transformer = ...,
        *,
        conditioner: Conditioner = ...,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Frozen(FlowTransform):
    """A bijection whose parameters never train: they are state, as BatchNorm's running averages are."""

    def __init__(
        self,
        part: Bijection,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Householder(FlowTransform):
    """Rotation by Householder reflections: ``y = H_k ... H_1 x, H_i = I - 2 v_i v_i^T / |v_i|^2``, with log_det 0."""

    def __init__(
        self,
        dim: int,
        *,
        reflections: int | None = None,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Inverse(FlowTransform):
    """A bijection with its directions exchanged: the way from an IAF to a MAF and back."""

    def __init__(
        self,
        part: Bijection,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Invertible1x1Conv(FlowTransform):
    """A learned mixing of the channels, the same at every pixel: ``y = W x``."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        dense: bool = False,
        order: str | tuple[int, ...] = "random",
        seed: int = 0,
        params: Params | None = None,
        context: Any = None,
    ) -> None: ...

class LULinear(FlowTransform):
    """Linear map by its LU factors: ``y = P L U x + b``, on the last axis."""

    def __init__(
        self,
        dim: int,
        *,
        order: str | tuple[int, ...] = "identity",
        bias: bool = True,
        seed: int = 0,
        params: Params | None = None,
        context: Any = None,
    ) -> None: ...

class LogitTransform(FlowTransform):
    """Real numbers to pixels: ``y = (sigmoid(x) - a) / (1 - 2 a)``; the last layer of a flow of images."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        alpha: float = 0.05,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class MaskedAutoregressive(FlowTransform):
    """Each coordinate's map is conditioned on those before it: ``y_t = h(x_t; net(x_1, ..., x_{t-1}, context))``."""

    def __init__(
        self,
        dim: int | tuple[int, ...],
        transformer: Transformer = ...,
        *,
        flip: bool = False,
        conditioner: AutoregressiveConditioner = ...,
        context_dim: int = 0,
        method: str = "auto",
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class MultiScale(FlowTransform):
    """A flat vector to an image, scale by scale: half of the channels of each scale come straight from the base."""

    def __init__(
        self,
        scales: Iterable[Bijection],
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class NeuralODE(FlowTransform):
    """A continuous flow: x moves from t = 0 to y at t = 1 by ``dx/dt = f(x, t, context)``, f an MLP."""

    def __init__(
        self,
        dim: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        rtol: float = 1e-06,
        atol: float = 1e-06,
        exact: bool | None = None,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Orthogonal(FlowTransform):
    """Rotation by the Cayley map: ``y = Q x, Q = (I - A)^-1 (I + A), A = a - a^T``, with log_det 0."""

    def __init__(
        self,
        dim: int,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Partial(FlowTransform):
    """A bijection of some of the coordinates; the others pass as they are."""

    def __init__(
        self,
        part: Bijection,
        *,
        dim: int,
        index: tuple[int, ...],
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class PerPixel(FlowTransform):
    """The same bijection of the channels at every pixel: log_det is the sum over the pixels."""

    def __init__(
        self,
        part: Bijection,
        *,
        height: int,
        width: int,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Permute(FlowTransform):
    """Fixed permutation of the coordinates: ``y_i = x_{order[i]}``, with log_det 0."""

    def __init__(
        self,
        dim: int,
        *,
        order: tuple[int, ...] | None = None,
        seed: int = 0,
        params: Params | None = None,
        context: Any = None,
    ) -> None: ...

class Planar(FlowTransform):
    """Stretches space across a hyperplane: ``y = x + v tanh(w.x + b)``, with ``w.v > -1``."""

    def __init__(
        self,
        dim: int,
        *,
        conditioner: Conditioner = ...,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Radial(FlowTransform):
    """Pushes away from a centre or draws to it: ``y = x + beta (x - x0) / (alpha + r), r = |x - x0|``."""

    def __init__(
        self,
        dim: int,
        *,
        conditioner: Conditioner = ...,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Repeat(FlowTransform):
    """The same bijection several times, each time with parameters of its own."""

    def __init__(
        self,
        part: Bijection,
        *,
        times: int,
        remat: str = "none",
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Reshape(FlowTransform):
    """A flat vector to an array, row by row, with log_det 0: what a flow of vectors needs to be one of images."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Reverse(FlowTransform):
    """The coordinates in reverse order, with log_det 0; its own inverse."""

    def __init__(
        self,
        dim: int,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Shuffle(FlowTransform):
    """Random permutation drawn with the parameters, among which it is kept as state; with log_det 0."""

    def __init__(
        self,
        dim: int,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Squeeze(FlowTransform):
    """Space to depth: every ``factor x factor`` block of pixels becomes one pixel, with log_det 0."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        factor: int = 2,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class Sylvester(FlowTransform):
    """A planar layer of higher rank: ``y = x + Q R tanh(S Q^T x + b)``, S being the paper's R tilde."""

    def __init__(
        self,
        dim: int,
        *,
        rank: int | None = None,
        variant: str = "orthogonal",
        reflections: int | None = None,
        flip: bool = False,
        conditioner: Conditioner = ...,
        context_dim: int = 0,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...

class TriangularAffine(FlowTransform):
    """Affine map by a Cholesky factor: ``y = L x + b``, L lower triangular with ``exp(.)`` on the diagonal."""

    def __init__(
        self,
        dim: int,
        *,
        params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None: ...
