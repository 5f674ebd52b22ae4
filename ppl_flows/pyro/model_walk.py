"""Runs of a Pyro model along which its latent vector is made of coordinates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch.distributions import biject_to

from ppl_flows.core.types import Params
from ppl_flows.inference.model_map import LatentSite, Step
from ppl_flows.inference.read_prior import read_prior
from ppl_flows.inference.site_priors import Prior
from ppl_flows.pyro.log_density import LogDensity, is_enumerated

ROWS_AT_ONCE = 256  # of second derivatives


class PyroWalk:
    """A model with its arguments, as a ``ModelWalk``. Values of its parameters are those of Pyro's store.

    Many rows are one run of the model, with one more dimension to the left, where it can run like that: ``vectorizes``.

    Args:
        model, args, kwargs: without the guide's handlers.
        latents: of a trace, in the order of the model.
        density: of the model, with these arguments.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        latents: Mapping[str, Any],
        density: LogDensity,
    ) -> None:
        self.model, self.args, self.kwargs, self.density = model, args, kwargs, density
        self.vectorizes, self.batches = False, True
        self._transforms = {name: biject_to(site["fn"].support) for name, site in latents.items()}
        self._batch_dims = {name: len(site["fn"].batch_shape) for name, site in latents.items()}

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PyroWalk:
        """The same model with other arguments."""
        new = copy.copy(self)
        new.args, new.kwargs = args, kwargs
        new.density = self.density.of(partial(self.model, *args, **kwargs))
        return new

    def __call__(
        self, sites: tuple[LatentSite, ...], step: Step, x: torch.Tensor, params: Params, *, forward: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = x.reshape(-1, x.shape[-1])
        placings = [
            self._run(sites, step, row, forward=forward) for row in ([rows] if self.vectorizes else rows.unbind())
        ]
        parts = [torch.cat([p.part(site, len(rows)) for p in placings]) for site in sites]
        log_det = torch.cat([p.log_det.reshape(-1) for p in placings])
        return torch.cat(parts, dim=-1).reshape(x.shape), log_det.reshape(x.shape[:-1])

    def curvature(
        self, sites: tuple[LatentSite, ...], block: tuple[str, ...], u: torch.Tensor, params: Params
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of ``ModelWalk``."""
        keeps = torch.is_grad_enabled() and (u.requires_grad or self.density.trains)
        with torch.inference_mode(False), torch.enable_grad(), _no_plates():
            parts = [
                self._curvature(sites, block, rows.clone(), create_graph=keeps)
                for rows in u.reshape(-1, u.shape[-1]).split(ROWS_AT_ONCE)
            ]
        gradient, precision = (torch.cat(a) if keeps else torch.cat(a).detach() for a in zip(*parts, strict=True))
        n = gradient.shape[-1]
        return gradient.reshape(*u.shape[:-1], n), precision.reshape(*u.shape[:-1], n, n)

    def _curvature(
        self, sites: tuple[LatentSite, ...], block: tuple[str, ...], rows: torch.Tensor, *, create_graph: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [rows[:, site.at] for site in sites]
        own = [part.requires_grad_() for site, part in zip(sites, parts, strict=True) if site.name in block]
        values = self.density.values(torch.cat(parts, dim=-1))
        gradient = torch.cat(_gradients(values.sum(), own, create_graph=True), dim=-1)
        n = gradient.shape[-1]
        if self.batches:
            try:
                units = torch.eye(n).to(rows)[:, None, :].expand(n, len(rows), n)
                keep = {"retain_graph": True, "create_graph": create_graph}  # for the columns, if this fails half-way
                found = _gradients(gradient, own, units, is_grads_batched=True, **keep)
                return gradient, -torch.cat(found, dim=-1).movedim(0, -2)
            except RuntimeError:  # of operations that are not vectorised
                self.batches = False
        columns = [_gradients(c.sum(), own, retain_graph=True, create_graph=create_graph) for c in gradient.unbind(-1)]
        return gradient, -torch.stack([torch.cat(c, dim=-1) for c in columns], dim=-2)

    def read(self, sites: tuple[LatentSite, ...], x: torch.Tensor, variant: int) -> dict[str, Prior]:
        """The priors of the sites at latent vectors, as far as they are known, of one more dimension than x.

        Args:
            variant: of the random numbers, and of the enumerated sites, that the model has besides.
        """
        found: list[dict[str, Prior]] = []

        def step(site: LatentSite, prior: Prior, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found[-1][site.name] = prior
            return v, torch.zeros_like(v)

        every = tuple(site._replace(pseudo=0) for site in sites)
        with torch.random.fork_rng(), torch.no_grad():
            for row in x:
                torch.manual_seed(variant)
                found.append({})
                self._run(every, step, row, forward=False, variant=variant)
        always = {n: p for n, p in found[0].items() if all(n in f for f in found)}  # a model may branch
        return {n: type(p)(*(torch.stack([f[n][i] for f in found]) for i in range(len(p)))) for n, p in always.items()}

    def _run(
        self, sites: tuple[LatentSite, ...], step: Step, rows: torch.Tensor, *, forward: bool, variant: int = 0
    ) -> Placing:
        nesting = max(self._batch_dims.values())
        pads = {name: (1,) * (nesting - dims) for name, dims in self._batch_dims.items()}
        placing = Placing(sites, self._transforms, pads, step, rows, forward=forward, variant=variant)
        # not in the trace that this is part of; and scales may be 0 or infinite, far outside
        with poutine.block(), _no_plates(), pyro.validation_enabled(False), placing, suppress(_AllPlacedError):
            self.model(*self.args, **self.kwargs)
        return placing


def _gradients(value: torch.Tensor, of: list[torch.Tensor], *given: Any, **options: Any) -> list[torch.Tensor]:
    """Of a value that may not depend on them."""
    if not value.requires_grad:
        value = value + 0 * of[0].sum()
    grad: Any = torch.autograd.grad
    return [*grad(value, of, *given, allow_unused=True, materialize_grads=True, **options)]


@contextmanager
def _no_plates() -> Iterator[None]:
    """The plates that this is called in, maybe of the very same model, are none of the run inside."""
    kept, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
    try:
        yield
    finally:
        _DIM_ALLOCATOR._stack = kept


class _AllPlacedError(Exception):
    """No site that is placed is left: the rest of the model need not run."""


class Placing(Messenger):
    """Around a model: its latent sites are placed, one after the other.

    Attributes:
        log_det: of all of them, for every row, where rows are many.
    """

    def __init__(
        self,
        sites: tuple[LatentSite, ...],
        transforms: dict[str, Any],
        pads: dict[str, tuple[int, ...]],
        step: Step,
        rows: torch.Tensor,
        *,
        forward: bool,
        variant: int,
    ) -> None:
        super().__init__()
        self._sites, self._transforms, self._pads, self._step = {s.name: s for s in sites}, transforms, pads, step
        self._rows, self._forward, self._variant = rows, forward, variant
        self._left = sum(site.pseudo is not None for site in sites)
        self._made: dict[str, torch.Tensor] = {}
        self.log_det = rows.new_zeros(rows.shape[:-1])

    def part(self, site: LatentSite, rows: int) -> torch.Tensor:
        """What becomes of a site's numbers, ``(rows, size)``."""
        made = self._made.get(site.name)
        return (self._rows[..., site.at] if made is None else made).reshape(-1, site.size)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        if msg["name"] in self._sites:
            site = self._sites[msg["name"]]
            msg["value"], msg["done"] = self._place(site, msg["fn"]), True
        elif is_enumerated(msg):
            values = msg["fn"].enumerate_support(expand=True)
            msg["value"], msg["done"] = values[self._variant % len(values)], True

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._sites and self._sites[msg["name"]].pseudo is not None:
            self._left -= 1
            if not self._left:
                raise _AllPlacedError

    def _place(self, site: LatentSite, fn: Any) -> torch.Tensor:
        """The value of a site."""
        lead = (*self._rows.shape[:-1], *self._pads[site.name]) if self._rows.ndim > 1 else ()
        v = self._rows[..., site.at].reshape((*lead, *site.numbers))
        prior = None if site.pseudo is None else read_prior(fn, site.kind, tuple(v.shape), v)
        made = v
        if prior is not None:
            made, log_det = self._step(site, prior, v)
            self.log_det = self.log_det + log_det.reshape(*self.log_det.shape, -1).sum(-1)
        self._made[site.name] = made
        value: torch.Tensor = self._transforms[site.name](made if self._forward else v)
        return value
