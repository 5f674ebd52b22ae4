"""The log density of a Pyro model as ``gaussian_start`` asks for it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import biject_to

POINTS_PER_RUN = 256  # of the model, while a start is looked for
POINTS = "points"  # name of their plate


class LogDensity:
    """The log density of unconstrained latent vectors as what ``gaussian_start`` asks for: NumPy in, NumPy out.

    Many points are one run of the model under one more plate, as vectorised particles are; or, where the model cannot
    run like that, as many runs. Sites marked for enumeration are summed over.

    Attributes:
        factors: names of the model's.
        enumerates: whether sites are summed over.
        trains: whether the model has parameters.
        vectorizes: whether many points are one run of the model.
    """

    def __init__(
        self, model: Callable[..., Any], unpack: Callable[[torch.Tensor], Iterable[Any]], like: torch.Tensor
    ) -> None:
        self._model, self._unpack, self._like = model, unpack, like
        self._through: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None
        # at given values, as some priors cannot be drawn from
        values = {site["name"]: biject_to(site["fn"].support)(u) for site, u in unpack(like)}
        with poutine.block():
            nodes: list[Any] = [*poutine.trace(poutine.condition(model, data=values)).get_trace().nodes.values()]
        self.factors = [s["name"] for s in nodes if s["type"] == "sample" and isinstance(s["fn"], dist.Unit)]
        self.enumerates = any(is_enumerated(site) for site in nodes)
        self.trains = any(site["type"] == "param" for site in nodes)
        self._frames: list[Any] = [
            frame for site in nodes for frame in site.get("cond_indep_stack", ()) if frame.vectorized
        ]
        self._nesting = max((-frame.dim for frame in self._frames), default=0)
        self.vectorizes = self._compare(like.detach() + torch.tensor([[0.0], [0.1]]).to(like))

    def through(self, place: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> LogDensity:
        """The density of coordinates, which ``place`` makes latent vectors of, with the log determinants."""
        new = copy.copy(self)
        new._through = place
        return new

    def of(self, model: Callable[..., Any]) -> LogDensity:
        """That of the same model with other arguments."""
        new = copy.copy(self)
        new._model = model
        return new

    def obstacle(self, init: np.ndarray) -> str | None:
        """What makes the log density no function of the latents alone."""
        if any(frame.full_size is not None and frame.full_size != frame.size for frame in self._frames):
            return "the likelihood is sub-sampled"
        first, second = (self.value_and_gradient(init[None])[0].item() for _ in range(2))
        return None if first == second or np.isnan(first) else "the model draws numbers that the guide does not"

    def value_and_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blocks = [self._with_gradient(block) for block in torch.tensor(z).to(self._like).split(POINTS_PER_RUN)]
        values, gradients = (torch.cat([b.detach() for b in arrays]) for arrays in zip(*blocks, strict=True))
        return values.double().cpu().numpy(), gradients.double().cpu().numpy()

    def hessian(self, z: np.ndarray) -> np.ndarray:
        points = torch.tensor(z).to(self._like).requires_grad_()
        _, gradients = self._with_gradient(points, create_graph=True)
        rows = [
            torch.autograd.grad(column.sum(), points, retain_graph=True, allow_unused=True)[0]
            if column.requires_grad
            else None
            for column in gradients.unbind(-1)
        ]
        filled = [torch.zeros_like(points) if row is None else row for row in rows]
        return torch.stack(filled, dim=-2).double().cpu().numpy()

    def _with_gradient(self, z: torch.Tensor, *, create_graph: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        z = z if z.requires_grad else z.requires_grad_()
        with torch.enable_grad():
            latent, log_det = (z, 0.0) if self._through is None else self._through(z)
            values = self.values(latent) + log_det
            (gradients,) = torch.autograd.grad(values.sum(), z, create_graph=create_graph)
        return values, gradients

    def values(self, z: torch.Tensor) -> torch.Tensor:
        """At latent vectors, ``(n, dim)``: ``(n,)``."""
        # Pyro's checks would end the search at the first point far outside, where a scale is 0 or infinite
        with poutine.block(), pyro.validation_enabled(False):
            if not self.vectorizes:
                return torch.stack([self._log_density(row, 1).sum() for row in z])
            latent = z.reshape(len(z), *(1 for _ in range(self._nesting)), -1)
            with pyro.plate(POINTS, len(z), dim=-1 - self._nesting):
                return self._log_density(latent, len(z))

    def _log_density(self, latent: torch.Tensor, n: int) -> torch.Tensor:
        values, total = {}, torch.zeros(n).to(latent)
        for site, unconstrained in self._unpack(latent):
            transform = biject_to(site["fn"].support)
            value = values[site["name"]] = transform(unconstrained)
            total = total + transform.log_abs_det_jacobian(unconstrained, value).reshape(n, -1).sum(-1)
        model = poutine.condition(self._model, data=values)
        if self.enumerates:
            first_free = -1 - self._nesting - int(self.vectorizes)
            trace = poutine.trace(poutine.enum(model, first_available_dim=first_free)).get_trace()
            return total + _sum_out(trace, n)
        trace = poutine.trace(model).get_trace()
        trace.compute_log_prob()
        terms = [site["log_prob"] for site in trace.nodes.values() if site["type"] == "sample"]
        return total + sum(
            term.expand(n, *term.shape[1:]).reshape(n, -1).sum(-1) if n > 1 else term.sum() for term in terms
        )

    def _compare(self, z: torch.Tensor) -> bool:
        """Whether the model, run once for two points, gives what it gives in two runs."""
        with torch.no_grad():
            self.vectorizes = False
            apart = self.values(z)
            self.vectorizes = True
            try:
                together = self.values(z)
            except (RuntimeError, ValueError, IndexError):  # what operations on unexpected shapes raise
                return False
            return bool(torch.allclose(apart.double(), together.double(), rtol=1e-3, equal_nan=True))


def is_enumerated(site: Any) -> bool:
    """Whether the host sums over a site."""
    return bool(site["type"] == "sample" and not site["is_observed"] and site["infer"].get("enumerate") == "parallel")


def _sum_out(trace: Any, n: int) -> torch.Tensor:
    """Log density of an enumerated trace, ``(n,)`` for so many points in a plate, as the host's NUTS has it."""
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    trace.pack_tensors()
    plates, factors = trace.plate_to_symbol, OrderedDict[frozenset[str], list[torch.Tensor]]()
    for site in trace.nodes.values():
        if site["type"] == "sample":
            ordinal = frozenset(plates[f.name] for f in site["cond_indep_stack"] if f.vectorized)
            factors.setdefault(ordinal, []).append(site["packed"]["log_prob"])
    rows = frozenset({plates[POINTS]} if n > 1 else ())
    summed = contract_to_tensor(factors, set(trace.symbol_to_dim) - set(plates.values()), target_ordinal=rows)
    return torch.as_tensor(summed).reshape(n)
