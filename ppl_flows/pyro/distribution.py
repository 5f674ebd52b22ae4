"""``Flow`` and ``flow``: a base distribution seen through a bijection."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import am_i_wrapped, effectful
from torch.distributions.constraints import Constraint

from ppl_flows.combinators.batched import Batched
from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.params import flatten, map_params
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import (
    check_base_kind,
    check_event,
    check_flow_arguments,
    check_flow_start,
    check_normal_base,
    flow_recipe,
    scores_shape,
)
from ppl_flows.inference.gradient_estimators import IN_TRAINING
from ppl_flows.inference.random_flow import sample_params
from ppl_flows.inference.short_reprs import flow_repr
from ppl_flows.inference.support_constraints import Pieces
from ppl_flows.pyro.base_distribution import AnyBase, BaseDistribution, stored_base
from ppl_flows.pyro.flow_checks import check_name, check_trained
from ppl_flows.pyro.params import is_stored, stored_params
from ppl_flows.pyro.support import support_transform
from ppl_flows.pyro.transform import FlowTransform
from ppl_flows.torch.params import to_tensor


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

    Raises:
        ValueError: the base has the wrong shape, the support needs a bijection of another size, or the flow is made
            inside a model without parameters, where it would never train.
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
        transforms = [transform] if support is None else [transform, support_transform(support, transform.bijection)]
        if isinstance(base, Base):
            base = BaseDistribution(base, seed=seed)
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


def flow(
    name: str,
    bijection: Bijection,
    *,
    params: Params | None = None,
    start: torch.Tensor | None = None,
    training: bool = False,
    base: AnyBase = None,
    base_params: Params | None = None,
    support: Constraint | Pieces | None = None,
    context: torch.Tensor | None = None,
    batch_shape: tuple[int, ...] = (),
    seed: int = 0,
) -> Flow:
    """A trainable ``Flow`` inside a model or guide; for priors, likelihoods and hand-written guides alike.

    Its parameters are ``pyro.param`` sites ``{name}.…``: flows of one name share them, in a model or between model and
    guide. In MCMC, which trains nothing, they are those in the store. State, such as running averages, is in Pyro's
    store as ``{name}$state.…``, but is no site. Outside a model
    ``flow(name, bijection).transforms[0].params`` are the trained parameters, which ``pf.save`` keeps.

    Args:
        name: of the parameters in the store.
        params: what they start at, used where they are first made; None draws them from ``seed``.
        start: a batch of data from which layers such as ``ActNorm`` take their start, where the parameters are first
            made; not with ``params``.
        base_params: what the parameters of a base start at, which are sites ``{name}_base.…``.
        training: ``log_prob`` is a training pass: layers such as ``BatchNorm`` use the statistics of the batch that is
            scored, and move their running averages. By default they use the averages. Vectorised particles are one
            batch; particles one by one each move the averages.
        batch_shape: for a batch of independent flows, each with parameters of its own, such as ``(8,)`` in a plate of
            8: the flow is that of ``pf.Batched(bijection, batch=batch_shape)``.
        bijection, base, support, context, seed: as in ``Flow``.

    Raises:
        ValueError: another flow of that name, with another bijection or kind of base, in one run of a model, or with
            other shapes in the store; both ``params`` and ``start``.

    Warns:
        UserWarning: MCMC begins with the initial parameters.

    Example:
        >>> import pyro, ppl_flows as pf
        >>> from ppl_flows.pyro import flow
        >>> def model():
        ...     return pyro.sample("z", flow("prior", pf.nsf(2)))
    """
    bijection = Batched(bijection, batch=batch_shape) if batch_shape else bijection
    check_flow_start(bijection, params, start)
    check_name(name, flow_recipe(bijection, base))
    base = stored_base(f"{name}_base", base, base_params, seed)
    initial = initial_params(bijection, seed) if params is None else params
    if start is not None and not is_stored(name, initial):
        start = to_tensor(start) if support is None else support_transform(support, bijection).inv(to_tensor(start))
        initial = map_params(lambda _, a: to_tensor(a).to(start.device), initial)
        with torch.no_grad():
            initial = bijection.observe(initial, start.to(torch.get_default_dtype()), context, stage="start")[0]
    stored = stored_params(name, initial)
    if params is None:
        check_trained(name, initial, stored)
    transform = FlowTransform(bijection, stored, context=context)
    return Flow(transform.train(training and _in_training()), base=base, support=support)


@effectful(type=IN_TRAINING)
def _in_training() -> bool:
    """Whether a flow that asks for training mode gets it: not inside ``EvaluationMode``."""
    return True


def random_flow(
    name: str,
    bijection: Bijection,
    prior: dist.Distribution | Callable[[str, tuple[int, ...]], dist.Distribution],
    *,
    base: dist.Distribution | None = None,
    support: Constraint | Pieces | None = None,
    context: torch.Tensor | None = None,
) -> Flow:
    """Like ``flow``, but the parameters are sampled: a Bayesian flow, whose weights have priors and a posterior.

    They are latent sites ``{name}.…``, one for every array. In a plate, or under vectorised particles, every element
    has a flow of its own, as in ``pf.Batched``.

    Args:
        name: of the sites.
        prior: of the weights: a distribution such as ``dist.Normal(0.0, 1.0)`` for every number; or a function of an
            array's dotted name and its shape that gives a distribution over the array.
        bijection, base, support, context: as in ``Flow``; the base is a distribution of the language.

    Raises:
        ValueError: the bijection keeps state, such as running averages, which is no parameter; or a prior of the wrong
            event shape.

    Example:
        >>> import numpy as np, pyro, ppl_flows as pf
        >>> import pyro.distributions as dist
        >>> from ppl_flows.pyro import random_flow
        >>> def model(data):
        ...     density = random_flow("density", pf.iaf(2, hidden=(4,)), dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", len(data)):
        ...         pyro.sample("data", density, obs=data)
    """
    bijection, params = sample_params(name, bijection, prior, sample=pyro.sample, distribution=dist.Distribution)
    return Flow(bijection, params, base=base, support=support, context=context)


def _detach_params(params: Params) -> Params:
    return map_params(lambda _, a: a.detach(), params)


def _standard_normal(transform: FlowTransform) -> dist.Distribution:
    check_normal_base(transform.bijection)
    shape = transform.bijection.event_shape
    like: Any = next((leaf for _, leaf in flatten(transform.params)), transform.context)
    like = torch.zeros(()) if like is None else wide(like.detach())
    return dist.Normal(like.new_zeros(shape), like.new_ones(shape)).to_event(len(shape))
