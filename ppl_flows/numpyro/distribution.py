"""``Flow``: a base distribution seen through a bijection."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions.constraints import Constraint
from numpyro.distributions.util import sum_rightmost, validate_sample
from numpyro.primitives import _PYRO_STACK

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import flatten, split
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
from ppl_flows.numpyro.base_distribution import AnyBase, BaseDistribution
from ppl_flows.numpyro.support import support_transform
from ppl_flows.numpyro.transform import FlowTransform


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
        >>> import jax, numpy as np, ppl_flows as pf
        >>> from ppl_flows.numpyro import Flow
        >>> density = Flow(pf.TriangularAffine(2))
        >>> density.sample(jax.random.key(0), (5,)).shape
        (5, 2)
        >>> density.log_prob(np.zeros(2)).shape
        ()
    """

    pytree_data_fields = ("path_context",)
    pytree_aux_fields = ("path_gradients",)
    _holder: dict[str, Any] | None = None  # where a training pass leaves the new state; not part of the pytree

    def __init__(
        self,
        bijection: Bijection | FlowTransform,
        params: Params | None = None,
        *,
        base: AnyBase = None,
        support: Constraint | Pieces | None = None,
        context: Any = None,
        seed: int = 0,
        path_gradients: bool = False,
        path_context: Any = None,
        validate_args: bool | None = None,
    ) -> None:
        is_transform = isinstance(bijection, FlowTransform)
        check_base_kind(base, dist.Distribution)
        check_flow_arguments(params, context, is_transform=is_transform, inside_model=bool(_PYRO_STACK))
        if not isinstance(bijection, FlowTransform):
            bijection = FlowTransform(bijection, params, context=context, seed=seed)
        transform = bijection
        check_base_domain(transform.bijection, base, dist.constraints.real)
        transforms = [transform] if support is None else [transform, support_transform(support, transform.bijection)]
        if isinstance(base, Base):
            base = BaseDistribution(base, seed=seed)
        super().__init__(_standard_normal(transform) if base is None else base, transforms, validate_args=validate_args)
        self.path_gradients, self.path_context = path_gradients, path_context

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        """Log density of ``value``, ``(*batch, *event)``: ``(*batch,)``, in nats; ``intermediates`` save its pass."""
        check_event(value, self.event_shape, jax.Array | np.ndarray)
        if not value.size:  # which the host's sums over events do not take
            return jnp.zeros(scores_shape(value, self.event_shape, self.batch_shape))
        return self._log_prob(value, intermediates)

    @validate_sample
    def _log_prob(self, value: Any, intermediates: Any) -> jax.Array:
        # where draws carry no gradient, or scoring moves running averages, the parameters need theirs
        if self.path_gradients and self.has_rsample and self._holder is None:
            return self._without_gradients().log_prob(value)
        if intermediates is not None:
            return super().log_prob(value, intermediates)
        *before, transform = self.transforms
        event_dim, outer = self.event_dim, 0.0
        if not isinstance(transform, FlowTransform):  # the way from the reals onto the support
            u = transform.inv(value)
            event_dim += transform.domain.event_dim - transform.codomain.event_dim
            outer = sum_rightmost(transform.log_abs_det_jacobian(u, value), event_dim - transform.domain.event_dim)
            value, (*before, transform) = u, before
        if self._holder is None:
            x, log_det = transform.inverse_and_log_det(value)
        else:
            new, x, log_det = transform.bijection.observe(transform.params, jnp.asarray(value), transform.context)
            self._holder["params"] = lax.stop_gradient(split(new)[1])
        event_dim += transform.domain.event_dim - transform.codomain.event_dim
        rest = dist.TransformedDistribution(self.base_dist, before) if before else self.base_dist
        log_det = sum_rightmost(log_det, event_dim - transform.domain.event_dim) - outer
        return sum_rightmost(rest.log_prob(x), event_dim - rest.event_dim) + log_det

    def condition(self, context: Any) -> Flow:
        """The same distribution given a context, ``(*batch, context_dim)``; batch shapes broadcast."""
        new, transforms = copy.copy(self), list(self.transforms)
        i = -1 if isinstance(transforms[-1], FlowTransform) else -2  # before the way onto the support
        transforms[i] = transforms[i].condition(context)
        dist.TransformedDistribution.__init__(new, self.base_dist, transforms)
        new.path_context = None
        return new

    def detach(self) -> Flow:
        """The same distribution with parameters, and a context, that pass no gradient: a trained flow as it is."""
        return jax.tree.map(lax.stop_gradient, self)

    def with_path_gradients(self) -> Flow:
        """The same distribution, with ``path_gradients``."""
        new = copy.copy(self)
        new.path_gradients = True
        return new

    def in_evaluation_mode(self) -> Flow:
        """The same distribution, whose ``log_prob`` is no training pass."""
        new = copy.copy(self)
        new._holder = None
        return new

    def _without_gradients(self) -> Flow:
        """A copy that passes no gradient but that of the value, and of ``path_context``."""
        fixed = self.detach()
        fixed.path_gradients = False
        if self.path_context is not None:
            fixed.transforms[0].context = self.path_context
        return fixed

    def __repr__(self) -> str:
        return flow_repr(self)


def _standard_normal(transform: FlowTransform) -> dist.Distribution:
    shape = transform.bijection.event_shape
    like = next((leaf for _, leaf in flatten(transform.params)), transform.context)
    dtype = None if like is None else wide(like).dtype
    return dist.Normal(jnp.zeros(shape, dtype), jnp.ones(shape, dtype)).to_event(len(shape))
