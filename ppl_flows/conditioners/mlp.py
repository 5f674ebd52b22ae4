"""The dense network, plain or residual."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from itertools import pairwise

import numpy as np

from ppl_flows.conditioners.hidden_layers import HiddenLayers
from ppl_flows.conditioners.masked_mlp import MaskedMLP
from ppl_flows.core.checks import check_flags, check_generator, checked_widths
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.core.namespace import ACTIVATIONS, namespace
from ppl_flows.core.types import Array, Params


@dataclass(frozen=True)
class MLP(HiddenLayers, Conditioner, AutoregressiveConditioner):
    """Dense network; under masks, one that is autoregressive (MADE). The context enters its first layer.

    Args:
        hidden: widths of the hidden layers, or of the residual blocks, which all have one; autoregressive, best at
            least the number of coordinates, so that no degree is left out.
        activation: a name such as ``"silu"``.
        residual: residual blocks, pre-activated, of two matrices each, in place of plain layers.

    Raises:
        TypeError: hidden is no tuple of whole numbers.
        ValueError: a width below 1, residual blocks of unequal widths, or an unknown activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> network = pf.MLP((32, 32), residual=True).bind(inputs=2, outputs=6)
        >>> params = network.init(np.random.default_rng(0))
        >>> network(params, np.zeros((5, 2)), None).shape
        (5, 6)
        >>> layer = pf.Coupling(4, conditioner=pf.MLP((32, 32), residual=True))

    Reference: He et al. (2016), Identity Mappings in Deep Residual Networks, arXiv:1603.05027; as in Durkan et al.
    (2019), Neural Spline Flows, arXiv:1906.04032, without dropout and batch normalisation; Germain et al. (2015),
    MADE: Masked Autoencoder for Distribution Estimation, arXiv:1502.03509.
    """

    hidden: tuple[int, ...] = (64, 64)
    _: KW_ONLY
    activation: str = "silu"
    residual: bool = False

    def __post_init__(self) -> None:
        hidden = checked_widths("MLP", self.hidden, self.activation, ACTIVATIONS)
        object.__setattr__(self, "hidden", hidden)
        check_flags(self, "residual")
        if self.residual and len(set(hidden)) > 1:
            raise ValueError(
                f"MLP: residual blocks add their result to their input, so all have one width, got hidden={hidden}; "
                f"give {(hidden[0],) * len(hidden)}, or residual=False."
            )

    def bind(self, inputs: int, outputs: int, context_dim: int = 0) -> DenseNetwork:
        return DenseNetwork(self, inputs, outputs, context_dim)

    def bind_autoregressive(
        self, length: int, inputs: int, outputs: int, context_dim: int = 0, flip: bool = False
    ) -> MaskedMLP:
        if inputs != 1:
            raise ValueError(
                f"MLP: its masks are of single coordinates, got positions of {inputs} numbers; use pf.CausalAttention."
            )
        return MaskedMLP(self, length, outputs, context_dim, flip)


@dataclass(frozen=True)
class DenseNetwork:
    """``(*batch, inputs) -> (*batch, outputs)``: an ``MLP`` of these sizes."""

    mlp: HiddenLayers
    inputs: int
    outputs: int
    context_dim: int = 0

    def init(self, rng: np.random.Generator) -> Params:
        check_generator(rng)
        params: dict[str, np.ndarray] = {}
        for i, (n, m) in enumerate(pairwise((self.inputs + self.context_dim, *self.mlp.widths, self.outputs))):
            scale = self.mlp.scale(i) / max(n, 1) ** 0.5
            params |= {f"w{i}": scale * rng.standard_normal((n, m)), f"b{i}": np.zeros(m)}
        return params

    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        return namespace(x).keeping_products(self._run)(params, x, context)

    def _run(self, params: Params, x: Array, context: Array | None) -> Array:
        xp, w, b = namespace(x), params["w0"], params["b0"]
        if context is not None:
            # two products instead of a concatenation: context broadcasts against x's batch for free
            w, b = w[: self.inputs], xp.linear(context, w[self.inputs :], b)
        layers = [(params[f"w{i}"], params[f"b{i}"]) for i in range(1, len(self.mlp.widths) + 1)]
        return self.mlp.propagate(xp, xp.linear(x, w, b), layers)[-1]
