"""A trained guide: its draws, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np
import numpyro
from jax import lax
from numpyro.infer import Predictive, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoGuide

import ppl_flows
from ppl_flows.core.params import map_params
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.fitted import WeightedDraws, check_base_space
from ppl_flows.inference.kl_estimate import Scores
from ppl_flows.inference.model_runs import ModelRuns, guide_words, named_arguments
from ppl_flows.inference.prior_source import OwnFlow, PriorSource
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.base_space import GuideSpace
from ppl_flows.numpyro.compile_once import Program, random_key
from ppl_flows.numpyro.elbo import Choice
from ppl_flows.numpyro.flow_handlers import EvaluationMode
from ppl_flows.numpyro.importance import Point, score
from ppl_flows.numpyro.joint_prior import LANGUAGE
from ppl_flows.numpyro.mesh import Split
from ppl_flows.numpyro.model_runs import prior_draws, run_at, with_deterministic_sites
from ppl_flows.numpyro.placement import beside

CHUNK = 1_024  # draws of a call of the program that draws and scores, or as many as training has at once


@dataclass(frozen=True)
class FittedGuide:
    """A guide of a model at the parameters of a training.

    Attributes:
        model, guide: and ``args`` and ``kwargs``, their arguments.
        params: trained.
        choice: what was found out when the ELBO was chosen.
        num_particles: that training has at once, and the measure no more.
        seed: of scores, and of the fit.
        split: of draws over devices.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    params: dict[str, Any]
    choice: Choice
    num_particles: int
    seed: int
    split: Split | None = None

    @property
    def subsampled(self) -> bool:
        return self.choice.subsampled

    @property
    def enumerates(self) -> bool:
        return isinstance(self.choice.elbo, TraceEnum_ELBO)

    def draw(self, num_samples: int, seed: int) -> dict[str, jax.Array]:
        """Draws of the guide, and deterministic sites."""
        if not self.subsampled:
            return self.complete(self._scored(num_samples, seed).latents)
        if isinstance(self.guide, AutoGuide):  # which draws the latents of all rows
            sample_shape = (num_samples,)
            key = random_key(self.seed, seed)
            return self.guide.sample_posterior(key, self.params, *self.args, sample_shape=sample_shape, **self.kwargs)
        return Predictive(self._guide, params=self.params, num_samples=num_samples)(random_key(self.seed, seed))

    def complete(self, draws: dict[str, Any]) -> dict[str, jax.Array]:
        """The draws, and the model's deterministic sites."""
        arrays = {name: beside(to_array(value), self.params) for name, value in draws.items()}
        if self.subsampled or not self.choice.has_deterministic_sites:
            return arrays
        return with_deterministic_sites(self._evaluated_model, self.params, arrays, self.num_particles)

    def weigh(self, num_samples: int, seed: int) -> WeightedDraws:
        """Draws of the guide, scored."""
        point = self._scored(num_samples, seed)
        vectors = None if point.vector is None else np.asarray(point.vector, dtype=np.float64)
        return WeightedDraws(point.latents, point.scores(), vectors)

    def score(self, vectors: np.ndarray) -> Scores:
        """Of what the guide makes of unconstrained vectors."""
        return self._scored(len(vectors), 0, vectors).scores()

    def place(self, vectors: np.ndarray) -> WeightedDraws:
        """What the guide makes of unconstrained vectors, scored."""
        point = self._scored(len(vectors), 0, vectors)
        return WeightedDraws(point.latents, point.scores(), vectors)

    @contextmanager
    def base_space(self) -> Iterator[GuideSpace]:
        """The posterior in the base space of the guide's flow.

        Raises:
            TypeError: the guide is no ``AutoFlow``.
            ValueError: a plate is sub-sampled.
        """
        check_base_space(self.guide, hasattr(self.guide, "latent_sites"), self.subsampled)
        yield self._space

    @cached_property
    def _space(self) -> GuideSpace:
        return GuideSpace(self)  # with its programs

    def run_model(self, draws: dict[str, jax.Array], seed: int, *, predictive: bool, log_likelihood: bool) -> ModelRuns:
        """Of the model at draws of all its latents."""
        return run_at(
            self._evaluated_model,
            self.params,
            draws,
            seed=seed,
            predictive=predictive,
            log_likelihood=log_likelihood,
            batch=self.num_particles,
        )

    def draw_prior(self, num_samples: int, seed: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Draws of the model itself: latents and deterministic sites, and observed sites."""
        return prior_draws(self._evaluated_model, self.params, num_samples, seed)

    def draw_discrete(self, draws: dict[str, jax.Array], seed: int) -> dict[str, jax.Array]:
        """Enumerated sites, given draws of the guide."""
        key = random_key(self.seed, seed)
        sites = self.choice.enumerated
        host = Predictive(self._evaluated_model, draws, params=self.params, infer_discrete=True, return_sites=sites)
        return host(key)

    @property
    def latents(self) -> Collection[str]:
        return self.choice.supports.keys()

    @property
    def has_model(self) -> bool:
        return True

    def draw_with_log_q(self, num_samples: int, seed: int) -> tuple[dict[str, jax.Array], np.ndarray]:
        """Draws of the guide, and its log density as of their vectors."""
        weighted = self.weigh(num_samples, seed)
        return weighted.draws, weighted.scores.log_q

    @property
    def words(self) -> dict[str, str]:
        """What guide it is, and versions."""
        return guide_words(self.guide, {"ppl_flows": ppl_flows, "numpyro": numpyro, "jax": jax})

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the model, by name."""
        return named_arguments(self.model, self.args, self.kwargs)

    @property
    def prior_source(self) -> PriorSource:
        """What a ``JointPrior`` can be made of."""
        guide: Any = self.guide
        own = None
        if hasattr(guide, "latent_sites") and not guide.informed and guide.num_modes == 1:
            trained = guide.get_transform(self.params)
            sites = [site.name for site in guide.latent_sites()]
            own = OwnFlow(sites, trained.bijection, map_params(lambda _, a: to_numpy(a), trained.params))
        return PriorSource(self.choice.supports, self.choice.priors, own, LANGUAGE)

    @property
    def _evaluated_model(self) -> EvaluationMode:
        return EvaluationMode(partial(self.model, *self.args, **self.kwargs))

    @property
    def _guide(self) -> partial[Any]:
        return partial(self.guide, *self.args, **self.kwargs)

    def _scored(self, n: int, seed: int, vectors: np.ndarray | None = None) -> Point:
        """So many draws, or what the guide makes of these vectors, in NumPy: chunk by chunk, as a rest of another size
        would be compiled again."""
        blocks = max(1, CHUNK // self.num_particles)
        size = blocks * self.num_particles
        chunks, key = [], random_key(self.seed, 1 + seed)  # 0 trains
        for first in range(0, n, size):
            rows = None
            if vectors is not None:
                rows = np.resize(vectors[first : first + size], (blocks, self.num_particles, vectors.shape[-1]))
                rows = rows.astype(jax.dtypes.canonicalize_dtype(float))
            chunk = self._score_chunk(key, np.int32(first // size), rows, self.params)
            chunks.append(jax.tree.map(lambda a: np.asarray(a).reshape(-1, *a.shape[2:]), chunk))
        point: Point = jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *chunks)
        return point

    @cached_property
    def _score_chunk(self) -> Program:
        def score_chunk(key: jax.Array, chunk: jax.Array, vectors: jax.Array | None, params: dict[str, Any]) -> Point:
            shape = max(1, CHUNK // self.num_particles), self.num_particles
            keys = jax.random.split(jax.random.fold_in(key, chunk), shape)
            score_all = jax.vmap(partial(self._score_one, params=params))
            divide = self.split.over_particles if self.split else lambda block: block
            return lax.map(lambda block: score_all(*divide(block)), (keys, vectors))

        return Program(score_chunk, calls=10, mesh=None if self.split is None else self.split.mesh)

    def _score_one(self, key: jax.Array, vector: jax.Array | None, params: dict[str, Any]) -> Point:
        marginal = TraceEnum_ELBO() if self.enumerates else None
        handled = EvaluationMode(self._guide), self._evaluated_model
        return score(*handled, key=key, vector=vector, params=params, supports=self.choice.supports, marginal=marginal)

    def __getstate__(self) -> dict[str, Any]:
        saved = {f.name: getattr(self, f.name) for f in fields(self)}  # programs do not pickle, nor do devices
        return saved | {"split": None}
