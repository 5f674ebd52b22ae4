"""What ``fit`` measures a trained guide by: draws, and the log densities of model and guide there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.distributions import Delta
from pyro.infer import TraceEnum_ELBO
from pyro.infer.importance import vectorized_importance_weights
from pyro.infer.util import plate_log_prob_sum
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import biject_to, transform_to

from ppl_flows.inference.fitted import WeightedDraws
from ppl_flows.inference.kl_estimate import Scores
from ppl_flows.pyro.run_size import in_runs


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


class Points(NamedTuple):
    """Draws of a guide: its latent sites; its random numbers on the unconstrained scale, ``(n, dim)``, None where these
    are no coordinates of the latents; the log densities of model and guide, as of these numbers, ``(n,)``, in nats."""

    latents: dict[str, torch.Tensor]
    vectors: torch.Tensor | None
    log_p: torch.Tensor
    log_q: torch.Tensor

    def first(self) -> Points:
        """The first of them alone."""
        vectors = None if self.vectors is None else self.vectors[:1]
        return Points({n: value[:1] for n, value in self.latents.items()}, vectors, self.log_p[:1], self.log_q[:1])


class Placement(Messenger):
    """Around model and guide: the guide's random sites take their unconstrained values from vectors, ``(n, dim)``."""

    def __init__(self, sites: list[str], vectors: torch.Tensor, supports: dict[str, Any]) -> None:
        super().__init__()
        self._sites, self._rest, self._supports = sites, vectors, supports

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._sites and not msg["done"]:  # the replayed model's is
            transform = biject_to(self._supports.get(msg["name"], msg["fn"].support))
            shape = transform.inverse_shape(msg["fn"].shape())
            size = shape.numel() // len(self._rest)
            msg["value"], msg["done"] = transform(self._rest[:, :size].reshape(shape)), True
            self._rest = self._rest[:, size:]


def latent_sites(guide: Callable[..., Any]) -> dict[str, Any]:
    """The sample sites of a run of the guide, auxiliary ones among them."""
    nodes: dict[str, Any] = prune_subsample_sites(poutine.trace(guide).get_trace()).nodes
    return {name: site for name, site in nodes.items() if is_latent(site)}


def latent_shapes(guide: Callable[..., Any]) -> dict[str, torch.Size]:
    """Shapes of the guide's latent sites."""
    sites = latent_sites(guide).items()
    return {name: site["value"].shape for name, site in sites if not site["infer"].get("is_auxiliary")}


def is_latent(site: Any) -> bool:
    """Whether this is a sample site without data."""
    return site["type"] == "sample" and not site["is_observed"]


def is_random(site: dict[str, Any]) -> bool:
    """Whether a latent site is drawn, and not a function of others."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return not isinstance(fn, Delta)


@dataclass(frozen=True)
class ImportanceSampler:
    """Runs model and guide, without arguments, and scores what the guide draws or is given.

    Attributes:
        batch: particles that are run at once, as in training, to begin with, as in ``in_runs``.
        nesting: of the model's plates; None: particles are run one by one.
        marginal: sums over enumerated sites; None: there are none.
        supports: of the model's latent sites: the numbers of a guide that draws them itself are on these.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    batch: int
    nesting: int | None
    marginal: TraceEnum_ELBO | None
    supports: dict[str, Any]

    def __call__(self, num_samples: int, vectors: np.ndarray | None = None) -> WeightedDraws:
        """Draws of the guide, or what it makes of so many vectors."""
        sites, shapes = latent_sites(self.guide), latent_shapes(self.guide)
        random = [name for name, site in sites.items() if is_random(site)]

        def run(start: int, stop: int) -> Points:
            if vectors is None:
                return self._run(stop - start, shapes, placed=False)
            block = torch.as_tensor(vectors[start:stop]).to(sites[random[0]]["value"])
            if alone := self.nesting is not None and len(block) == 1:  # of one, the host's sums drop the axis
                block = block.expand(2, -1)
            with Placement(random, block, self.supports):
                points = self._run(len(block), shapes, placed=True)
            return points.first() if alone else points

        one_by_one = self.nesting is None
        runs = [run(i, i + 1) for i in range(num_samples)] if one_by_one else in_runs(run, num_samples, self.batch)

        def rows(blocks: list[Any]) -> np.ndarray:
            return np.asarray(torch.cat(blocks).double().cpu())

        draws = {name: torch.cat([run.latents[name] for run in runs]) for name in shapes}
        scores = Scores(rows([run.log_p for run in runs]), rows([run.log_q for run in runs]))
        return WeightedDraws(draws, scores, None if runs[0].vectors is None else rows([run.vectors for run in runs]))

    def _run(self, size: int, shapes: dict[str, torch.Size], *, placed: bool) -> Points:
        log_p, log_q, trace = self._traces(size)
        nodes: dict[str, Any] = prune_subsample_sites(trace).nodes
        volume, parts, discrete = torch.zeros(size).to(log_q), [], False
        for name, site in nodes.items():
            if not is_latent(site):
                continue
            fn, value = site["fn"], site["value"]
            if not is_random(site):
                volume = volume - _total(site["log_prob"], size)
            elif fn.support.is_discrete:
                discrete = True
            else:
                transform = biject_to(self.supports.get(name, fn.support))
                unconstrained = transform.inv(value)
                volume = volume + _total(transform.log_abs_det_jacobian(unconstrained, value), size)
                parts.append(unconstrained.reshape(size, -1))
                if placed and name in self.supports:  # the hosts' densities are finite outside, too
                    log_q = log_q.masked_fill(~fn.support.check(value).reshape(size, -1).all(-1), -torch.inf)
        latents = {name: nodes[name]["value"].reshape(size, *shape) for name, shape in shapes.items()}
        # more numbers than those of the latents, as annealed guides draw, have other densities than theirs
        numbers = sum(part.shape[1] for part in parts)
        coordinates = not discrete and 0 < numbers <= sum(shape.numel() for shape in shapes.values())
        vectors = torch.cat(parts, dim=-1) if coordinates else None
        return Points(latents, vectors, log_p + volume, log_q + volume)

    def _traces(self, size: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Log densities of model and guide, ``(size,)``, in one run; and the trace of the guide."""
        if self.nesting is not None:
            _, model_trace, trace = vectorized_importance_weights(
                self.model, self.guide, num_samples=size, max_plate_nesting=self.nesting
            )
            particles = trace.plate_to_symbol["num_particles_vectorized"]
            log_p, log_q = (plate_log_prob_sum(t, particles).expand(size) for t in (model_trace, trace))
            return log_p, log_q, trace
        trace = poutine.trace(self.guide).get_trace()
        trace.compute_log_prob()
        if self.marginal is None:
            log_p = torch.as_tensor(poutine.trace(poutine.replay(self.model, trace=trace)).get_trace().log_prob_sum())
        else:
            replayed = poutine.mask(poutine.replay(self.guide, trace=trace), mask=False)
            log_p = torch.as_tensor(-self.marginal.loss(self.model, replayed))
        return log_p.reshape(1), torch.as_tensor(trace.log_prob_sum()).reshape(1), trace


def _total(terms: torch.Tensor, size: int) -> torch.Tensor:
    """Of so many particles."""
    return terms.reshape(size, -1).sum(-1)
