from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.conditioners.masked_mlp import MaskedMLP
from ppl_flows.conditioners.mlp import checked_hidden
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support, where_moved
from ppl_flows.core.transformer import Transformer, check_transformer
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Affine

METHODS = ("auto", "sweep", "jacobi")


@dataclass(frozen=True)
class MaskedAutoregressive(Bijection):
    """Each coordinate's map is conditioned on those before it: ``y_t = h(x_t; net(x_1, ..., x_{t-1}, context))``.

    With ``Affine`` this is the layer of inverse autoregressive flows, and its ``Inverse`` that of masked
    autoregressive flows. Starts next to the identity. ``forward`` is one pass of a masked network. ``inverse`` is
    sequential in dim, but each hidden unit is computed once, when its inputs are known: about the arithmetic of one
    pass. Its derivatives, of every order, are exact, whatever the method.

    Args:
        dim: event size, at least 1.
        transformer: the scalar map h.
        flip: the coordinates in reverse order: each is conditioned on those after it. Every second layer of a flow
            wants it.
        hidden: widths of the masked network's hidden layers; best at least ``dim``, so that no degree is left out.
        activation: of the network, a name such as ``"silu"``.
        residual: the entries of hidden, all equal, are residual blocks of two matrices each instead of plain layers;
            one linear map comes before them and one after.
        context_dim: size of the context, 0 for none.
        method: of ``inverse``, and of the linear systems in its derivatives. ``"sweep"`` goes from coordinate to
            coordinate, in about one pass of arithmetic and dim small steps. ``"jacobi"`` takes whole passes until x
            stops moving, at most dim and often five to twenty, the more the stronger the coordinates depend on each
            other. ``"auto"`` looks at shapes alone: jacobi in torch for ``dim >= 32`` and a batch of at most
            ``dim / 4``, where the calls of the small steps cost more than the passes; else, and always in JAX and
            NumPy, sweep. A graph that ``make_fx`` or ``torch.compile`` captures holds the sweep.

    Raises:
        ValueError: dim below 1, an unknown activation or method, or residual blocks of unequal widths.

    Reference: Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
    arXiv:1606.04934; Papamakarios et al. (2017), Masked Autoregressive Flow, arXiv:1705.07057.
    """

    dim: int
    transformer: Transformer = Affine()
    flip: bool = False
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "silu"
    residual: bool = False
    context_dim: int = 0
    method: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"MaskedAutoregressive: unknown method {self.method!r}; choose one of {', '.join(METHODS)}."
            )
        if self.dim < 1:
            raise ValueError(f"MaskedAutoregressive: dim must be at least 1, got {self.dim}.")
        check_transformer("MaskedAutoregressive", self.transformer)
        hidden = checked_hidden("MaskedAutoregressive", self.hidden, self.activation, self.residual)
        object.__setattr__(self, "hidden", hidden)

    @property
    def codomain(self) -> Support:
        return where_moved(self.transformer.codomain, [True] * self.dim)

    @property
    def _network(self) -> MaskedMLP:
        return MaskedMLP(
            self.dim,
            self.transformer.size,
            self.hidden,
            self.activation,
            self.context_dim,
            flip=self.flip,
            residual=self.residual,
        )

    def init(self, rng: np.random.Generator) -> Params:
        return self._network.init(rng)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        y, slopes = self.transformer.forward(self._network(params, x, context), x)
        return y, namespace(x).sum(slopes, axis=-1)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(y)
        if not self.flip:
            return xp.autoregressive_inverse(self._network, self.transformer, self.method, params, y, context)
        network, params = self._network.unflipped(params)
        x, log_det = xp.autoregressive_inverse(
            network, self.transformer, self.method, params, xp.flip(y, axis=-1), context
        )
        return xp.flip(x, axis=-1), log_det
