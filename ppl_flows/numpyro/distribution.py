"""``Flow`` and ``flow``: a base distribution seen through a bijection."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.util import sum_rightmost, validate_sample
from numpyro.primitives import _PYRO_STACK

from ppl_flows.core.bijection import Bijection, Params
from ppl_flows.core.params import flatten, initial_params, map_params
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
        base: distribution of x, with the bijection's event shape or scalar events over it; None: standard normal.

    Raises:
        ValueError: the base has the wrong shape, or the flow is made inside a model without parameters, where it
            would never train.
    """

    def __init__(
        self,
        bijection: Bijection | FlowTransform,
        params: Params | None = None,
        *,
        base: dist.Distribution | None = None,
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
        super().__init__(_standard_normal(transform) if base is None else base, transform, validate_args=validate_args)

    @validate_sample
    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        if intermediates is not None:
            return super().log_prob(value, intermediates)
        *before, transform = self.transforms
        x, log_det = transform.inverse_and_log_det(value)
        event_dim = transform.domain.event_dim + self.event_dim - transform.codomain.event_dim
        rest = dist.TransformedDistribution(self.base_dist, before) if before else self.base_dist
        return sum_rightmost(rest.log_prob(x), event_dim - rest.event_dim) + sum_rightmost(
            log_det, event_dim - transform.domain.event_dim
        )


def flow(
    name: str,
    bijection: Bijection,
    *,
    params: Params | None = None,
    base: dist.Distribution | None = None,
    context: Any = None,
    seed: int = 0,
) -> Flow:
    """A trainable ``Flow`` inside a model or guide; for priors, likelihoods and hand-written guides alike.

    Its parameters are one ``numpyro.param`` site, ``name``, whose value is a nested dict.

    Args:
        name: of the parameter site.
        params: what they start at, used where they are first made; None draws them from ``seed``.
        bijection, base, context, seed: as in ``Flow``.

    Raises:
        ValueError: the parameters under that name do not fit the bijection.

    Example:
        >>> import numpyro, ppl_flows as pf
        >>> from ppl_flows.numpyro import flow
        >>> def model():
        ...     return numpyro.sample("z", flow("prior", pf.nsf(2)))
    """
    start = initial_params(bijection, seed) if params is None else params
    arrays = map_params(lambda _, a: to_array(a), start)
    # under a handler as a function of the key, as a dict is no array that the host's `param` could check
    stored = numpyro.param(name, (lambda _: arrays) if _PYRO_STACK else arrays)
    return Flow(bijection, stored, base=base, context=context)


def _standard_normal(transform: FlowTransform) -> dist.Distribution:
    shape = transform.bijection.event_shape
    like = next((leaf for _, leaf in flatten(transform.params)), transform.context)
    dtype = None if like is None else like.dtype
    return dist.Normal(jnp.zeros(shape, dtype), jnp.ones(shape, dtype)).to_event(len(shape))
