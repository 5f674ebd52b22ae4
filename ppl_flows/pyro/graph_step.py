"""The whole training step as a function of tensors: gradient, clipping, Adam, mean of the iterates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.fx import GraphModule

from ppl_flows.fit_result import MAX_SKIPPED
from ppl_flows.pyro.eager import BETAS, EPS


class Step(torch.nn.Module):
    """``(x, m, v, mean, counts, *state, row) -> (loss, x, m, v, mean, counts, *state)``: what ``Eager.run`` does.

    x holds all parameters, m and v are Adam's moments, mean is the mean of the iterates, each one vector. counts are
    of the steps taken, those skipped, and those skipped running. row is ``(weight of the model, learning rate, share
    in the mean)``. After ``MAX_SKIPPED`` steps running that were not finite nothing moves any more.

    Args:
        gradient: ``(*parameters, *state, row) -> (loss, *gradients, *parameters, *state)``, as ``capture`` gives it.
        shapes: of the parameters.
        clip: bound on the norm of the gradient.
        example_weight: a weight of the model that row may have.
    """

    def __init__(self, gradient: GraphModule, shapes: Sequence[torch.Size], clip: float, example_weight: float) -> None:
        super().__init__()
        self.gradient, self.shapes, self.clip, self.example_weight = gradient, shapes, clip, example_weight
        self.sizes = [shape.numel() for shape in shapes]

    def forward(
        self,
        x: torch.Tensor,
        m: torch.Tensor,
        v: torch.Tensor,
        mean: torch.Tensor,
        counts: torch.Tensor,
        *inputs: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        *state, row = inputs
        parameters = [p.view(s) for p, s in zip(x.split(self.sizes), self.shapes, strict=True)]
        loss, *out = self.gradient(*parameters, *state, row)
        n = len(parameters)
        g = torch.cat([d.reshape(-1) for d in out[:n]])
        _, lr, share = row.unbind()
        taken, skipped, running = counts.unbind()
        norm = torch.linalg.vector_norm(g)
        ok = torch.isfinite(loss) & torch.isfinite(norm) & (running < MAX_SKIPPED)
        g = g * torch.clamp(self.clip / (norm + 1e-6), max=1.0)  # as torch.nn.utils.clip_grad_norm_
        taken = taken + ok
        m_new, v_new = torch.lerp(m, g, 1 - BETAS[0]), BETAS[1] * v + (1 - BETAS[1]) * g * g
        m_bias, v_bias = (-torch.expm1(taken * math.log(beta)) for beta in BETAS)  # 1 - beta^taken
        x = torch.where(ok, x - lr / m_bias * m_new / ((v_new / v_bias).sqrt() + EPS), x)
        m, v = torch.where(ok, m_new, m), torch.where(ok, v_new, v)
        counts = torch.stack([taken, skipped + ~ok, torch.where(ok, 0.0, running + 1)])
        state = [torch.where(ok, new, old) for new, old in zip(out[2 * n :], state, strict=True)]
        return loss, x, m, v, torch.lerp(mean, x, share.to(mean.dtype)), counts, *state
