"""The contract of conditioners: specifications of the networks that produce a transformer's parameters.

A specification holds hyperparameters and no sizes. A wiring knows the sizes and binds it to a network. There are two
protocols, as an autoregressive wiring needs more of a network than a coupling does; a class may follow both.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Protocol

import numpy as np

from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import first_weight
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array, Params


class Network(Protocol):
    """A conditioner bound to its sizes: pure functions of params, hashable."""

    def init(self, rng: np.random.Generator) -> Params:
        """Initial parameters as NumPy arrays. A last layer of small numbers starts a flow next to the identity."""

    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        """theta, ``(*batch, outputs)``, for x ``(*batch, inputs)`` and context ``(*batch, context_dim)`` or None.

        The context's batch broadcasts against x's, and need not be equal to it. Of images: ``(*batch, height, width,
        outputs)`` for x ``(*batch, height, width, inputs)``; the context has two axes of size 1 before its last one, so
        that it broadcasts against the pixels.
        """


class Conditioner(abc.ABC):
    """What ``Coupling`` and ``Elementwise`` take; a frozen dataclass."""

    event_ndim: ClassVar[int | None] = None  # axes of the events that its networks take, 3 for images; None: any

    @abc.abstractmethod
    def bind(self, inputs: int, outputs: int, context_dim: int = 0) -> Network:
        """The network with these sizes; for ``Elementwise``, x is the wiring's context."""


class AutoregressiveNetwork(abc.ABC):
    """A network of sequences whose output t sees only the positions before t (with ``flip``, after t)."""

    length: int

    @abc.abstractmethod
    def init(self, rng: np.random.Generator) -> Params:
        """As of ``Network``."""

    @abc.abstractmethod
    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        """All outputs at once, ``(*batch, length, outputs)``, for x ``(*batch, length, inputs)``.

        The context is ``(*batch, context_dim)``, or broadcasts against that: it has no axis for the positions.
        """

    def sequentially(
        self, params: Params, y: Array, context: Array | None, transformer: Transformer, method: str
    ) -> tuple[Array, Array]:
        """``(x, log_det)`` with ``transformer.forward(self(x), x) = y``; log_det of the inverse, ``(*batch,)``.

        By ``length`` passes, each of which finds one more position; in JAX the program holds them all. A network that
        can go from position to position overrides it.

        Args:
            y: ``(*batch, length, inputs)``.
            method: as in ``MaskedAutoregressive``; "auto" for all networks but a masked MLP.
        """
        xp = namespace(y)
        x, slopes = xp.zeros_like(y), xp.zeros_like(y)
        for _ in range(self.length):
            # a wild trial of a later position must not reach the earlier ones, as zero times infinity
            trial = xp.where(xp.isfinite(x), x, 0.0)
            theta = self(params, trial, context)
            x, slopes = transformer.inverse(theta.reshape(*y.shape, transformer.size), y)
        return x, xp.sum(slopes, axis=(-2, -1))


class AutoregressiveConditioner(abc.ABC):
    """What ``MaskedAutoregressive`` takes; a frozen dataclass."""

    @abc.abstractmethod
    def bind_autoregressive(
        self, length: int, inputs: int, outputs: int, context_dim: int = 0, flip: bool = False
    ) -> AutoregressiveNetwork:
        """The network of sequences of ``length`` vectors of size ``inputs``."""


def check_conditioner(owner: str, conditioner: Any, event_ndim: int) -> None:
    """Raises TypeError unless it is a Conditioner of events with so many axes."""
    if not isinstance(conditioner, Conditioner):
        way_out = (
            f"a network such as {type(conditioner).__name__} masks itself and belongs into MaskedAutoregressive"
            if isinstance(conditioner, AutoregressiveConditioner)
            else "a network of your own subclasses pf.Conditioner"
        )
        raise TypeError(f"{owner}: conditioner must be one such as pf.MLP((64, 64)), got {conditioner!r}; {way_out}.")
    if conditioner.event_ndim not in (None, event_ndim):
        raise TypeError(
            f"{owner}: {type(conditioner).__name__} is a network of events with {conditioner.event_ndim} axes, but "
            f"these have {event_ndim}; use pf.MLP for vectors and pf.ConvNet for images."
        )


def theta_of(network: Network, outputs: int, params: Params, x: Array, context: Array | None) -> Array:
    """The network's output in x's dtype; it multiplies in the dtype of its weights, which may be narrower.

    Raises:
        ValueError: it gives another number of outputs.
    """
    weight = first_weight(params)
    if weight is None or weight.dtype == x.dtype:
        theta = network(params, x, context)
    else:
        xp, dtype = namespace(x), weight.dtype
        narrow = network(params, xp.astype(x, dtype), None if context is None else xp.astype(context, dtype))
        theta = xp.astype(narrow, x.dtype)
    if theta.shape[-1] != outputs:
        raise ValueError(
            f"{type(network).__name__}: the network must give {outputs} numbers for these events, but gave theta of "
            f"shape {tuple(theta.shape)}; its bind(inputs, outputs, context_dim) says how many."
        )
    return theta
