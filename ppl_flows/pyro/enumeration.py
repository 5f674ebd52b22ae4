"""Draws of enumerated sites, given draws of all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import infer_discrete

from ppl_flows.pyro.log_density import is_enumerated


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
