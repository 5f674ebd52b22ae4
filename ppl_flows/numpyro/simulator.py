"""A NumPyro model as a simulator: latents and data together, as rows of numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from ppl_flows.inference.amortized import Rows, interval_scores
from ppl_flows.inference.simulation_checks import (
    check_continuous,
    check_given,
    check_simulated,
    check_sites,
    check_supports,
    finite_rows,
)
from ppl_flows.numpyro.model_runs import is_data, weighed
from ppl_flows.numpyro.neutral_supports import SUPPORTS

CHECKED = 256  # simulations whose latents are mapped there and back


class Simulator:
    """Of a model with these arguments.

    Attributes:
        latents: their sites in a run, in the order of the vector.
        data: names of the sites with ``obs``.
        sizes: how many unconstrained numbers each of them takes.
        shapes: of the values of latents and data, by site.
        scores: from normal scores to the unconstrained vector of latents; None: they are the same.

    Raises:
        ValueError: the model has no data, no latents or discrete ones, or a density that is not that of what it draws.
    """

    def __init__(self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._sites = sites_of(model, args, kwargs)
        check_simulated(weighed(self._sites))
        self.data = [n for n, s in self._sites.items() if is_data(s)]
        latents = [n for n, s in self._sites.items() if not s["is_observed"]]
        check_sites(self.data, latents)
        check_continuous([n for n in latents if self._sites[n]["fn"].support.is_discrete])
        self.latents = {n: self._sites[n] for n in sorted(latents)}  # as a pytree has them
        self._model, self._args, self._kwargs = handlers.uncondition(model), args, kwargs
        start = {n: biject_to(s["fn"].support).inv(s["value"]) for n, s in self.latents.items()}
        self._unravel = ravel_pytree(start)[1]
        self.sizes = {n: int(np.size(v)) for n, v in start.items()}
        on_interval = {n: SUPPORTS.is_interval(s["fn"].support) for n, s in self.latents.items()}
        self.scores = interval_scores([on_interval[n] for n, v in start.items() for _ in range(v.size)])
        self._run_all = jax.jit(jax.vmap(self._run))
        self._place_all = jax.jit(self.place)
        self._vector_all = jax.jit(jax.vmap(self._stored))
        self.shapes = {n: tuple(np.shape(self._sites[n]["value"])) for n in (*self.latents, *self.data)}

    def plates(self, sites: Any) -> dict[str, dict[str, int]]:
        """The axis, from the end, of every plate of these sites."""
        return {
            n: {f.name: f.dim - self._sites[n]["fn"].event_dim for f in self._sites[n]["cond_indep_stack"]}
            for n in sites
        }

    def rows(self, n: int, seed: int) -> Rows:
        """So many simulations: normal scores ``(n, dim)``, and data ``{site: (n, *site shape)}``.

        Raises:
            ValueError: some are not finite; the support of a latent depends on others.
        """
        z, values, drawn = jax.tree.map(np.asarray, self._run_all(jax.random.split(jax.random.key(seed), n)))
        again = self._place_all(z[:CHECKED])
        check_supports({m: v[:CHECKED] for m, v in values.items()}, {m: np.asarray(v) for m, v in again.items()})
        return finite_rows(z, drawn)

    def fresh(self, n: int, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """As ``rows``, inside another model: its handlers are out of reach, and nothing is checked."""
        with handlers.block():
            z, _, drawn = jax.vmap(self._run)(jax.random.split(key, n))
        return z, drawn

    def place(self, z: jax.Array) -> dict[str, jax.Array]:
        """The latents at normal scores ``(n, dim)``."""
        return self.place_free(z if self.scores is None else self.scores.forward({}, z)[0])

    def place_free(self, z: jax.Array) -> dict[str, jax.Array]:
        """Likewise, at unconstrained vectors."""
        free = jax.vmap(self._unravel)(z)
        return {n: biject_to(s["fn"].support)(free[n]) for n, s in self.latents.items()}

    def stored(self, values: dict[str, np.ndarray]) -> Rows:
        """As ``rows``, of simulations that were made before; latents outside of their supports are not finite."""
        n = len(next(iter(values.values())))
        filled = np.arange(1 << (n - 1).bit_length()) % n  # so that there are few shapes to compile for
        z = self._vector_all({m: values[m][filled].astype(float) for m in self.latents})
        return np.asarray(z)[:n], {m: values[m] for m in self.data}

    def _stored(self, values: dict[str, jax.Array]) -> jax.Array:
        """Normal scores of one simulation; not finite where a latent is outside of its support, and would be moved."""
        inside = [jnp.all(s["fn"].support(values[n])) for n, s in self.latents.items()]
        return jnp.where(jnp.stack(inside).all(), self._vector(values, self.latents), jnp.nan)

    def _vector(self, values: dict[str, Any], sites: dict[str, Any]) -> jax.Array:
        """Normal scores of latents, by the supports of these sites."""
        z = ravel_pytree({n: biject_to(sites[n]["fn"].support).inv(v) for n, v in values.items()})[0]
        return z if self.scores is None else self.scores.inverse({}, z)[0]

    def _run(self, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        """Normal scores, values of latents, and data, of one simulation."""
        drawn = sites_of(handlers.seed(self._model, key), self._args, self._kwargs)
        values = {n: drawn[n]["value"] for n in self.latents}
        return self._vector(values, drawn), values, {n: jnp.asarray(drawn[n]["value"], dtype=float) for n in self.data}


def sites_of(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Sample sites of a run of the model, by name."""
    trace = handlers.trace(handlers.seed(model, 0)).get_trace(*args, **kwargs)
    return {n: s for n, s in trace.items() if s["type"] == "sample"}


def observed(
    model: Callable[..., Any], data: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, np.ndarray]:
    """One data set, those in the arguments, ``{site: (1, *site shape)}``.

    Raises:
        ValueError: some are missing, or not finite; a density that is not that of what the model draws.
    """
    sites = sites_of(model, args, kwargs)
    check_simulated(weighed(sites))
    given = {n: np.asarray(s["value"])[None] for n, s in sites.items() if is_data(s)}
    check_given(given, data)
    return {n: given[n] for n in data}
