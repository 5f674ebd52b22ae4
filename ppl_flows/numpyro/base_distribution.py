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
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import check_base, check_no_base_params
from ppl_flows.jax.arrays import to_array
from ppl_flows.jax.random import draw

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
        validate_args: whether arguments and values are checked; None: the host's default.

    Raises:
        TypeError: not a Base.
        ValueError: params do not fit the base; or there are none and it is made inside a model, where it would never
            train.
        NotImplementedError: a gradient is taken through a sample that has none.

    Example:
        >>> import jax, ppl_flows as pf
        >>> from ppl_flows.numpyro import BaseDistribution
        >>> base = BaseDistribution(pf.StudentT(2))
        >>> base.sample(jax.random.key(0), (5,)).shape
        (5, 2)
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
        """Whether samples carry gradients."""
        return self.base.reparameterized

    @validate_sample
    def log_prob(self, value: Any) -> jax.Array:
        """Log density of ``value``, ``(*batch, dim)``: shape ``(*batch,)``, in nats."""
        return self.base.log_prob(self.params, jnp.asarray(value))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return draw(self.base, tuple(sample_shape), self.params, key)

    def __repr__(self) -> str:
        return f"BaseDistribution({self.base})"


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
