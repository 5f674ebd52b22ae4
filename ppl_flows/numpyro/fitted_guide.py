"""A trained guide: its draws, and their weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from numpyro.infer import Predictive, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoGuide

from ppl_flows.inference.fitted import WeightedDraws
from ppl_flows.inference.kl_estimate import Scores
from ppl_flows.numpyro.compile_once import compile_once
from ppl_flows.numpyro.deterministic_sites import deterministic_sites
from ppl_flows.numpyro.elbo import Choice
from ppl_flows.numpyro.flow_handlers import EvaluationMode
from ppl_flows.numpyro.importance import Point, score


@dataclass(frozen=True)
class FittedGuide:
    """A guide of a model at the parameters of a training.

    Attributes:
        model, guide: and ``args`` and ``kwargs``, their arguments.
        params: trained.
        choice: what was found out when the ELBO was chosen.
        num_particles: that are weighted at once.
        seed: of scores, and of the fit.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    params: dict[str, Any]
    choice: Choice
    num_particles: int
    seed: int

    @property
    def subsampled(self) -> bool:
        return self.choice.subsampled

    @property
    def enumerates(self) -> bool:
        return isinstance(self.choice.elbo, TraceEnum_ELBO)

    def draw(self, num_samples: int, seed: int) -> dict[str, jax.Array]:
        """Draws of the guide, and deterministic sites."""
        key = jax.random.key(seed)
        if isinstance(self.guide, AutoGuide):
            sample_shape = (num_samples,)
            return self.guide.sample_posterior(key, self.params, *self.args, sample_shape=sample_shape, **self.kwargs)
        return self.complete(Predictive(self._guide, params=self.params, num_samples=num_samples)(key))

    def complete(self, draws: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The draws, and the model's deterministic sites."""
        if self.subsampled:
            return draws
        return {**draws, **compile_once(self._deterministic_sites, draws, self.params)(draws, self.params)}

    def weigh(self, num_samples: int, seed: int) -> WeightedDraws:
        """Draws of the guide, scored."""
        point = self._scored(num_samples, seed)
        vectors = None if point.vector is None else np.asarray(point.vector, dtype=np.float64)
        return WeightedDraws(point.latents, point.scores(), vectors)

    def score(self, vectors: np.ndarray) -> Scores:
        """Of what the guide makes of unconstrained vectors."""
        return self._scored(len(vectors), self.seed, vectors).scores()

    def draw_discrete(self, draws: dict[str, jax.Array], seed: int) -> dict[str, jax.Array]:
        """Enumerated sites, given draws of the guide."""
        key = jax.random.fold_in(jax.random.key(seed), 1)  # not that of the draws
        sites = self.choice.enumerated
        host = Predictive(
            EvaluationMode(self._model), draws, params=self.params, infer_discrete=True, return_sites=sites
        )
        return host(key)

    @property
    def _model(self) -> partial[Any]:
        return partial(self.model, *self.args, **self.kwargs)

    @property
    def _guide(self) -> partial[Any]:
        return partial(self.guide, *self.args, **self.kwargs)

    def _scored(self, n: int, seed: int, vectors: np.ndarray | None = None) -> Point:
        blocks = -(-n // self.num_particles)  # whole ones, as a rest would be compiled a second time
        _, weights_key = jax.random.split(jax.random.key(self.seed))  # the first one trains
        keys = jax.random.split(jax.random.fold_in(weights_key, seed), (blocks, self.num_particles))
        if vectors is not None:
            vectors = np.resize(vectors, (blocks, self.num_particles, vectors.shape[-1]))
        blockwise = compile_once(self._score_blocks, keys, vectors, self.params)(keys, vectors, self.params)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], blockwise)

    def _score_blocks(self, keys: jax.Array, vectors: jax.Array | None, params: dict[str, Any]) -> Point:
        return lax.map(lambda block: jax.vmap(partial(self._score_one, params=params))(*block), (keys, vectors))

    def _score_one(self, key: jax.Array, vector: jax.Array | None, params: dict[str, Any]) -> Point:
        marginal = TraceEnum_ELBO() if self.enumerates else None
        handled = EvaluationMode(self._guide), EvaluationMode(self._model)
        return score(*handled, key=key, vector=vector, params=params, supports=self.choice.supports, marginal=marginal)

    def _deterministic_sites(self, draws: dict[str, jax.Array], params: dict[str, Any]) -> dict[str, jax.Array]:
        return lax.map(partial(deterministic_sites, params=params, model=EvaluationMode(self._model)), draws)
