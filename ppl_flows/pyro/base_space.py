"""The posterior in the base spaces of an ``AutoFlow``."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_chains import coordinate_names
from ppl_flows.pyro.log_density import POINTS_PER_RUN, LogDensity


class GuideSpace:
    """``BaseSpace`` of a ``FittedGuide`` whose guide is an ``AutoFlow``; used with Pyro's store at its parameters."""

    def __init__(self, fitted: Any) -> None:
        guide = fitted.guide.func
        self._like = guide.get_base_dist().mean
        flows = guide.components(*fitted.guide.args, **fitted.guide.keywords)
        self._bijection, self._log_shares = flows.bijection, torch.log_softmax(flows.log_weights, -1).to(self._like)
        self._params = [_copied(flows.params, k) for k in range(len(flows.log_weights))]
        self.coordinates = coordinate_names(guide._unconstrained_shapes)
        self.shares = _to_numpy(self._log_shares.double().softmax(-1))
        latent = self._to_latents(self._like[None], np.zeros(1, int))[0]
        self._density = LogDensity(fitted.model, guide._unpack_latent, latent)

    def _to_latents(self, z: torch.Tensor, flow: np.ndarray) -> torch.Tensor:
        """Latent vectors, ``(n, dim)``."""
        rows = [np.flatnonzero(flow == k) for k in range(len(self.shares))]
        moved = [self._bijection.forward(self._params[k], z[own]) for k, own in enumerate(rows) if len(own)]
        back = torch.as_tensor(np.argsort(np.concatenate(rows)), device=z.device)
        return torch.cat([u for u, _ in moved])[back]

    def _place(self, z: torch.Tensor, flow: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent vectors, and minus the log densities of the guide there."""
        if len(self.shares) == 1:
            u, log_det = self._bijection.forward(self._params[0], z)
            return u, log_det - _log_normal(z)
        u = self._to_latents(z, flow)
        return u, -torch.logsumexp(self._log_densities(u)[1], -1)

    def _log_densities(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The points of all base spaces that become these latent vectors, ``(n, flows, dim)``, and the log densities of
        the flows there, with their shares, ``(n, flows)``."""
        moved = [self._bijection.inverse(self._params[k], u) for k in range(len(self.shares))]
        points = torch.stack([z for z, _ in moved], dim=1)
        log_dets = torch.stack([log_det for _, log_det in moved], dim=1)
        return points, _log_normal(points) + log_dets + self._log_shares

    def weigh(self, z: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [
            self._density.through(partial(self._place, flow=flow[i : i + POINTS_PER_RUN])).value_and_gradient(
                z[i : i + POINTS_PER_RUN]
            )
            for i in range(0, len(z), POINTS_PER_RUN)
        ]
        log_weights, gradients = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return log_weights, gradients

    def to_latents(self, z: np.ndarray, flow: np.ndarray) -> np.ndarray:
        return _to_numpy(self._to_latents(torch.as_tensor(z).to(self._like), flow))

    def in_all_flows(self, z: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points, log_densities = self._log_densities(self._to_latents(torch.as_tensor(z).to(self._like), flow))
        return _to_numpy(points), _to_numpy(log_densities)


def _copied(params: Params, flow: int) -> Params:
    """The parameters of one flow, as they are now."""
    return map_params(lambda _, a: a[flow].detach().clone(), params)


def _log_normal(z: torch.Tensor) -> torch.Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)


def _to_numpy(a: torch.Tensor) -> np.ndarray:
    return a.detach().double().cpu().numpy()
