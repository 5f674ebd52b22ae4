"""A Pyro model as a simulator: latents and data together, as rows of numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from torch.distributions import biject_to

from ppl_flows.inference.amortized import Rows, interval_scores
from ppl_flows.inference.simulation_checks import (
    check_continuous,
    check_given,
    check_simulated,
    check_sites,
    check_supports,
    finite_rows,
)
from ppl_flows.pyro.model_runs import WithoutData, check_apart, is_data, sample_sites, weighed
from ppl_flows.pyro.neutral_supports import SUPPORTS

CHECKED = 256  # simulations whose latents are mapped there and back


class Simulator:
    """Of a model with these arguments.

    Attributes:
        latents: their sites in a run, in the order of the vector.
        data: names of the sites with ``obs``.
        sizes: how many unconstrained numbers each of them takes.
        shapes: of the values of latents and data, by site.
        scores: from normal scores to the unconstrained vector of latents; None: they are the same.
        like: a tensor of the dtype and on the device of the simulations.

    Raises:
        ValueError: the model has no data, no latents or discrete ones, or a density that is not that of what it draws;
            with ``vectorize``, it mixes what is simulated at once.
    """

    def __init__(
        self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, vectorize: bool
    ) -> None:
        sites = sites_of(model, args, kwargs)
        check_simulated(weighed(sites))
        self.data = [n for n, s in sites.items() if is_data(s)]
        self.latents = {n: s for n, s in sites.items() if not s["is_observed"]}
        check_sites(self.data, [*self.latents])
        check_continuous([n for n, s in self.latents.items() if s["fn"].support.is_discrete])
        self._model, self._args, self._kwargs, self._vectorize = WithoutData()(model), args, kwargs, vectorize
        self._shapes = {n: sites[n]["value"].shape for n in self.data}
        self._sites = sites
        frames = [f for s in sites.values() for f in s["cond_indep_stack"] if f.vectorized]
        self._nesting = max((-f.dim for f in frames), default=0)
        maps = {n: biject_to(s["fn"].support) for n, s in self.latents.items()}
        self._numbers = {n: maps[n].inv(s["value"]).shape for n, s in self.latents.items()}
        self.sizes = {n: shape.numel() for n, shape in self._numbers.items()}
        on_interval = {n: SUPPORTS.is_interval(s["fn"].support) for n, s in self.latents.items()}
        self.scores = interval_scores([on_interval[n] for n, s in self._numbers.items() for _ in range(s.numel())])
        self.like = torch.empty(0)
        self.shapes = {n: tuple(sites[n]["value"].shape) for n in (*self.latents, *self.data)}
        self._params = {name: value.detach() for name, value in pyro.get_param_store().items()}
        if vectorize:
            with torch.random.fork_rng(), torch.no_grad():
                runs = [sites_of(self._model, args, kwargs) for _ in range(2)]
            check_apart(partial(self._model, *args, **kwargs), runs, self._nesting, way_out="vectorize=False")

    def plates(self, sites: Any) -> dict[str, dict[str, int]]:
        """The axis, from the end, of every plate of these sites."""
        return {
            n: {
                f.name: f.dim - self._sites[n]["fn"].event_dim
                for f in self._sites[n]["cond_indep_stack"]
                if f.vectorized
            }
            for n in sites
        }

    def rows(self, n: int, seed: int) -> Rows:
        """So many simulations: normal scores ``(n, dim)``, and data ``{site: (n, *site shape)}``.

        Raises:
            ValueError: some are not finite; the support of a latent depends on others.
        """
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            z, values, drawn = self._run(n)
            again = self.place(z[:CHECKED])
        self.like = z[:0]
        check_supports(*({name: v[:CHECKED].cpu().numpy() for name, v in found.items()} for found in (values, again)))
        return finite_rows(z.cpu().numpy(), {name: v.cpu().numpy() for name, v in drawn.items()})

    @torch.no_grad()
    def fresh(self, n: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """As ``rows``, inside another model: its handlers and parameters are out of reach, and nothing is checked."""
        with poutine.block(), poutine.substitute(data=self._params):
            z, _, drawn = self._run(n)
        return z, drawn

    def place(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
        """The latents at normal scores ``(n, dim)``."""
        return self.place_free(z if self.scores is None else self.scores.forward({}, z)[0])

    def place_free(self, z: torch.Tensor) -> dict[str, torch.Tensor]:
        """Likewise, at unconstrained vectors."""
        pieces = z.split([shape.numel() for shape in self._numbers.values()], dim=-1)
        return {
            name: biject_to(self.latents[name]["fn"].support)(piece.reshape(len(z), *shape))
            for (name, shape), piece in zip(self._numbers.items(), pieces, strict=True)
        }

    def _run(self, n: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Normal scores, values of latents, and data."""
        if self._vectorize:
            with pyro.plate("simulations", n, dim=-1 - self._nesting):
                return self._read(sites_of(self._model, self._args, self._kwargs), n)
        runs = [self._read(sites_of(self._model, self._args, self._kwargs), 1) for _ in range(n)]
        values = {name: torch.cat([run[1][name] for run in runs]) for name in runs[0][1]}
        return (
            torch.cat([run[0] for run in runs]),
            values,
            {n: torch.cat([run[2][n] for run in runs]) for n in self.data},
        )

    @torch.no_grad()
    def stored(self, values: dict[str, np.ndarray]) -> Rows:
        """As ``rows``, of simulations that were made before; latents outside of their supports are not finite."""
        tensors = {name: torch.as_tensor(values[name]).to(self.like) for name in self.latents}
        n = len(next(iter(values.values())))
        z = self._vector(tensors, self.latents, n)
        for name, value in tensors.items():  # which maps to the reals would move inside
            inside = self.latents[name]["fn"].support.check(value).reshape(n, -1).all(-1)
            z[~inside] = torch.nan
        return z.cpu().numpy(), {name: values[name] for name in self.data}

    def _vector(self, values: dict[str, torch.Tensor], sites: Any, n: int) -> torch.Tensor:
        """Normal scores of the latents of n simulations, by the supports of these sites."""
        free = [biject_to(sites[name]["fn"].support).inv(values[name]) for name in self.latents]
        z = torch.cat([v.reshape(n, -1) for v in free], dim=-1)
        return z if self.scores is None else self.scores.inverse({}, z)[0]

    def _read(self, drawn: Any, n: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        values = {name: drawn[name]["value"].reshape(n, *s["value"].shape) for name, s in self.latents.items()}
        z = self._vector({name: drawn[name]["value"] for name in self.latents}, drawn, n)
        like = torch.get_default_dtype()
        return z.to(like), values, {m: drawn[m]["value"].reshape(n, *self._shapes[m]).to(like) for m in self.data}


def sites_of(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Sample sites of a run of the model, by name."""
    return sample_sites(poutine.trace(model).get_trace(*args, **kwargs))


def observed(
    model: Callable[..., Any], data: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, np.ndarray]:
    """One data set, those in the arguments, ``{site: (1, *site shape)}``.

    Raises:
        ValueError: some are missing, or not finite; a density that is not that of what the model draws.
    """
    with torch.random.fork_rng(), torch.no_grad():
        sites = sites_of(model, args, kwargs)
    check_simulated(weighed(sites))
    given = {n: s["value"].cpu().numpy()[None] for n, s in sites.items() if is_data(s)}
    check_given(given, data)
    return {n: given[n] for n in data}
