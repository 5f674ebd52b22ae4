"""The posterior in the base spaces of an ``AutoFlow``."""

from __future__ import annotations

from functools import partial
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
from ppl_flows.numpyro.log_density import CALLS, POINTS_PER_CALL, blocks_of_rows

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
        log_weights = np.asarray(self._components(fitted.params).log_weights, dtype=np.float64)
        self.shares = np.exp(log_weights - np.logaddexp.reduce(log_weights))
        with_gradient = jax.vmap(jax.value_and_grad(self.log_weight), (0, 0, None))
        self._weights = Program(with_gradient, CALLS)
        self._forward = Program(jax.vmap(lambda *at: self.to_latent(*at)[0], (0, 0, None)), calls=10)
        self._inverse = Program(jax.vmap(self.in_all_at, (0, 0, None)), CALLS)

    def _components(self, params: Any) -> Any:
        return self._fitted.guide.components(params, *self._fitted.args, **self._fitted.kwargs)

    def to_latent(self, z: jax.Array, flow: jax.Array | int, params: Any) -> tuple[jax.Array, jax.Array]:
        """The latent vector, ``(dim,)``, of a point of the base space of that flow, and the log det."""
        flows = self._components(params)
        moved: tuple[jax.Array, jax.Array] = flows.bijection.forward(jax.tree.map(lambda a: a[flow], flows.params), z)
        return moved

    def log_weight(self, z: jax.Array, flow: jax.Array | int, params: Any) -> jax.Array:
        """log of posterior over guide, up to the log evidence, in nats."""
        fitted = self._fitted
        vector, log_det = self.to_latent(z, flow, params)
        point = score(
            EvaluationMode(AtLatents(fitted._guide, f"_{fitted.guide.prefix}_latent", vector)),
            fitted._evaluated_model,
            key=random_key(fitted.seed),
            vector=None,
            params=params,
            supports=fitted.choice.supports,
            marginal=TraceEnum_ELBO() if fitted.enumerates else None,
        )
        if len(self.shares) > 1:
            return point.log_p - jax.nn.logsumexp(self._log_densities(vector, params)[1])
        return point.log_p + log_det - _log_normal(z)

    def _log_densities(self, vector: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        """The points of all base spaces that become this latent vector, ``(flows, dim)``, and the log densities of the
        flows there, with their shares, ``(flows,)``."""
        flows = self._components(params)
        z, log_det = jax.vmap(partial(flows.bijection.inverse), (0, None))(flows.params, vector)
        return z, _log_normal(z) + log_det + jax.nn.log_softmax(flows.log_weights)

    def in_all_at(self, z: jax.Array, flow: jax.Array | int, params: Any) -> tuple[jax.Array, jax.Array]:
        """As ``in_all_flows``, of one point."""
        return self._log_densities(self.to_latent(z, flow, params)[0], params)

    def weigh(self, z: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_weights, gradients = self._run(self._weights, POINTS_PER_CALL, z, flow)
        return log_weights, gradients

    def to_latents(self, z: np.ndarray, flow: np.ndarray) -> np.ndarray:
        (vectors,) = self._run(lambda *at: (self._forward(*at),), ROWS, z, flow)
        return vectors

    def in_all_flows(self, z: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        points, log_densities = self._run(self._inverse, POINTS_PER_CALL, z, flow)
        return points, log_densities

    def _run(self, program: Any, rows: int, z: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, ...]:
        blocks = zip(blocks_of_rows(z.astype(self.dtype), rows), blocks_of_rows(flow, rows), strict=True)
        made = [program(*block, self._fitted.params) for block in blocks]
        return tuple(np.concatenate(arrays)[: len(z)].astype(np.float64) for arrays in zip(*made, strict=True))


def _log_normal(z: jax.Array) -> jax.Array:
    return jnp.sum(dist.Normal(0.0, 1.0).log_prob(z), axis=-1)
