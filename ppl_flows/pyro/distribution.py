"""``Flow``: a base distribution seen through a bijection."""

from __future__ import annotations

import copy
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch.distributions.constraints import Constraint

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import flatten, map_params
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import (
    check_base_domain,
    check_base_kind,
    check_event,
    check_flow_arguments,
    scores_shape,
)
from ppl_flows.inference.short_reprs import flow_repr
from ppl_flows.inference.support_constraints import Pieces
from ppl_flows.pyro.base_distribution import AnyBase, BaseDistribution
from ppl_flows.pyro.support import support_transform
from ppl_flows.pyro.transform import FlowTransform


class Flow(dist.TransformedDistribution):
    """The distribution of ``y = f(x)`` with x from a base distribution.

    ``log_prob`` is one inverse pass, a sample with its score one forward pass. With a context of shape
    ``(*batch, context_dim)`` the batch shape is ``batch``, together with the base's.

    This class registers no parameters. To train a flow inside a model or guide use ``flow(name, ...)``; to use one as
    it is, give ``params``. Without a context a conditional one only waits for ``condition(context)``.

    Args:
        bijection: a bijection, or a ``FlowTransform`` that has its parameters already.
        params, context, seed: as in ``FlowTransform``; not with a ``FlowTransform``.
        base: distribution of x, with the bijection's event shape or scalar events over it, or a base such as
            ``pf.StudentT(4)``; None: standard normal.
        support: where the values lie, if not on the reals: a constraint such as ``constraints.simplex``, or a list of
            ``(constraint, size)``, one for each piece of the vector, size counting the numbers in the value. The
            bijection then gives the unconstrained numbers, for a simplex one less than the value has.
        path_gradients: draws are scored with parameters, and a context, that pass no gradient but the draws' own
            ("sticking the landing"), which wants one inverse pass more. For a guide: a prior or likelihood would not
            train. ``fit(estimator=)`` sets it by itself.
        path_context: the context that these scores see, of which they do pass the gradient: for a context that is
            itself made of draws. None: ``context``, without gradient.
        validate_args: whether arguments and values are checked; None: the host's default.

    Raises:
        ValueError: the base has the wrong shape, or lies on the reals where the bijection takes x from an interval; the
            support needs a bijection of another size; or the flow is made inside a model without parameters, where it
            would never train.

    Example:
        >>> import torch, ppl_flows as pf
        >>> from ppl_flows.pyro import Flow
        >>> density = Flow(pf.TriangularAffine(2))
        >>> density.sample((5,)).shape
        torch.Size([5, 2])
        >>> density.log_prob(torch.zeros(2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        bijection: Bijection | FlowTransform,
        params: Params | None = None,
        *,
        base: AnyBase = None,
        support: Constraint | Pieces | None = None,
        context: torch.Tensor | None = None,
        seed: int = 0,
        path_gradients: bool = False,
        path_context: torch.Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        is_transform = isinstance(bijection, FlowTransform)
        check_base_kind(base, torch.distributions.Distribution)
        check_flow_arguments(params, context, is_transform=is_transform, inside_model=am_i_wrapped())
        if isinstance(bijection, FlowTransform):
            transform = bijection
        else:
            transform = FlowTransform(bijection, params, context=context, seed=seed)
        check_base_domain(transform.bijection, base, dist.constraints.real)
        transforms = [transform] if support is None else [transform, support_transform(support, transform.bijection)]
        if isinstance(base, Base):
            base = BaseDistribution(base, seed=seed)
            base.weights.to(_like(transform).device)
        super().__init__(_standard_normal(transform) if base is None else base, transforms, validate_args)
        self.path_gradients, self.path_context = path_gradients, path_context

    def expand(self, batch_shape: torch.Size, _instance: Flow | None = None) -> Flow:
        new = super().expand(batch_shape, self._get_checked_instance(Flow, _instance))
        new.path_gradients, new.path_context = self.path_gradients, self.path_context
        return new

    def condition(self, context: torch.Tensor) -> Flow:
        """The same distribution given a context, ``(*batch, context_dim)``.

        Its batch shape is that of the context, together with this one's.

        Raises:
            ValueError: a context of the wrong size, or for a bijection that takes none; batch shapes that do not
                broadcast.
        """
        transform, *outer = self.transforms
        new = copy.copy(self)
        dist.TransformedDistribution.__init__(new, self.base_dist, [transform.condition(context), *outer])
        new.path_context = None
        return new

    def detach(self) -> dist.TransformedDistribution:
        """The same distribution with parameters, and a context, that pass no gradient.

        For a trained flow that stays as it is, such as the prior of a model for NUTS (whose ``jit_compile`` takes no
        tensors that want gradients).
        """
        context = self.transforms[0].context
        return self._detach(None if context is None else context.detach())

    def with_path_gradients(self) -> Flow:
        """The same distribution, with ``path_gradients``."""
        new = copy.copy(self)
        new.path_gradients = True
        return new

    def in_evaluation_mode(self) -> Flow:
        """The same distribution, whose ``log_prob`` is no training pass."""
        transform, *outer = self.transforms
        if not transform.training:
            return self
        new = copy.copy(self)
        new.transforms = [FlowTransform(transform.bijection, transform.params, context=transform.context), *outer]
        return new

    def _detach(self, context: torch.Tensor | None) -> dist.TransformedDistribution:
        transform, *outer = self.transforms
        fixed = FlowTransform(transform.bijection, _detach_params(transform.params), context=context)
        base = self.base_dist
        if isinstance(base, BaseDistribution):
            base = BaseDistribution(base.base, _detach_params(base.params)).expand(base.batch_shape)
        return dist.TransformedDistribution(base, [fixed, *outer], validate_args=False)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density of ``value``, ``(*batch, *event)``: shape ``(*batch,)``, in nats, by one inverse pass."""
        check_event(value, self.event_shape, torch.Tensor)
        if not value.numel():  # which the host's sums over events do not take
            return value.new_zeros(scores_shape(value, self.event_shape, self.batch_shape))
        transform = self.transforms[0]
        # where draws carry no gradient, or scoring moves running averages, the parameters need theirs
        if not (self.path_gradients and self.has_rsample) or transform.training:
            return super().log_prob(value)
        fixed = self.detach() if self.path_context is None else self._detach(self.path_context)
        return fixed.log_prob(value)

    def __repr__(self) -> str:
        return flow_repr(self)


def _detach_params(params: Params) -> Params:
    return map_params(lambda _, a: a.detach(), params)


def _standard_normal(transform: FlowTransform) -> dist.Distribution:
    shape, like = transform.bijection.event_shape, _like(transform)
    return dist.Normal(like.new_zeros(shape), like.new_ones(shape)).to_event(len(shape))


def _like(transform: FlowTransform) -> torch.Tensor:
    """A tensor of the dtype and device that a base has."""
    like: Any = next((leaf for _, leaf in flatten(transform.params)), transform.context)
    return torch.zeros(()) if like is None else wide(like.detach())
