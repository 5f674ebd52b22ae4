"""``FlowTransform``: a bijection as a Pyro ``TransformModule``."""

from __future__ import annotations

from abc import ABCMeta
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from pyro.distributions import constraints
from pyro.distributions.conditional import ConditionalTransform
from pyro.distributions.torch_transform import TransformModule
from torch.distributions import biject_to
from torch.utils.weak import WeakTensorKeyDictionary

from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.initialisation import check_params, initial_params, is_stateful
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import mapped_shape
from ppl_flows.pyro.support import Version, constraint, version
from ppl_flows.torch.params import ParamTree, set_state, to_tensor


class ContextTransform(TransformModule):
    """A transform that is the host's ``ConditionalTransform`` too, if and only if it takes a context.

    The host's wrappers ask for the class, and give a context to all that have it. So every class here has a twin,
    under its own name, that is both, and ``_takes_context`` makes an object one of the twin.
    """

    bijective = True
    _conditional: ClassVar[type]

    @property
    def event_dim(self) -> int:
        """Of both sides; an AttributeError where they differ, as torch.jit looks at every attribute there is."""
        if self.domain.event_dim != self.codomain.event_dim:
            raise AttributeError("event_dim")
        return self.domain.event_dim

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls, ConditionalTransform):
            where = {"__module__": cls.__module__, "__qualname__": f"{cls.__qualname__}._conditional"}  # for pickle
            cls._conditional = ABCMeta(cls.__name__, (cls, ConditionalTransform), where)

    def _takes_context(self) -> None:
        if not isinstance(self, ConditionalTransform):
            self.__class__ = self._conditional


class FlowTransform(ContextTransform):
    """A bijection with its parameters, usable wherever Pyro or torch takes a ``Transform`` or an ``nn.Module``.

    With a conditional bijection it is a ``ConditionalTransform`` of Pyro's as well, which
    ``ConditionalTransformedDistribution`` and ``ConditionalComposeTransformModule`` hold, and give their context.

    It keeps no cache on itself: a sample that is scored costs one pass, because the log_det is remembered for the
    very tensors it belongs to, for as long as they live, and only while they and the parameters are unchanged
    (changes through ``.data`` escape torch's count; use ``torch.no_grad()`` instead).

    It is made in evaluation mode. After ``train()`` scoring is ``Bijection.observe``: layers with state, such as
    ``BatchNorm``, then use the statistics of the batch that is scored, and move their running averages. State is kept
    in buffers.

    Args:
        bijection: the map.
        params: nested dict; NumPy and JAX arrays become Parameters in torch's default dtype, tensors are used as
            they are. None draws them from ``seed``.
        context: ``(*batch, context_dim)``, for a conditional bijection. It gives distributions their batch shape.
        seed: of the initial parameters; the same seed gives the same ones in NumPyro.

    Raises:
        TypeError: not a Bijection.
        ValueError: params do not fit the bijection, or the context has the wrong size; at the first use: the context
            is missing.

    Example:
        >>> import torch, ppl_flows as pf
        >>> from ppl_flows.pyro import FlowTransform
        >>> transform = FlowTransform(pf.TriangularAffine(2))
        >>> y = transform(torch.ones(5, 2))
        >>> transform.log_abs_det_jacobian(torch.ones(5, 2), y).shape  # nats
        torch.Size([5])
    """

    def __init__(
        self,
        bijection: Bijection,
        params: Params | None = None,
        *,
        context: torch.Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_bijection("FlowTransform", bijection)
        if params is None:
            params = initial_params(bijection, seed)
        else:
            check_params(bijection, params)
        self.bijection = bijection
        self.weights = ParamTree(params)
        context = None if context is None else to_tensor(context)
        bijection.check_context(context)
        self.register_buffer("context", context, persistent=False)
        if bijection.context_dim:
            self._takes_context()
        self.eval()

    @property
    def params(self) -> Params:
        """The parameters as a nested dict of the tensors in use."""
        return self.weights.tree()

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]  # an attribute of the host's, derived here
        """The host's constraint of x, from the bijection's ``domain``."""
        return constraint(self.bijection.domain, self.bijection.event_shape)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The host's constraint of y, from the bijection's ``codomain``."""
        return constraint(self.bijection.codomain, self.bijection.output_shape)

    @property
    def inv(self) -> TransformModule:
        """The inverse transform: a module too, with the same parameters."""
        inverse: Any = self._inv
        if inverse is None:  # past Module, as its parameters are this module's
            inverse = self.__dict__["_inv"] = InverseFlowTransform(self)
        return inverse

    @property
    def sign(self) -> torch.Tensor:  # type: ignore[override]
        """1 where the map of one number increases, -1 where it decreases; shape ``batch_shape`` of the bijection.

        Raises:
            AttributeError: the events are of more numbers.
        """
        f = self.bijection
        if prod(f.event_shape) != 1:
            raise AttributeError("sign")
        like: Any = next(iter(self.weights.leaves()), torch.zeros(()))
        ends = torch.tensor([0.0, 1.0]).to(like).reshape(2, *(1,) * len(f.batch_shape), *f.event_shape)
        # no context changes it: from one to any other the slope would have to pass through zero
        context = like.new_zeros(f.context_dim) if f.context_dim else None
        with torch.no_grad():
            x = biject_to(self.domain)(ends)
            y = f.forward(self.params, x, context)[0]
        return ((y[1] - y[0]) * (x[1] - x[0]).reshape((1,) * len(f.output_shape))).sign().reshape(f.batch_shape)

    def condition(self, context: torch.Tensor) -> FlowTransform:
        """The same transform, with the same parameters, given a context.

        Raises:
            ValueError: a context of the wrong size, or for a bijection that takes none.
        """
        return FlowTransform(self.bijection, self.params, context=context).train(self.training)

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"FlowTransform takes a torch.Tensor, got {type(x).__name__}; use torch.as_tensor.")
        known = _passes.get(x)
        if known is not None and known.holds(self, x, forward=False):
            return known.source
        y, log_det = self.bijection.forward(self.params, x, self.context)
        return self._remember(y, x, log_det, forward=True)

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        if not isinstance(y, torch.Tensor):
            raise TypeError(f"FlowTransform takes a torch.Tensor, got {type(y).__name__}; use torch.as_tensor.")
        known = _passes.get(y)
        if known is not None and known.holds(self, y, forward=True):
            return known.source
        params = self.params
        if self.training and is_stateful(self.bijection):
            new, x, log_det = self.bijection.observe(params, y, self.context)
            set_state(params, new)
        else:
            x, log_det = self.bijection.inverse(params, y, self.context)
        return self._remember(x, y, -log_det, forward=False)

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """log\\|det dy/dx\\| at x with image y, shape ``x.shape`` without the event, in nats."""
        for result, source, forward in ((y, x, True), (x, y, False)):
            known = _passes.get(result)
            if known is not None and known.source is source and known.holds(self, result, forward=forward):
                return known.log_det
        return self.bijection.forward(self.params, x, self.context)[1]

    def forward_shape(self, shape: tuple[int, ...]) -> torch.Size:
        f = self.bijection
        return torch.Size(mapped_shape(f, self.context, shape, f.event_shape, f.output_shape))

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        f = self.bijection
        return torch.Size(mapped_shape(f, self.context, shape, f.output_shape, f.event_shape))

    def with_cache(self, cache_size: int = 1) -> FlowTransform:
        """Itself: it remembers passes without a cache, whatever ``cache_size``."""
        return self

    def __repr__(self) -> str:
        return f"FlowTransform({self.bijection})"

    def _remember(
        self, result: torch.Tensor, source: torch.Tensor, log_det: torch.Tensor, *, forward: bool
    ) -> torch.Tensor:
        result = result.view_as(result)  # a new tensor, which the log_det's graph cannot hold: else it would never die
        versions = self._versions(), version(source), version(result)
        _passes[result] = _Pass(self, forward, source, log_det, *versions, torch.is_grad_enabled())
        return result

    def _versions(self) -> tuple[tuple[torch.Tensor, Version], ...]:
        context: Any = self.context
        used = self.weights.leaves() + ([] if context is None else [context])
        return tuple([(t, version(t)) for t in used])


class _Pass(NamedTuple):
    """One pass of a bijection: made ``result`` (the key in ``_passes``) from ``source``."""

    owner: FlowTransform
    forward: bool
    source: torch.Tensor
    log_det: torch.Tensor  # of the forward map
    versions: tuple[tuple[torch.Tensor, Version], ...]
    source_version: Version
    result_version: Version
    graded: bool  # made where gradients are recorded

    def holds(self, owner: FlowTransform, result: torch.Tensor, *, forward: bool) -> bool:
        """Whether this pass is one of ``owner``, and parameters and both ends are as they were."""
        if self.owner is not owner or self.forward is not forward or (torch.is_grad_enabled() and not self.graded):
            return False
        if version(result) != self.result_version or version(self.source) != self.source_version:
            return False
        now = owner._versions()
        return len(now) == len(self.versions) and all(
            t is u and i == j for (t, i), (u, j) in zip(now, self.versions, strict=True)
        )


# The last pass that made each living tensor. A weak dictionary and not a field of the transform: the graph of a pass
# lives exactly as long as its result, so nothing is stale, kept alive, or in the way of deepcopy and pickle.
_passes = WeakTensorKeyDictionary()


class InverseFlowTransform(ContextTransform):
    """The inverse of a ``FlowTransform``: its directions exchanged, its parameters registered."""

    def __init__(self, flow: FlowTransform) -> None:
        super().__init__()
        self.flow = flow
        if flow.bijection.context_dim:
            self._takes_context()

    @property
    def domain(self) -> constraints.Constraint:  # type: ignore[override]  # an attribute of the host's, derived here
        return self.flow.codomain

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        return self.flow.domain

    @property
    def inv(self) -> FlowTransform:
        return self.flow

    @property
    def sign(self) -> torch.Tensor:  # type: ignore[override]
        return self.flow.sign

    def condition(self, context: torch.Tensor) -> TransformModule:
        """The inverse of ``FlowTransform.condition``."""
        return self.flow.condition(context).inv

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        return self.flow._inverse(x)

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        return self.flow._call(y)

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return -self.flow.log_abs_det_jacobian(y, x)

    def forward_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return self.flow.inverse_shape(shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> torch.Size:
        return self.flow.forward_shape(shape)

    def with_cache(self, cache_size: int = 1) -> InverseFlowTransform:
        return self
