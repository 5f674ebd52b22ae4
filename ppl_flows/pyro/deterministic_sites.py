"""The model's deterministic sites, of draws of its latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites


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
