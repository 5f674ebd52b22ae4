"""The contract: a bijection is hyperparameters plus pure functions of ``(params, x, context)``."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Callable
from functools import cached_property, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ppl_flows.core.initialisation import check_one_library, check_params, number_of_weights
from ppl_flows.core.namespace import flow_class, namespace
from ppl_flows.core.precision import has_one_dtype, in_one_dtype, of_one_library, wide_params
from ppl_flows.core.support import Support
from ppl_flows.core.types import Array, Observed, Params

if TYPE_CHECKING:
    from ppl_flows.core.base_distribution import Base
    from ppl_flows.jax.flow import Flow as JaxFlow
    from ppl_flows.torch.flow import Flow as TorchFlow

STAGES = ("start", "train", "settle")


class Bijection(abc.ABC):
    """An invertible map ``y = f(x)`` with parameters and, if ``context_dim > 0``, a context.

    Shapes: x ``(*batch, *event_shape)``, y ``(*batch, *output_shape)``, context ``(*batch, context_dim)``,
    broadcast against x's batch; log_det ``(*batch,)``, in nats. x is the base side, y the target side.

    Dtypes: y has that of x, weights and context together. Below float32, only the networks of ``Coupling`` multiply in
    it; all else, and log_det, is in float32. State stays in float32: cast the first of ``pf.split(params)`` alone.

    A concrete layer is a final frozen dataclass, hashable, whose repr rebuilds it. It writes ``_forward`` and
    ``_inverse`` against ``namespace(x)``; layers of vectors have a field ``dim``, others override ``event_shape``.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> pf.Reverse(2).forward({}, np.array([[1.0, 2.0]]))  # y and log_det; without parameters
        (array([[2., 1.]]), array([0.]))
    """

    dim: Any  # event size
    context_dim: int = 0
    batch_shape: tuple[int, ...] = ()  # of the parameters, see ``Batched``
    rearranges: ClassVar[bool] = False  # whether it only puts the numbers into another order, whatever they are
    row_wise: ClassVar[bool] = True  # whether a training pass, too, maps every row without regard to the others

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x."""
        return (self.dim,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one y; equal to ``event_shape`` unless the layer reshapes."""
        return self.event_shape

    @property
    def domain(self) -> Support:
        """The intervals that the coordinates of x lie in; None: all are real."""
        return None

    @property
    def codomain(self) -> Support:
        """The intervals that the coordinates of y lie in; None: all are real."""
        return None

    def init(self, rng: np.random.Generator) -> Params:
        """Initial parameters: the same state of the generator gives the same weights in every language.

        Args:
            rng: a NumPy generator.

        Returns:
            Nested dict of NumPy arrays.
        """
        return {}

    def forward(self, params: Params, x: Array, context: Array | None = None) -> tuple[Array, Array]:
        """Base to target, the direction that samples.

        Args:
            params: as ``init`` makes them, in x's library.
            x: ``(*batch, *event_shape)``.
            context: ``(*batch, context_dim)``, broadcast against x's batch; None where ``context_dim`` is 0.

        Returns:
            ``(y, log|det dy/dx|)``: ``(*batch, *output_shape)``, and ``(*batch,)`` in nats.

        Raises:
            ValueError, TypeError: shapes or params that do not fit, a context that is missing or not wanted, no arrays.
        """
        y, log_det = self._run_checked(self._forward, params, x, context, self.event_shape)
        return y, log_det

    def inverse(self, params: Params, y: Array, context: Array | None = None) -> tuple[Array, Array]:
        """Target to base, the direction that scores; errors as of ``forward``.

        Args:
            params, context: as of ``forward``.
            y: ``(*batch, *output_shape)``.

        Returns:
            ``(x, log|det dx/dy|)``: ``(*batch, *event_shape)``, and ``(*batch,)`` in nats.
        """
        x, log_det = self._run_checked(self._inverse, params, y, context, self.output_shape)
        return x, log_det

    def observe(
        self, params: Params, value: Array, context: Array | None = None, *, forward: bool = False, stage: str = "train"
    ) -> Observed:
        """The pass that a batch makes during training, by params that then have seen it.

        For most layers the ordinary pass. A layer that normalises takes its statistics from the batch, over all axes
        but the last; log_det is that of the row-wise map with these held fixed.

        Args:
            params, context: as of ``forward``.
            value: the batch, ``(*batch, *event)``.
            forward: the batch is on the base side; by default it is data, and the pass is ``inverse``.
            stage: ``"start"``, once before training, may set weights; ``"train"``, at every step, changes only what is
                below ``"state"``; ``"settle"``, once after training, sets that from many rows.

        Returns:
            ``(params, out, log_det)``: the new params, and what that direction gives, log_det in nats.

        Raises:
            ValueError: an unknown stage; a batch without rows; for a layer that normalises, fewer than 2 rows.
        """
        if stage not in STAGES:
            raise ValueError(f"observe: unknown stage {stage!r}; choose one of {', '.join(STAGES)}.")
        if 0 in (*value.shape, *(given := tuple(getattr(context, "shape", ())))[:-1]):
            raise ValueError(f"observe got a batch without rows, of shape {tuple(value.shape)} and context {given}.")
        shape = self.event_shape if forward else self.output_shape
        run = partial(self._observe, forward=forward, stage=stage)
        params, out, log_det = self._run_checked(run, params, value, context, shape)
        return params, out, log_det

    def to_torch(
        self,
        params: Params | None = None,
        *,
        base: Base | None = None,
        base_params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> TorchFlow:
        """A ``ppl_flows.torch.Flow``, the density as an ``nn.Module`` without Pyro; arguments and errors as of it."""
        make = flow_class("torch")
        made: TorchFlow = make(self, params, base=base, base_params=base_params, context=context, seed=seed)
        return made

    def to_jax(
        self,
        params: Params | None = None,
        *,
        base: Base | None = None,
        base_params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> JaxFlow:
        """A ``ppl_flows.jax.Flow``, the density as a pytree without NumPyro; arguments and errors as of it."""
        make = flow_class("jax")
        made: JaxFlow = make(self, params, base=base, base_params=base_params, context=context, seed=seed)
        return made

    # What follows runs unchecked: value and context have their shapes, the value has the batch shape of both together,
    # and all arrays have one dtype, float32 or wider. Parts of a bijection are run by these, and never by the above.

    @abc.abstractmethod
    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]: ...

    @abc.abstractmethod
    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]: ...

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        run = self._forward if forward else self._inverse
        return params, *run(params, value, context)

    def _widen(self, params: Params) -> Params:
        """Narrow params as a pass takes them: in float32, but for networks that multiply in what they have."""
        return wide_params(params)

    def _run_checked(
        self,
        run: Callable[..., tuple[Any, ...]],
        params: Params,
        v: Array,
        context: Array | None,
        shape: tuple[int, ...],
    ) -> tuple[Any, ...]:
        """``run(params, v, context)``, the outermost call: here alone shapes, dtypes and batches are decided."""
        if isinstance(v, np.ndarray):
            v, context = of_one_library(params, v, context)
        name, xp = type(self).__name__, namespace(v)
        batch = tuple(v.shape[: v.ndim - len(shape)])
        if tuple(v.shape) != batch + shape:
            raise ValueError(
                f"{name} expects arrays of shape (*batch, {', '.join(map(str, shape))}), got {tuple(v.shape)}; "
                "the event axes come last."
            )
        if context is None and self.context_dim:
            raise ValueError(
                f"{name} has context_dim={self.context_dim} and got no context; "
                f"pass context of shape (*batch, {self.context_dim})."
            )
        self.check_context(context)
        both = self.joint_batch(batch, context)
        if 0 in both:
            return self._run_without_rows(run, params, v, context, both, shape)
        v = v if both == batch else xp.broadcast_to(v, both + shape)
        if not xp.reads_code():
            check_params(self, params, more=True)
        try:
            plain = has_one_dtype(params, v, context)
            return run(params, v, context) if plain else in_one_dtype(run, self._widen, params, v, context)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            check_one_library(self, params, v, context)  # the likeliest reason, in words
            raise

    def _run_without_rows(
        self,
        run: Callable[..., tuple[Any, ...]],
        params: Params,
        v: Array,
        context: Array | None,
        batch: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> tuple[Any, ...]:
        """The pass of a batch with no rows: that of one row, which is cut away, as not every operation takes none."""

        def one_row(a: Array, event: tuple[int, ...]) -> Array:
            return namespace(a).broadcast_to(0.0 * namespace(a).sum(a) + 0.5, tuple(max(n, 1) for n in batch) + event)

        given = None if context is None else one_row(context, (self.context_dim,))
        cut = tuple(slice(n) for n in batch)
        return tuple(a[cut] for a in self._run_checked(run, params, one_row(v, shape), given, shape))

    def __getstate__(self) -> dict[str, Any]:
        """The fields: what was derived from them is derived again."""
        derived = {name for name in self.__dict__ if isinstance(getattr(type(self), name, None), cached_property)}
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def _layer_counts(self) -> Counter[str]:
        """How many bijections of each class this one is made of, containers not counted."""
        return Counter([type(self).__name__])

    def __str__(self) -> str:
        """One line for people; ``repr`` rebuilds the bijection."""
        event = f"{self.event_shape[0]} dims" if len(self.event_shape) == 1 else "x".join(map(str, self.event_shape))
        layers = self._layer_counts()
        own = [] if layers == {type(self).__name__: 1} else [f"{n} {name}" for name, n in layers.items()]
        context = [f"context of {self.context_dim}"] if self.context_dim else []
        parameters = f"{number_of_weights(self):,} parameters"
        return f"{type(self).__name__}({', '.join([event, *own, *context, parameters])})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What notebooks print."""
        printer.text(str(self))

    def joint_batch(self, batch: tuple[int, ...], context: Array | None) -> tuple[int, ...]:
        """The shape that ``batch``, the context's and ``batch_shape`` broadcast to; a ValueError where they do not."""
        if context is None and not self.batch_shape:
            return batch
        given = () if context is None else tuple(context.shape[:-1])
        try:
            return np.broadcast_shapes(batch, given, self.batch_shape)
        except ValueError:
            raise ValueError(
                f"{type(self).__name__}: the batch shapes of x {batch}, of the context {given} and of the bijection "
                f"{self.batch_shape} do not broadcast; give one context, or one for each row."
            ) from None

    def check_context(self, context: Array | None) -> None:
        """Raises ValueError for a context of the wrong size, or one not wanted, TypeError for one that is no array."""
        if context is None:
            return
        namespace(context)  # raises for a list
        name = type(self).__name__
        if self.context_dim == 0:
            raise ValueError(f"{name} got a context but has context_dim=0; leave it out, or give context_dim=k.")
        if context.ndim == 0 or context.shape[-1] != self.context_dim:
            raise ValueError(
                f"{name} expects context of shape (*batch, {self.context_dim}), got {tuple(context.shape)}."
            )


def check_bijection(owner: str, bijection: Any) -> None:
    """Raises TypeError unless it is a Bijection."""
    if not isinstance(bijection, Bijection):
        way_out = (
            "; a recipe such as pf.nsf, or a class, is called first"
            if isinstance(bijection, type | FunctionType)
            else ""
        )
        raise TypeError(f"{owner} takes bijections such as pf.nsf(2), got {bijection!r}{way_out}.")
