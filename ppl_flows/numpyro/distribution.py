"""``Flow`` and ``flow``: a base distribution seen through a bijection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions.batch_util import promote_batch_shape
from numpyro.distributions.util import sum_rightmost, validate_sample
from numpyro.primitives import _PYRO_STACK, mutable

from ppl_flows.combinators.batched import Batched, with_batch
from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import initial_params, is_stateful
from ppl_flows.core.params import flatten, map_params, merge, split
from ppl_flows.core.precision import wide
from ppl_flows.core.support import is_real
from ppl_flows.core.types import Params
from ppl_flows.inference.gradient_estimators import in_training, on_the_path
from ppl_flows.numpyro.base_distribution import AnyBase, BaseDistribution, stored_base
from ppl_flows.numpyro.support import Constraint, Pieces, onto
from ppl_flows.numpyro.transform import FlowTransform, to_array


class Flow(dist.TransformedDistribution):
    """The distribution of ``y = f(x)`` with x from a base distribution.

    ``log_prob`` is one inverse pass, a sample with its score one forward pass. With a context of shape
    ``(*batch, context_dim)`` the batch shape is ``batch``, together with the base's.

    This class registers no parameters. To train a flow inside a model or guide use ``flow(name, ...)``; to use one as
    it is, give ``params``.

    Args:
        bijection: a bijection, or a ``FlowTransform`` that has its parameters already.
        params, context, seed: as in ``FlowTransform``; not with a ``FlowTransform``.
        base: distribution of x, with the bijection's event shape or scalar events over it, or a base such as
            ``pf.StudentT(4)``; None: standard normal.
        support: where the values lie, if not on the reals: a constraint such as ``constraints.simplex``, or a list of
            ``(constraint, size)``, one for each piece of the vector, size counting the numbers in the value. The
            bijection then gives the unconstrained numbers, for a simplex one less than the value has.

    Raises:
        ValueError: the base has the wrong shape, the support needs a bijection of another size, or the flow is made
            inside a model without parameters, where it would never train.
    """

    _holder: dict[str, Any] | None = None  # where a training pass leaves the new state; not part of the pytree
    _on_path: bool = False  # whether draws are scored with parameters that pass no gradient; no part of it either
    _path_context: Any = None  # the context there, if some of it is draws, whose gradients count; nor this

    def __init__(
        self,
        bijection: Bijection | FlowTransform,
        params: Params | None = None,
        *,
        base: AnyBase = None,
        support: Constraint | Pieces | None = None,
        context: Any = None,
        seed: int = 0,
        validate_args: bool | None = None,
    ) -> None:
        if isinstance(bijection, FlowTransform):
            if params is not None or context is not None:
                raise ValueError("Flow: a FlowTransform has its params and context already; give them to it instead.")
            transform = bijection
        else:
            if params is None and _PYRO_STACK:
                raise ValueError(
                    "Flow(bijection) inside a model or guide would make new parameters at every call and never train "
                    "them; use flow(name, bijection), or give params."
                )
            transform = FlowTransform(bijection, params, context=context, seed=seed)
        transforms = [transform] if support is None else [transform, onto(support, transform.bijection)]
        if isinstance(base, Base):
            base = BaseDistribution(base, seed=seed)
        super().__init__(_standard_normal(transform) if base is None else base, transforms, validate_args=validate_args)
        self._on_path = on_the_path()

    @validate_sample
    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        if self._on_path and self._holder is None:
            return self._off_path().log_prob(value)
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

    def detach(self) -> Flow:
        """The same distribution with parameters, and a context, that pass no gradient: a trained flow as it is."""
        return jax.tree.map(lax.stop_gradient, self)

    def _off_path(self) -> Flow:
        """A copy that passes no gradient but that of the value, and of the path's context."""
        copy = self.detach()
        if self._path_context is not None:
            copy.transforms[0].context = self._path_context
        return copy


def flow(
    name: str,
    bijection: Bijection,
    *,
    params: Params | None = None,
    start: Any = None,
    training: bool = False,
    base: AnyBase = None,
    base_params: Params | None = None,
    support: Constraint | Pieces | None = None,
    context: Any = None,
    batch_shape: tuple[int, ...] = (),
    seed: int = 0,
) -> Flow:
    """A trainable ``Flow`` inside a model or guide; for priors, likelihoods and hand-written guides alike.

    Its parameters are one ``numpyro.param`` site, ``name``, whose value is a nested dict. State, such as running
    averages, is a mutable site ``{name}$state``, with which the host allows one particle. The trained value of the
    first, joined with that of the second by ``pf.merge(params[name], params[name + "$state"]["params"])``, is what
    ``pf.save`` keeps.

    Args:
        name: of the parameter site.
        params: what they start at, used where they are first made; None draws them from ``seed``.
        start: a batch of data from which layers such as ``ActNorm`` take their start, where the parameters are first
            made; not with ``params``.
        base_params: what the parameters of a base start at, which are one site ``{name}_base``.
        training: ``log_prob`` is a training pass: layers such as ``BatchNorm`` use the statistics of the batch that is
            scored, and move their running averages. By default they use the averages.
        batch_shape: for a batch of independent flows, each with parameters of its own, such as ``(8,)`` in a plate of
            8: the flow is that of ``pf.Batched(bijection, batch=batch_shape)``.
        bijection, base, support, context, seed: as in ``Flow``.

    Raises:
        ValueError: the parameters under that name do not fit the bijection, or come without their state; or both
            ``params`` and ``start`` are given.

    Example:
        >>> import numpyro, ppl_flows as pf
        >>> from ppl_flows.numpyro import flow
        >>> def model():
        ...     return numpyro.sample("z", flow("prior", pf.nsf(2)))
    """
    if params is not None and start is not None:
        raise ValueError("flow: give params or start, not both: params have their values already.")
    bijection = Batched(bijection, batch=batch_shape) if batch_shape else bijection
    base = stored_base(f"{name}_base", base, base_params, seed)
    fresh: list[Params] = []

    def made(_: Any = None) -> Params:
        initial = initial_params(bijection, seed) if params is None else params
        arrays: Params = map_params(lambda _, a: to_array(a), initial)
        if start is not None:
            batch = to_array(start) if support is None else onto(support, bijection).inv(to_array(start))
            arrays = bijection.observe(arrays, batch, context, stage="start")[0]
        weights, state = split(arrays)
        fresh.append(state)
        return weights

    # under a handler as a function of the key, as a dict is no array that the host's `param` could check
    weights = numpyro.param(name, made if _PYRO_STACK else made())
    if not is_stateful(bijection):
        return Flow(bijection, weights, base=base, support=support, context=context)
    holder = mutable(f"{name}$state", {"params": fresh[0]} if fresh else None)
    if holder is None:
        raise ValueError(
            f"flow: the parameters {name!r} come without their state; pass both, as in "
            "{**result.params, **result.state.mutable_state} of the host's SVI, or FitResult.params of fit."
        )
    made_flow = Flow(bijection, merge(weights, holder["params"]), base=base, support=support, context=context)
    made_flow._holder = holder if in_training(training) else None
    return made_flow


def random_flow(
    name: str,
    bijection: Bijection,
    prior: dist.Distribution | Callable[[str, tuple[int, ...]], dist.Distribution],
    *,
    base: dist.Distribution | None = None,
    support: Constraint | Pieces | None = None,
    context: Any = None,
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
        >>> import numpy as np, numpyro, ppl_flows as pf
        >>> import numpyro.distributions as dist
        >>> from ppl_flows.numpyro import random_flow
        >>> def model(data):
        ...     density = random_flow("density", pf.iaf(2, hidden=(4,)), dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", len(data)):
        ...         numpyro.sample("data", density, obs=data)
    """
    if is_stateful(bijection):
        raise ValueError(f"random_flow: {bijection!r} keeps state, such as running averages, which no prior is for.")

    def sampled(leaf: str, initial: Any) -> Any:
        shape = tuple(initial.shape)
        over = prior.expand(shape).to_event(len(shape)) if isinstance(prior, dist.Distribution) else prior(leaf, shape)
        if tuple(over.event_shape) != shape:
            raise ValueError(
                f"random_flow: the prior of {leaf!r} must have event shape {shape}, got {tuple(over.event_shape)}; "
                "use expand(...).to_event(...)."
            )
        return numpyro.sample(f"{name}.{leaf}", over)

    bijection, params = with_batch(bijection, map_params(sampled, initial_params(bijection, 0)))
    return Flow(bijection, params, base=base, support=support, context=context)


@promote_batch_shape.register
def _promoted(d: Flow) -> Flow:
    """What the host's scan left, with parameters stacked over the steps: a batch of flows, one for every step."""
    transform, *outer = d.transforms
    bijection, params = with_batch(transform.bijection, transform.params)
    if bijection is transform.bijection:
        return d
    if isinstance(d.base_dist, BaseDistribution):
        raise NotImplementedError(
            "Flow: a ppl_flows base such as pf.StudentT cannot be in a scan; use one of the host."
        )
    promoted = Flow(FlowTransform(bijection, params, context=transform.context), base=promote_batch_shape(d.base_dist))
    promoted.transforms += outer
    promoted._on_path, promoted._path_context = d._on_path, d._path_context
    return promoted


def _standard_normal(transform: FlowTransform) -> dist.Distribution:
    shape, domain = transform.bijection.event_shape, transform.bijection.domain
    if not is_real(domain):
        raise ValueError(f"Flow: the bijection takes x from {domain}, where no normal lies; give a base that does.")
    like = next((leaf for _, leaf in flatten(transform.params)), transform.context)
    dtype = None if like is None else wide(like).dtype
    return dist.Normal(jnp.zeros(shape, dtype), jnp.ones(shape, dtype)).to_event(len(shape))
