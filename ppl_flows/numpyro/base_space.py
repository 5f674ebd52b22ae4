"""The posterior in the base space of an ``AutoFlow``."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.infer import TraceEnum_ELBO
from numpyro.primitives import Messenger

from ppl_flows.inference.flow_chains import coordinate_names
from ppl_flows.numpyro.compile_once import Program, random_key
from ppl_flows.numpyro.flow_handlers import EvaluationMode
from ppl_flows.numpyro.importance import score
from ppl_flows.numpyro.log_density import LogDensity, blocks_of_rows

ROWS = 256  # that are moved to the latent space at once


class AtLatents(Messenger):
    """Around an ``AutoFlow``: its latent vector is this one, and is not scored."""

    def __init__(self, fn: Any, site: str, vector: jax.Array) -> None:
        super().__init__(fn)
        self._site, self._vector = site, vector

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] == self._site:
            msg["fn"], msg["value"] = dist.Delta(self._vector, event_dim=1), self._vector


class GuideSpace:
    """``BaseSpace`` of a ``FittedGuide`` whose guide is an ``AutoFlow``."""

    def __init__(self, fitted: Any) -> None:
        self._fitted, guide = fitted, fitted.guide
        self.dtype = guide._init_latent.dtype
        self.coordinates = coordinate_names({n: jnp.shape(u) for n, u in guide._init_locs.items()})
        self.shares = np.ones(1)
        self._density = LogDensity(self.log_weight, self.dtype, fitted.params)
        self._forward = Program(jax.vmap(lambda z, params: self.to_latent(z, params)[0], (0, None)), calls=10)

    def to_latent(self, z: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        """The latent vector, ``(dim,)``, and the log det."""
        transform = self._fitted.guide.get_transform(params, *self._fitted.args, **self._fitted.kwargs)
        moved: tuple[jax.Array, jax.Array] = transform.call_with_intermediates(z)
        return moved

    def log_weight(self, z: jax.Array, params: Any) -> jax.Array:
        """log of posterior over guide, up to the log evidence, in nats."""
        fitted = self._fitted
        vector, log_det = self.to_latent(z, params)
        guide = AtLatents(fitted._guide, f"_{fitted.guide.prefix}_latent", vector)
        point = score(
            EvaluationMode(guide),
            fitted._evaluated_model,
            key=random_key(fitted.seed),
            vector=None,
            params=params,
            supports=fitted.choice.supports,
            marginal=TraceEnum_ELBO() if fitted.enumerates else None,
        )
        return point.log_p + log_det - jnp.sum(dist.Normal(0.0, 1.0).log_prob(z))

    def weigh(self, z: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._density.value_and_gradient(z)

    def to_latents(self, z: np.ndarray, flow: np.ndarray) -> np.ndarray:
        blocks = [self._forward(block.astype(self.dtype), self._fitted.params) for block in blocks_of_rows(z, ROWS)]
        return np.concatenate(blocks)[: len(z)].astype(np.float64)

    def change_flow(
        self, z: np.ndarray, flow: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        return z, flow
