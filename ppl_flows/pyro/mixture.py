"""``MixtureFlow``: several flows under one density, as a guide of several modes has them; and each by itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch.distributions import constraints

from ppl_flows.core.params import flatten
from ppl_flows.inference.cover_modes import Regions
from ppl_flows.inference.flow_checks import check_event
from ppl_flows.pyro.distribution import Flow

ONE = torch.Size()


class _OfFlows(TorchDistribution):
    """Of flows over vectors, with batch shape ``(K,)``."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, components: Any, batch_shape: torch.Size = ONE, *, path_gradients: bool = False) -> None:
        self.components, self.path_gradients = components, path_gradients
        super().__init__(batch_shape, components.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def with_path_gradients(self) -> Any:
        """The same distribution, whose draws are scored with parameters that pass no gradient."""
        new = copy.copy(self)
        new.path_gradients = True
        return new

    def in_evaluation_mode(self) -> Any:
        """The same distribution, whose ``log_prob`` is no training pass."""
        new = copy.copy(self)
        new.components = self.components.in_evaluation_mode()
        return new

    @property
    def count(self) -> int:
        """Of flows."""
        return int(self.components.batch_shape[0])

    def _scoring(self) -> Any:
        """The flows as ``log_prob`` sees them."""
        return self.components.detach() if self.path_gradients else self.components


class MixtureFlow(_OfFlows):
    """The density ``sum_k weight_k q_k(y)`` of flows q_k.

    A draw is that of one component, and differentiable in its parameters, not in the weights: one forward pass of all
    flows. ``log_prob`` is one inverse pass of all.

    Args:
        components: a flow with batch shape ``(K,)``, over vectors.
        log_weights: ``(K,)``; made to sum to one.
        path_gradients: as of ``Flow``.
    """

    def __init__(self, components: Flow, log_weights: torch.Tensor, *, path_gradients: bool = False) -> None:
        super().__init__(components, path_gradients=path_gradients)
        self.log_weights = log_weights

    def rsample(self, sample_shape: Any = ONE) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        n = math.prod(shape[:-1])
        k = torch.multinomial(torch.softmax(self.log_weights, -1), n, replacement=True)
        draws = self.components.rsample((n,))
        return draws[torch.arange(n, device=k.device), k].reshape(shape)

    def component_log_probs(self, value: torch.Tensor) -> torch.Tensor:
        """Of each component, without its weight, ``(*batch, K)``."""
        rows = value.unsqueeze(-2).expand(*value.shape[:-1], self.count, value.shape[-1])
        log_prob: torch.Tensor = self._scoring().log_prob(rows)
        return log_prob

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        check_event(value, self.event_shape, torch.Tensor)
        flat = value.reshape(-1, value.shape[-1])
        terms = self.component_log_probs(flat) + torch.log_softmax(self.log_weights, -1)
        return torch.logsumexp(terms, -1).reshape(value.shape[:-1])

    def __repr__(self) -> str:
        return f"MixtureFlow({self.count} of {self.components})"


class ApartFlows(_OfFlows):
    """Each flow by itself, in turn: draws are of one after the other, and each is scored by its own alone.

    It is what makes one run of the model and guide, for as many particles of each flow, their mean ELBO.

    Args:
        regions: scores lack the log of the flow's share of each draw, so that the ELBO is that of its part of the
            posterior.
        turns: counts the draws of one particle at a time.
    """

    def __init__(self, components: Flow, regions: Regions | None, turns: Iterator[int]) -> None:
        super().__init__(components)
        self._turns = turns
        like: Any = next(leaf for _, leaf in flatten(components.transforms[0].params))
        self._regions = None if regions is None else [torch.as_tensor(a).to(like) for a in regions]

    def _log_shares(self, value: torch.Tensor) -> torch.Tensor:
        """Of each flow at vectors ``(n, K, dim)``, the k-th column of its own draws: ``(n, K)``."""
        if self._regions is None:
            return value.new_zeros(())
        means, whiten, constants = self._regions
        z = torch.einsum("kij,nlkj->nlki", whiten, value.unsqueeze(-2) - means)
        return torch.log_softmax(constants - (z**2).sum(-1) / 2, -1).diagonal(dim1=-2, dim2=-1)

    def rsample(self, sample_shape: Any = ONE) -> torch.Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        n = math.prod(shape[:-1])
        if n % self.count:  # one particle at a time: those of the flows in turn
            self._one = next(self._turns) % self.count
            return self.components.rsample((n,))[:, self._one].reshape(shape)
        return self.components.rsample((n // self.count,)).reshape(shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        n = math.prod(value.shape[:-1])
        flows = self._scoring()
        if n % self.count:
            rows = value.reshape(n, 1, -1).expand(n, self.count, -1)
            return (flows.log_prob(rows) - self._log_shares(rows))[:, self._one].reshape(value.shape[:-1])
        rows = value.reshape(n // self.count, self.count, -1)
        log_prob: torch.Tensor = flows.log_prob(rows) - self._log_shares(rows)
        return log_prob.reshape(value.shape[:-1])
