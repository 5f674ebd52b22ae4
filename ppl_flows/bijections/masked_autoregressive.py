from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from math import prod

import numpy as np

from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_choice, check_flags, check_whole, whole_number
from ppl_flows.core.conditioner import AutoregressiveConditioner, AutoregressiveNetwork
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support, everywhere
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

    Of sequences of vectors, such as the patches of an image, each vector's map is conditioned on those before it.

    Args:
        dim: event size of vectors, at least 1; or ``(length, size)`` of sequences.
        transformer: the scalar map h.
        flip: the coordinates in reverse order: each is conditioned on those after it. Every second layer of a flow
            wants it.
        conditioner: the network, without its sizes; one that can be masked, or is autoregressive by itself.
        context_dim: size of the context, 0 for none.
        method: of ``inverse``, and of the linear systems in its derivatives. ``"sweep"`` goes from coordinate to
            coordinate, in about one pass of arithmetic and dim small steps. ``"jacobi"`` takes whole passes until x
            stops moving, at most dim and often five to twenty, the more the stronger the coordinates depend on each
            other. ``"auto"`` looks at shapes alone: jacobi in torch for ``dim >= 32`` and a batch of at most
            ``dim / 4``, where the calls of the small steps cost more than the passes; else, and always in JAX and
            NumPy, sweep. A graph that ``make_fx`` or ``torch.compile`` captures holds the sweep.

    Raises:
        TypeError: a size that is no whole number, no transformer, or a conditioner that cannot be masked.
        ValueError: dim below 1, an unknown method, a method for another network than an MLP, or an MLP for sequences.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.MaskedAutoregressive(3, pf.Affine(), conditioner=pf.MLP((16, 16)))
        >>> params = layer.init(np.random.default_rng(0))
        >>> y, log_det = layer.forward(params, np.ones((5, 3)))
        >>> x, _ = layer.inverse(params, y)
        >>> np.allclose(x, 1.0)
        True

    Reference: Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
    arXiv:1606.04934; Papamakarios et al. (2017), Masked Autoregressive Flow, arXiv:1705.07057.
    """

    dim: int | tuple[int, ...]
    transformer: Transformer = Affine()
    _: KW_ONLY
    flip: bool = False
    conditioner: AutoregressiveConditioner = MLP((64, 64))
    context_dim: int = 0
    method: str = "auto"

    def __post_init__(self) -> None:
        check_whole(self, context_dim=0)
        check_flags(self, "flip")
        if isinstance(self.dim, Sequence):
            shape = tuple(whole_number("MaskedAutoregressive", "every entry of dim", n) for n in self.dim)
            if len(shape) != 2:
                raise ValueError(f"MaskedAutoregressive: sequences have dim=(length, size), got {shape}.")
            object.__setattr__(self, "dim", shape)
        else:
            check_whole(self, dim=1)
        check_choice("MaskedAutoregressive", "method", self.method, METHODS)
        check_transformer("MaskedAutoregressive", self.transformer)
        if not isinstance(self.conditioner, AutoregressiveConditioner):
            raise TypeError(
                f"MaskedAutoregressive: conditioner must be one that can be masked, such as pf.MLP((64, 64)), or is "
                f"autoregressive by itself, such as pf.CausalAttention(), got {self.conditioner!r}; a network of your "
                "own subclasses pf.AutoregressiveConditioner."
            )
        if self.method != "auto" and not isinstance(self.conditioner, MLP):
            raise ValueError(
                f"MaskedAutoregressive: method={self.method!r} is one of masked MLPs; a "
                f"{type(self.conditioner).__name__} has its own way, method='auto'."
            )
        _ = self._network  # which may refuse the sizes

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (self.dim,) if isinstance(self.dim, int) else self.dim

    @property
    def domain(self) -> Support:
        return everywhere(self.transformer.domain, prod(self.event_shape))

    @property
    def codomain(self) -> Support:
        return everywhere(self.transformer.codomain, prod(self.event_shape))

    @cached_property
    def _network(self) -> AutoregressiveNetwork:
        length, inputs = (*self.event_shape, 1)[:2]
        outputs = inputs * self.transformer.size
        return self.conditioner.bind_autoregressive(length, inputs, outputs, self.context_dim, self.flip)

    def init(self, rng: np.random.Generator) -> Params:
        return self._network.init(rng)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        theta = self._network(params, self._as_sequence(x), context)
        if isinstance(self.dim, int):
            y, slopes = self.transformer.forward(theta, x)
            return y, namespace(x).sum(slopes, axis=-1)
        y, slopes = self.transformer.forward(theta.reshape(*x.shape, self.transformer.size), x)
        return y, namespace(x).sum(slopes, axis=(-2, -1))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        x, log_det = self._network.sequentially(params, self._as_sequence(y), context, self.transformer, self.method)
        return x[..., 0] if isinstance(self.dim, int) else x, log_det

    def _as_sequence(self, v: Array) -> Array:
        return v[..., None] if isinstance(self.dim, int) else v
