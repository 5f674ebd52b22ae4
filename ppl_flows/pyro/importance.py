"""What ``fit`` measures a trained guide by: its draws and their importance weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, infer_discrete
from pyro.infer.importance import vectorized_importance_weights
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import transform_to

from ppl_flows.inference.results import WeightedDraws
from ppl_flows.pyro.log_density import is_enumerated


@contextmanager
def store_at(params: dict[str, torch.Tensor], state: Any) -> Iterator[None]:
    """Pyro's store as it was, its tensors (which a guide may own) at these values for the moment."""
    with pyro.get_param_store().scope(state) as live, torch.no_grad():
        tensors = live["params"]
        now = {name: tensors[name].detach().clone() for name in params}
        constraints = live["constraints"]
        try:
            for name, value in params.items():
                tensors[name].copy_(transform_to(constraints[name]).inv(value))
            yield
        finally:
            for name, value in now.items():
                tensors[name].copy_(value)


def latent_shapes(guide: Callable[..., Any]) -> dict[str, torch.Size]:
    """Shapes of the guide's latent sites."""
    nodes: dict[str, Any] = prune_subsample_sites(poutine.trace(guide).get_trace()).nodes
    return {
        name: site["value"].shape
        for name, site in nodes.items()
        if site["type"] == "sample" and not site["infer"].get("is_auxiliary") and not site["is_observed"]
    }


def importance_sample(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    num_samples: int,
    batch: int,
    nesting: int | None,
    marginal: TraceEnum_ELBO | None,
) -> WeightedDraws:
    """Draws of the guide, and ``log p(z, data) - log q(z)`` of each in nats; batches of the size that training had.

    Without nesting they go one by one; ``marginal`` sums over enumerated sites.
    """
    shapes = latent_shapes(guide)
    size = 1 if nesting is None else batch
    weights, values = [], []
    for _ in range(-(-num_samples // size)):
        if nesting is None:
            trace = poutine.trace(guide).get_trace()
            if marginal is None:
                model_trace = poutine.trace(poutine.replay(model, trace=trace)).get_trace()
                log_weights = torch.as_tensor(model_trace.log_prob_sum() - trace.log_prob_sum())
            else:
                log_weights = torch.as_tensor(-marginal.loss(model, poutine.replay(guide, trace=trace)))
        else:
            log_weights, _, trace = vectorized_importance_weights(
                model, guide, num_samples=size, max_plate_nesting=nesting
            )
        weights.append(log_weights.reshape(size))
        nodes: dict[str, Any] = trace.nodes
        values.append({name: nodes[name]["value"].reshape(size, *shape) for name, shape in shapes.items()})
    draws = {name: torch.cat([v[name] for v in values])[:num_samples] for name in shapes}
    return WeightedDraws(draws, torch.cat(weights)[:num_samples].double().cpu().numpy())


def enumerated_draws(
    model: Callable[..., Any], draws: dict[str, torch.Tensor], nesting: int, batch: int
) -> dict[str, torch.Tensor]:
    """Of the enumerated sites, ``(n, *shape)``: one given each of the draws; so many draws in one run of the model."""
    first: dict[str, Any] = poutine.trace(poutine.condition(model, data=_row(draws, 0))).get_trace().nodes
    plain = {name: site["value"].shape for name, site in first.items() if is_enumerated(site)}
    pads = {name: nesting - len(first[name]["fn"].batch_shape) for name in draws}
    found: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(next(iter(draws.values()))), batch):
        blocks = {name: value[start : start + batch] for name, value in draws.items()}
        rows = len(next(iter(blocks.values())))
        if batch == 1:
            given, free = poutine.condition(model, data=_row(blocks, 0)), -1 - nesting
        else:
            values = {n: v.reshape(rows, *(1,) * pads[n], *v.shape[1:]) for n, v in blocks.items()}
            given, free = _in_plate(poutine.condition(model, data=values), rows, -1 - nesting), -2 - nesting
        sampled = infer_discrete(given, first_available_dim=free, temperature=1)
        nodes: dict[str, Any] = poutine.trace(sampled).get_trace().nodes
        found.append({name: nodes[name]["value"].reshape(rows, *shape) for name, shape in plain.items()})
    return {name: torch.cat([block[name] for block in found]) for name in plain}


def _row(draws: dict[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    return {name: value[i] for name, value in draws.items()}


def _in_plate(model: Callable[..., Any], size: int, dim: int) -> Callable[[], Any]:
    def run() -> Any:
        with pyro.plate("draws", size, dim=dim):
            return model()

    return run
