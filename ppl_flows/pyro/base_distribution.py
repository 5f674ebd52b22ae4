"""``BaseDistribution``: a base as a Pyro distribution."""

from __future__ import annotations

from typing import Any, TypeAlias

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.poutine.runtime import am_i_wrapped

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.initialisation import check_params, initial_params
from ppl_flows.core.params import flatten
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import check_base, check_no_base_params
from ppl_flows.pyro.params import stored_params
from ppl_flows.torch.params import ParamTree
from ppl_flows.torch.random import TorchRandom

AnyBase: TypeAlias = dist.Distribution | Base | None


class BaseDistribution(dist.TorchDistribution):
    """A base with its parameters, as a distribution of vectors.

    ``has_rsample`` says whether its samples carry gradients; where they do not, Pyro's ``Trace_ELBO`` takes the score
    function by itself.

    This class registers no parameter sites. To train a base with a flow inside a model or guide use
    ``flow(name, bijection, base=...)``.

    Args:
        base: the distribution, such as ``pf.StudentT(4)``.
        params: nested dict; NumPy and JAX arrays become Parameters in torch's default dtype, tensors are used as they
            are. None draws them from ``seed``.
        seed: of the initial parameters; the same seed gives the same ones in NumPyro.
        validate_args: whether arguments and values are checked; None: the host's default.

    Raises:
        TypeError: not a Base.
        ValueError: params do not fit the base; or there are none and it is made inside a model, where it would never
            train.

    Example:
        >>> import torch, ppl_flows as pf
        >>> from ppl_flows.pyro import BaseDistribution
        >>> base = BaseDistribution(pf.StudentT(2))
        >>> base.sample((5,)).shape, base.log_prob(torch.zeros(2)).shape
        (torch.Size([5, 2]), torch.Size([]))
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  the host's name for it
    support = constraints.real_vector

    def __init__(
        self, base: Base, params: Params | None = None, *, seed: int = 0, validate_args: bool | None = None
    ) -> None:
        check_base(base, params, inside_model=am_i_wrapped())
        if params is not None:
            check_params(base, params)
        self.base = base
        self.weights = ParamTree(initial_params(base, seed) if params is None else params)
        super().__init__(torch.Size(), torch.Size((base.dim,)), validate_args=validate_args)

    @property
    def params(self) -> Params:
        """The parameters as a nested dict of the tensors in use."""
        return self.weights.tree()

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]  # an attribute of the host's, derived here
        """Whether samples carry gradients."""
        return self.base.reparameterized

    def expand(self, batch_shape: Any, _instance: BaseDistribution | None = None) -> BaseDistribution:
        new = self._get_checked_instance(BaseDistribution, _instance)
        new.base, new.weights = self.base, self.weights
        super(BaseDistribution, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density of ``value``, ``(*batch, dim)``: shape ``(*batch,)``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        log_prob = self.base.log_prob(self.params, value)
        return log_prob.expand(torch.broadcast_shapes(log_prob.shape, self.batch_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008  the host's default
        if not self.has_rsample:
            raise NotImplementedError(f"samples of {type(self.base).__name__} carry no gradients; use sample().")
        return self._draw(sample_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> torch.Tensor:  # noqa: B008
        with torch.no_grad():
            return self._draw(sample_shape)

    def _draw(self, sample_shape: torch.Size) -> torch.Tensor:
        params = self.params
        random = TorchRandom(wide(next(leaf for _, leaf in flatten(params))))
        return self.base.sample(params, random, (*sample_shape, *self.batch_shape))

    def __repr__(self) -> str:
        return f"BaseDistribution({self.base})"


def stored_base(name: str, base: AnyBase, params: Params | None, seed: int) -> AnyBase:
    """A base with its parameters as ``pyro.param`` sites ``{name}.…``; other distributions as they are.

    Raises:
        ValueError: params come without a Base to have them.
    """
    if isinstance(base, Base):
        if params is not None:
            check_params(base, params)
        return BaseDistribution(base, stored_params(name, initial_params(base, seed) if params is None else params))
    check_no_base_params(base, params)
    return base
