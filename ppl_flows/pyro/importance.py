"""What ``fit`` measures a trained guide by: its draws and their importance weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.infer.importance import vectorized_importance_weights
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import transform_to

from ppl_flows.inference.results import WeightedDraws


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


def with_deterministic_sites(
    model: Callable[..., Any], draws: dict[str, torch.Tensor], nesting: int | None
) -> dict[str, torch.Tensor]:
    """The draws, and the model's deterministic sites, computed from them.

    Without these where the model draws what is not among the draws, as they would be made of the prior. In one run of
    the model, within nesting many plates; or one by one, without nesting or where the one run gives other values.
    """

    def run(rows: dict[str, torch.Tensor]) -> dict[str, Any]:
        nodes: dict[str, Any] = prune_subsample_sites(
            poutine.trace(poutine.condition(model, data=rows)).get_trace()
        ).nodes
        return {name: site for name, site in nodes.items() if site["type"] == "sample"}

    def one(i: int) -> dict[str, torch.Tensor]:
        sites = run({name: value[i] for name, value in draws.items()})
        return {name: site["value"] for name, site in sites.items() if site["infer"].get("_deterministic")}

    first = run({name: value[0] for name, value in draws.items()})
    shapes = {name: site["value"].shape for name, site in first.items() if site["infer"].get("_deterministic")}
    if not shapes or any(not site["is_observed"] for name, site in first.items() if name not in draws):
        return draws
    n = len(next(iter(draws.values())))
    if nesting is not None:
        batches = {name: (n, *(1,) * (nesting - len(first[name]["fn"].batch_shape))) for name in draws}
        with pyro.plate("draws", n, dim=-1 - nesting):
            together = run({name: v.reshape(*batches[name], *v.shape[1:]) for name, v in draws.items()})
        values = {name: together[name]["value"] for name in shapes}
        if all(v.numel() in (n * shapes[name].numel(), shapes[name].numel()) for name, v in values.items()):
            # what does not depend on the latents has no axis for the draws
            found = {name: v.reshape(-1, *shapes[name]).expand(n, *shapes[name]) for name, v in values.items()}
            ends = [(i, one(i)) for i in (0, n - 1)]
            if all(torch.allclose(found[name][i], v, equal_nan=True) for i, row in ends for name, v in row.items()):
                return {**draws, **found}
    rows = [one(i) for i in range(n)]
    return {**draws, **{name: torch.stack([row[name] for row in rows]) for name in shapes}}


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
