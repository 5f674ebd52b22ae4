"""``Flow``: a density in plain torch."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import is_stateful
from ppl_flows.core.params import flatten
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import check_event
from ppl_flows.inference.plain_flow import base_log_prob, checked_shape, starting_params
from ppl_flows.torch.params import ParamTree, set_state, to_tensor
from ppl_flows.torch.random import TorchRandom


class Flow(torch.nn.Module):
    """The density of ``y = f(x)``, x from a base: an ``nn.Module``, for torch without Pyro.

    ``pf.nsf(2).to_torch()`` makes one. Calling it is ``log_prob``, so that wrappers of modules, such as
    ``torch.compile``, apply. As any module it is made in training mode, where layers with state, such as ``BatchNorm``,
    use the statistics of the batch that is scored and move their running averages; ``eval()`` ends that.

    Args:
        bijection: the map.
        params: nested dict; NumPy and JAX arrays become Parameters in torch's default dtype, tensors are used as
            they are. None draws them from ``seed``.
        base: of x, such as ``pf.StudentT(4)``, which trains with the flow; None: standard normal.
        base_params: of the base, as ``params``.
        context: ``(*batch, context_dim)``, for a conditional bijection: as of ``condition``.
        seed: of the initial parameters; the same seed gives the same ones in JAX, Pyro and NumPyro.

    Raises:
        TypeError: not a Bijection, or not a Base.
        ValueError: params do not fit, or the base or the context has the wrong size; at the first use: the context is
            missing.

    Example:
        >>> import torch, ppl_flows as pf
        >>> flow = pf.nsf(2).to_torch()
        >>> optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
        >>> (-flow.log_prob(torch.randn(100, 2)).mean()).backward()
        >>> optimizer.step()
        >>> flow.sample((5,)).shape
        torch.Size([5, 2])
    """

    context: torch.Tensor | None

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
        super().__init__()
        params, base_params = starting_params(bijection, params, base, base_params, seed)
        self.bijection, self.base = bijection, base
        self.weights, self.base_weights = ParamTree(params), ParamTree(base_params)
        context = None if context is None else to_tensor(context)
        bijection.check_context(context)
        self.register_buffer("context", context, persistent=False)

    @property
    def params(self) -> Params:
        """The parameters as a nested dict of the tensors in use, as ``pf.save(path, flow.bijection, flow.params)``
        and the functions of the bijection take them."""
        return self.weights.tree()

    @property
    def base_params(self) -> Params:
        """Those of the base, empty for the standard normal."""
        return self.base_weights.tree()

    def condition(self, context: Any) -> Flow:
        """The same flow, given a context ``(*batch, context_dim)``.

        Its parameters and modules are those of this flow, so that ``eval()``, or a cast, of one is one of both.
        """
        context = to_tensor(context)
        self.bijection.check_context(context)
        new = copy.copy(self)
        new._buffers = {**self._buffers, "context": context}
        return new

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """``log_prob(value)``, in nats."""
        return self.log_prob(value)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density of ``value``, ``(*batch, *event)``: shape ``(*batch,)``, in nats, by one inverse pass."""
        check_event(value, self.bijection.output_shape, torch.Tensor)
        params = self.params
        if self.training and is_stateful(self.bijection):
            new, x, log_det = self.bijection.observe(params, value, self.context)
            set_state(params, new)
        else:
            x, log_det = self.bijection.inverse(params, value, self.context)
        return base_log_prob(self.bijection, self.base, self.base_params, x) + log_det

    def sample(self, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Draws ``(*shape, *batch of the context, *event)``, without gradients."""
        with torch.no_grad():
            return self._draw(shape)[0]

    def rsample_and_log_prob(self, shape: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws as of ``sample(shape)``, with gradients, and their log density in nats, by one forward pass.

        Raises:
            NotImplementedError: draws of the base carry no gradients.
        """
        if self.base is not None and not self.base.reparameterized:
            raise NotImplementedError(f"samples of {type(self.base).__name__} carry no gradients; use sample().")
        return self._draw(shape)

    def start(self, batch: torch.Tensor) -> Flow:
        """Sets layers that start from data, such as ``ActNorm``, by a ``batch``, in place; returns the flow itself."""
        check_event(batch, self.bijection.output_shape, torch.Tensor)
        params = self.params
        with torch.no_grad():
            new = dict(flatten(self.bijection.observe(params, batch, self.context, stage="start")[0]))
            for name, tensor in flatten(params):
                tensor.copy_(new[name])
        return self

    def _draw(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        f, params, base_params = self.bijection, self.params, self.base_params
        batch = (*checked_shape(shape), *f.joint_batch((), self.context))
        like: Any = next((leaf for _, leaf in [*flatten(base_params), *flatten(params)]), self.context)
        random = TorchRandom(wide(torch.zeros(()) if like is None else like))
        x: torch.Tensor = (
            random.normal((*batch, *f.event_shape))
            if self.base is None
            else self.base.sample(base_params, random, batch)
        )
        y, log_det = f.forward(params, x, self.context)
        return y, base_log_prob(f, self.base, base_params, x) - log_det

    def __repr__(self) -> str:
        return f"Flow({self.bijection})" if self.base is None else f"Flow({self.bijection}, base={self.base!r})"
