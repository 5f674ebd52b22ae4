"""``BaseDistribution``: a base as a NumPyro distribution."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample
from numpyro.primitives import _PYRO_STACK

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.initialisation import check_params, initial_params
from ppl_flows.core.params import flatten, map_params
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import check_base, check_no_base_params
from ppl_flows.numpyro.transform import to_array

AnyBase: TypeAlias = dist.Distribution | Base | None


class BaseDistribution(dist.Distribution):
    """A base with its parameters, as a distribution of vectors.

    A pytree whose children are the parameters. ``has_rsample`` says whether its samples carry gradients; where they do
    not, a gradient through a sample is an error, as NumPyro's ``Trace_ELBO`` would leave a part of it out:
    ``TraceGraph_ELBO`` has all of it.

    This class registers no parameter sites. To train a base with a flow inside a model or guide use
    ``flow(name, bijection, base=...)``.

    Args:
        base: the distribution, such as ``pf.StudentT(4)``.
        params: nested dict of arrays; None draws them from ``seed``.
        seed: of the initial parameters; the same seed gives the same ones in Pyro.

    Raises:
        TypeError: not a Base.
        ValueError: params do not fit the base; or there are none and it is made inside a model, where it would never
            train.
        NotImplementedError: a gradient is taken through a sample that has none.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  the host's name for it
    support = constraints.real_vector
    pytree_data_fields = ("params",)
    pytree_aux_fields = ("base",)

    def __init__(
        self, base: Base, params: Params | None = None, *, seed: int = 0, validate_args: bool | None = None
    ) -> None:
        check_base(base, params, inside_model=bool(_PYRO_STACK))
        if params is not None:
            check_params(base, params)
        self.base = base
        self.params = map_params(lambda _, a: to_array(a), initial_params(base, seed) if params is None else params)
        super().__init__((), (base.dim,), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return self.base.reparameterized

    @validate_sample
    def log_prob(self, value: Any) -> jax.Array:
        return self.base.log_prob(self.params, jnp.asarray(value))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        draw = _draw if self.has_rsample else _draw_without_gradient
        return draw(self.base, tuple(sample_shape), self.params, key)

    def __repr__(self) -> str:
        return f"BaseDistribution({self.base})"


def _draw(base: Base, shape: tuple[int, ...], params: Params, key: jax.Array) -> jax.Array:
    dtype = wide(next(leaf for _, leaf in flatten(params))).dtype
    return base.sample(params, JaxRandom(key, dtype), shape)


def _no_gradient(base: Base, *_: Any) -> Any:
    raise NotImplementedError(
        f"samples of {type(base).__name__} carry no gradients, so one through a sample would be biased. In a guide use "
        "TraceGraph_ELBO, which takes the score function there; or choose another base."
    )


_draw_without_gradient = jax.custom_vjp(_draw, nondiff_argnums=(0, 1))
_draw_without_gradient.defvjp(lambda *args: (_draw(*args), None), _no_gradient)  # not run where a gradient is stopped


class JaxRandom:
    """JAX's random numbers, of a key and a dtype."""

    def __init__(self, key: jax.Array, dtype: Any) -> None:
        self.key, self.dtype = key, dtype

    def _next(self) -> jax.Array:
        self.key, key = jax.random.split(self.key)
        return key

    def normal(self, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(self._next(), shape, self.dtype)

    def uniform(self, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(self._next(), shape, self.dtype)

    def gamma(self, concentration: jax.Array) -> jax.Array:
        return jax.random.gamma(self._next(), concentration, dtype=self.dtype)


def stored_base(name: str, base: AnyBase, params: Params | None, seed: int) -> AnyBase:
    """A base with its parameters as one ``numpyro.param`` site; other distributions as they are.

    Raises:
        ValueError: params come without a Base to have them, or do not fit it.
    """
    if isinstance(base, Base):
        if params is not None:
            check_params(base, params)
        start = map_params(lambda _, a: to_array(a), initial_params(base, seed) if params is None else params)
        return BaseDistribution(base, numpyro.param(name, (lambda _: start) if _PYRO_STACK else start))
    check_no_base_params(base, params)
    return base
