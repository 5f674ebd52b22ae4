"""The posterior in the base space of an ``AutoFlow``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ppl_flows.inference.flow_chains import coordinate_names
from ppl_flows.pyro.log_density import LogDensity


class GuideSpace:
    """``BaseSpace`` of a ``FittedGuide`` whose guide is an ``AutoFlow``; used with Pyro's store at its parameters."""

    def __init__(self, fitted: Any) -> None:
        guide = fitted.guide.func
        self._like = guide.get_base_dist().mean
        self._transform = guide.get_transform(*fitted.guide.args, **fitted.guide.keywords)
        self.coordinates = coordinate_names(guide._unconstrained_shapes)
        self.shares = np.ones(1)
        latent = self._transform(self._like)
        self._density = LogDensity(fitted.model, guide._unpack_latent, latent).through(self._to_latents)

    def _to_latents(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent vectors, ``(n, dim)``, and the log dets without the log densities of the base."""
        u = self._transform(z)
        log_base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        return u, self._transform.log_abs_det_jacobian(z, u) - log_base

    def weigh(self, z: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._density.value_and_gradient(z)

    def to_latents(self, z: np.ndarray, flow: np.ndarray) -> np.ndarray:
        return self._transform(torch.as_tensor(z).to(self._like)).double().cpu().numpy()

    def change_flow(
        self, z: np.ndarray, flow: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return z, flow
