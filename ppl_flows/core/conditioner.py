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
    """The network that ``Coupling`` and ``Elementwise`` take, without its sizes; a frozen dataclass.

    A network of your own subclasses it: ``bind`` gives what has ``init(rng) -> params`` and
    ``__call__(params, x, context) -> theta``.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> network = pf.MLP((16,)).bind(inputs=2, outputs=6)
        >>> params = network.init(np.random.default_rng(0))
        >>> network(params, np.zeros((5, 2)), None).shape
        (5, 6)
    """

    event_ndim: ClassVar[int | None] = None  # axes of the events that its networks take, 3 for images; None: any

    @abc.abstractmethod
    def bind(self, inputs: int, outputs: int, context_dim: int = 0) -> Network:
        """The network of these sizes.

        Args:
            inputs: size of its x; for ``Elementwise`` x is the wiring's context. Of images: channels.
            outputs: size of theta.
            context_dim: size of the context, 0 for none.

        Returns:
            The network, hashable, with pure ``init`` and ``__call__``.
        """


class AutoregressiveNetwork(abc.ABC):
    """A network of sequences whose output t sees only the positions before t (with ``flip``, after t).

    A subclass has ``length``, ``init`` and ``__call__``; ``sequentially`` works for all, and may be overridden
    by one that can go from position to position.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> network = pf.MLP((16,)).bind_autoregressive(length=3, inputs=1, outputs=2)
        >>> params = network.init(np.random.default_rng(0))
        >>> theta = network(params, np.ones((5, 3, 1)), None)
        >>> theta.shape
        (5, 3, 2)
    """

    length: int

    @abc.abstractmethod
    def init(self, rng: np.random.Generator) -> Params:
        """Initial parameters; a last layer of small numbers starts a flow next to the identity.

        Args:
            rng: a NumPy generator.

        Returns:
            Nested dict of NumPy arrays.
        """

    @abc.abstractmethod
    def __call__(self, params: Params, x: Array, context: Array | None) -> Array:
        """All outputs at once, ``(*batch, length, outputs)``, for x ``(*batch, length, inputs)``.

        The context is ``(*batch, context_dim)``, or broadcasts against that: it has no axis for the positions.
        """

    def sequentially(
        self, params: Params, y: Array, context: Array | None, transformer: Transformer, method: str
    ) -> tuple[Array, Array]:
        """The x with ``transformer.forward(self(x), x) = y``, position by position.

        By ``length`` passes, each of which finds one more position; in JAX the program holds them all.

        Args:
            params: of the network.
            y: ``(*batch, length, inputs)``.
            context: ``(*batch, context_dim)``, or None.
            transformer: the scalar map.
            method: as in ``MaskedAutoregressive``; "auto" for all networks but a masked MLP.

        Returns:
            ``(x, log_det)``: log_det of the inverse in nats, ``(*batch,)``.
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
    """The network that ``MaskedAutoregressive`` takes, without its sizes; a frozen dataclass.

    Example:
        >>> import ppl_flows as pf
        >>> isinstance(pf.MLP((16,)), pf.AutoregressiveConditioner)
        True
        >>> layer = pf.MaskedAutoregressive(3, conditioner=pf.MLP((16,)))
    """

    @abc.abstractmethod
    def bind_autoregressive(
        self, length: int, inputs: int, outputs: int, context_dim: int = 0, flip: bool = False
    ) -> AutoregressiveNetwork:
        """The network of sequences of ``length`` vectors of size ``inputs``.

        Args:
            length: number of positions; of vectors, their size.
            inputs: size of one position, 1 for vectors.
            outputs: size of theta at one position.
            context_dim: size of the context, 0 for none.
            flip: each position sees those after it, in place of those before.

        Returns:
            An ``AutoregressiveNetwork``.

        Raises:
            ValueError: positions of more than one number, for an ``MLP``, whose masks are of single coordinates.
        """


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
