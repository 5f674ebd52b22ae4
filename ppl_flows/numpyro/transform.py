"""``FlowTransform``: a bijection as a NumPyro ``Transform``."""

from __future__ import annotations

import weakref
from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from ppl_flows.backends.jax import cached_pass
from ppl_flows.combinators.inverse import Inverse
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.initialisation import check_params, initial_params
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import mapped_shape
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.support import constraint


class FlowTransform(Transform):
    """A bijection with its parameters, usable wherever NumPyro takes a ``Transform``.

    A pytree whose children are the parameters and the context, so that ``jit``, ``vmap`` and ``grad`` work on it and
    a jitted function that takes it is traced once. The log_det travels as the transform's intermediates, and is
    remembered for the very pair (x, y) of the last call while y lives: a sample that is scored costs one pass. Outside
    of ``jit`` a pass is one program, which all transforms of an equal bijection share, for arrays of these shapes.

    Args:
        bijection: the map.
        params: nested dict of arrays; None draws them from ``seed``.
        context: ``(*batch, context_dim)``, for a conditional bijection. It gives distributions their batch shape.
        seed: of the initial parameters; the same seed gives the same ones in Pyro.

    Raises:
        TypeError: not a Bijection.
        ValueError: params do not fit the bijection, or the context has the wrong size; at the first use: the context
            is missing.

    Example:
        >>> import jax.numpy as jnp, ppl_flows as pf
        >>> from ppl_flows.numpyro import FlowTransform
        >>> transform = FlowTransform(pf.TriangularAffine(2))
        >>> y = transform(jnp.ones((5, 2)))
        >>> transform.log_abs_det_jacobian(jnp.ones((5, 2)), y).shape  # nats
        (5,)
    """

    _inv: Any = None  # the transform that this is the inverse of, or a reference to its own inverse
    _last: tuple[Any, ...] | None = (
        None  # of the last call: references to x and y, and the log_det; not part of the pytree
    )

    def __init__(
        self, bijection: Bijection, params: Params | None = None, *, context: Any = None, seed: int = 0
    ) -> None:
        check_bijection("FlowTransform", bijection)
        if params is None:
            params = initial_params(bijection, seed)
        else:
            check_params(bijection, params)
        self.bijection = bijection
        self.params = map_params(lambda _, a: to_array(a), params)
        self.context = None if context is None else to_array(context)
        bijection.check_context(self.context)

    @property
    def domain(self) -> constraints.Constraint:
        """The host's constraint of x, from the bijection's ``domain``."""
        return constraint(self.bijection.domain, self.bijection.event_shape)

    @property
    def codomain(self) -> constraints.Constraint:
        """The host's constraint of y, from the bijection's ``codomain``."""
        return constraint(self.bijection.codomain, self.bijection.output_shape)

    @property
    def inv(self) -> FlowTransform:
        """The inverse transform, with the same parameters; its ``inv`` is this one."""
        known: FlowTransform | None = self._inv() if isinstance(self._inv, weakref.ref) else self._inv
        if known is None:
            part = self.bijection.part if isinstance(self.bijection, Inverse) else Inverse(self.bijection)
            known = FlowTransform(part, self.params, context=self.context)
            known._inv, self._inv = self, weakref.ref(known)
        return known

    def condition(self, context: Any) -> FlowTransform:
        """The same transform, with the same parameters, given a context."""
        return FlowTransform(self.bijection, self.params, context=context)

    def __call__(self, x: Any) -> jax.Array:
        y, log_det = self.call_with_intermediates(x)
        if isinstance(x, jax.Array):  # NeuTra asks for the log_det of this very pass next, without its intermediates
            self._last = (weakref.ref(x), weakref.ref(y, self._forget), log_det)
        return y

    def _forget(self, _: Any) -> None:
        self._last = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_last", "_inv")}

    def _inverse(self, y: Any) -> jax.Array:
        return self.inverse_and_log_det(y)[0]

    def call_with_intermediates(self, x: Any) -> tuple[jax.Array, jax.Array]:
        """``(y, log|det dy/dx|)`` of x, the latter in nats: one pass for both."""
        return cached_pass.forward(self.bijection, self.params, jnp.asarray(x), self.context)

    def inverse_and_log_det(self, y: Any) -> tuple[jax.Array, jax.Array]:
        """``(x, log|det dx/dy|)`` of y, the latter in nats: one pass for both."""
        return cached_pass.inverse(self.bijection, self.params, jnp.asarray(y), self.context)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> jax.Array:
        """log\\|det dy/dx\\| at x with image y, shape ``x.shape`` without the event, in nats: the ``intermediates``."""
        if intermediates is not None:
            return intermediates
        if self._last is not None and self._last[0]() is x and self._last[1]() is y:
            return self._last[2]
        return self.call_with_intermediates(x)[1]

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        f = self.bijection
        return mapped_shape(f, self.context, shape, f.event_shape, f.output_shape)

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        f = self.bijection
        return mapped_shape(f, self.context, shape, f.output_shape, f.event_shape)

    def tree_flatten(self) -> tuple[Any, ...]:
        """What JAX sees of it: ``params`` and ``context``, and the bijection as static."""
        return (self.params, self.context), (("params", "context"), {"bijection": self.bijection})

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether ``other`` is the same bijection with equal params and context; ``static``, the host's: as a bool."""
        if not isinstance(other, FlowTransform) or self.bijection != other.bijection:
            return False
        a: Any = jax.tree.flatten((self.params, self.context))
        b: Any = jax.tree.flatten((other.params, other.context))
        if a[1] != b[1]:
            return False
        if static:
            return all(u is v for u, v in zip(a[0], b[0], strict=True))
        return jnp.array([jnp.array_equal(u, v) for u, v in zip(a[0], b[0], strict=True)]).all()

    def __repr__(self) -> str:
        return f"FlowTransform({self.bijection})"
