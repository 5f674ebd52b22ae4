"""Adam for all parameters at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

BETAS, EPS = (0.9, 0.99), 1e-8


def usual_norm(optimizer: Any) -> float:
    """The root mean square of the norms of an Adam's last gradients; infinite before the first step."""
    states = [state for state in optimizer.state.values() if state]
    if not states:
        return math.inf
    taken = max(float(state["step"]) for state in states)
    squares = torch._foreach_norm([state["exp_avg_sq"] for state in states], ord=1)
    return math.sqrt(sum(map(float, squares)) / -math.expm1(taken * math.log(BETAS[1])))


class Adam:
    """What ``torch.optim.Adam(..., fused=True)`` does, to the bit and with the same state.

    torch's own class imports its compiler, which takes as long as some hundred steps of a small model.

    Attributes:
        param_groups: ``{"params", "lr"}``, as in torch.
        state: of each parameter that had a gradient.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self.defaults = {"betas": BETAS, "eps": EPS}
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}
        self.add_param_group({"params": parameters})

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        self.param_groups.append({"params": [*group["params"]], "lr": 1e-3})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[Any, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault((p.device, p.dtype), []).append(p)
            for parameters in alike.values():
                states = [self.state.setdefault(p, {}) for p in parameters]
                for p, state in zip(parameters, states, strict=True):
                    if not state:
                        state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
                        state["exp_avg"] = torch.zeros_like(p)
                        state["exp_avg_sq"] = torch.zeros_like(p)
                steps = [s["step"] for s in states]
                torch._foreach_add_(steps, 1)
                torch._fused_adam_(
                    parameters,
                    [p.grad for p in parameters if p.grad is not None],
                    [s["exp_avg"] for s in states],
                    [s["exp_avg_sq"] for s in states],
                    [],
                    steps,
                    amsgrad=False,
                    lr=group["lr"],
                    beta1=BETAS[0],
                    beta2=BETAS[1],
                    weight_decay=0.0,
                    eps=EPS,
                    maximize=False,
                )

    def zero_grad(self) -> None:
        for p in self._parameters():
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """As torch's: parameters are their places."""
        places = {p: i for i, p in enumerate(self._parameters())}
        return {
            "state": {places[p]: dict(state) for p, state in self.state.items()},
            "param_groups": [{**g, "params": [places[p] for p in g["params"]]} for g in self.param_groups],
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        parameters = self._parameters()
        for group, old in zip(self.param_groups, saved["param_groups"], strict=True):
            group["lr"] = old["lr"]
        self.state = {parameters[i]: dict(state) for i, state in saved["state"].items()}

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]
