"""``Flow``: a density in plain JAX."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class

from ppl_flows.backends.jax import cached_pass
from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import is_stateful
from ppl_flows.core.params import flatten, map_params, merge, split
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import check_event
from ppl_flows.inference.plain_flow import base_log_prob, checked_shape, starting_params
from ppl_flows.jax.arrays import to_array
from ppl_flows.jax.random import draw

CHILDREN = ("params", "base_params", "context")


@register_pytree_with_keys_class
class Flow:
    """The density of ``y = f(x)``, x from a base: a pytree, for JAX without NumPyro.

    ``pf.nsf(2).to_jax()`` makes one. Its leaves are the parameters, and a context if it has one: ``jax.grad`` with
    respect to a flow is a flow, and so is what optax makes of it. All methods are pure; ``log_prob`` and ``sample`` are
    compiled once for the shapes of their arrays, also outside of ``jit``.

    An optimiser trains every leaf: condition inside the loss, ``flow.condition(c).log_prob(y)``, where the context is
    not to be trained. State, such as running averages, gets no gradient, and ``observe`` moves it; weight decay would
    too (``optax.masked`` leaves it out).

    Args:
        bijection: the map.
        params: nested dict of arrays; None draws them from ``seed``.
        base: of x, such as ``pf.StudentT(4)``, which trains with the flow; None: standard normal.
        base_params: of the base, as ``params``.
        context: ``(*batch, context_dim)``, for a conditional bijection: as of ``condition``.
        seed: of the initial parameters; the same seed gives the same ones in torch, Pyro and NumPyro.

    Raises:
        TypeError: not a Bijection, or not a Base.
        ValueError: params do not fit, or the base or the context has the wrong size; at the first use: the context is
            missing.

    Example:
        >>> import jax, ppl_flows as pf
        >>> flow = pf.TriangularAffine(2).to_jax()
        >>> data = jax.random.normal(jax.random.key(0), (100, 2))
        >>> gradient = jax.grad(lambda flow: -flow.log_prob(data).mean())(flow)
        >>> flow = jax.tree.map(lambda p, g: p - 1e-3 * g, flow, gradient)
        >>> flow.sample(jax.random.key(1), (5,)).shape
        (5, 2)
    """

    params: Params
    base_params: Params
    context: Any

    def __init__(
        self,
        bijection: Bijection,
        params: Params | None = None,
        *,
        base: Base | None = None,
        base_params: Params | None = None,
        context: Any = None,
        seed: int = 0,
    ) -> None:
        params, base_params = starting_params(bijection, params, base, base_params, seed)
        self.bijection, self.base = bijection, base
        self.params = map_params(lambda _, a: to_array(a), params)
        self.base_params = map_params(lambda _, a: to_array(a), base_params)
        self.context = None if context is None else to_array(context)
        bijection.check_context(self.context)

    def condition(self, context: Any) -> Flow:
        """The same flow, with the same parameters, given a context ``(*batch, context_dim)``."""
        context = to_array(context)
        self.bijection.check_context(context)
        return self._replace(context=context)

    def log_prob(self, value: Any) -> jax.Array:
        """Log density of ``value``, ``(*batch, *event)``: shape ``(*batch,)``, in nats, by one inverse pass."""
        check_event(value, self.bijection.output_shape, jax.Array | np.ndarray)
        x, log_det = cached_pass.inverse(self.bijection, self._params(), jnp.asarray(value), self.context)
        return base_log_prob(self.bijection, self.base, self.base_params, x) + log_det

    def observe(self, value: Any) -> tuple[Flow, jax.Array]:
        """The training pass of a batch ``value``: the flow with moved running averages, and ``log_prob`` in nats.

        Layers with state, such as ``BatchNorm``, use the statistics of the batch; without any it is ``log_prob``. The
        averages carry no gradient.
        """
        check_event(value, self.bijection.output_shape, jax.Array | np.ndarray)
        if not is_stateful(self.bijection):
            return self, self.log_prob(value)
        new, x, log_det = self.bijection.observe(self._params(), jnp.asarray(value), self.context)
        state = lax.stop_gradient(split(new)[1])
        log_prob = base_log_prob(self.bijection, self.base, self.base_params, x) + log_det
        return self._replace(params=merge(split(self.params)[0], state)), log_prob

    def sample(self, key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws by a ``key``, ``(*shape, *batch of the context, *event)``."""
        return self.sample_and_log_prob(key, shape)[0]

    def sample_and_log_prob(self, key: jax.Array, shape: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array]:
        """Draws as of ``sample(key, shape)``, and their log density in nats, by one forward pass. Both carry gradients.

        Raises:
            NotImplementedError: a gradient is taken through draws of a base that have none.
        """
        f, params, base_params = self.bijection, self._params(), self.base_params
        batch = (*checked_shape(shape), *f.joint_batch((), self.context))
        like: Any = next((leaf for _, leaf in flatten(params)), self.context)
        dtype = jnp.zeros(()).dtype if like is None else wide(like).dtype
        x: jax.Array = (
            jax.random.normal(key, (*batch, *f.event_shape), dtype)
            if self.base is None
            else draw(self.base, batch, base_params, key)
        )
        y, log_det = cached_pass.forward(f, params, x, self.context)
        return y, base_log_prob(f, self.base, base_params, x) - log_det

    def start(self, batch: Any) -> Flow:
        """The flow whose layers that start from data, such as ``ActNorm``, have seen this batch."""
        check_event(batch, self.bijection.output_shape, jax.Array | np.ndarray)
        return self._replace(
            params=self.bijection.observe(self.params, jnp.asarray(batch), self.context, stage="start")[0]
        )

    def _params(self) -> Params:
        """The parameters, state without gradient."""
        weights, state = split(self.params)
        return merge(weights, lax.stop_gradient(state)) if state else self.params

    def _replace(self, **attributes: Any) -> Flow:
        new = copy.copy(self)
        new.__dict__.update(attributes)
        return new

    def tree_flatten_with_keys(self) -> tuple[Any, ...]:
        """What JAX sees of it: params, those of the base and the context, by name; bijection and base as static."""
        return [(GetAttrKey(name), getattr(self, name)) for name in CHILDREN], (self.bijection, self.base)

    @classmethod
    def tree_unflatten(cls, fields: tuple[Bijection, Base | None], children: Any) -> Flow:
        """The flow of static ``fields`` and of ``children``, as JAX makes it again."""
        new = object.__new__(cls)
        new.bijection, new.base = fields
        new.params, new.base_params, new.context = children
        return new

    def __repr__(self) -> str:
        return f"Flow({self.bijection})" if self.base is None else f"Flow({self.bijection}, base={self.base!r})"
