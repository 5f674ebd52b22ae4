"""What ``fit`` measures a trained guide by: draws, and the log densities of model and guide there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions import Delta
from numpyro.distributions.transforms import biject_to
from numpyro.infer import TraceEnum_ELBO
from numpyro.infer.util import log_density
from numpyro.primitives import Messenger

from ppl_flows.inference.kl_estimate import Scores


class Point(NamedTuple):
    """A draw of a guide: its latent sites; its random numbers on the unconstrained scale, ``(dim,)``, None where these
    are no coordinates of the latents; and the log densities of model and guide, as of these numbers, in nats."""

    latents: dict[str, jax.Array]
    vector: jax.Array | None
    log_p: jax.Array
    log_q: jax.Array

    def scores(self) -> Scores:
        return Scores(*(np.asarray(a, dtype=np.float64) for a in (self.log_p, self.log_q)))


class Placement(Messenger):
    """Around a guide: its random sites take their unconstrained values from a vector, one after the other."""

    def __init__(self, fn: Callable[..., Any], vector: jax.Array, supports: dict[str, Any]) -> None:
        super().__init__(fn)
        self._rest, self._supports = vector, supports

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and is_random(msg):
            transform = biject_to(self._supports.get(msg["name"], msg["fn"].support))
            shape = transform.inverse_shape(msg["fn"].shape())
            size = int(np.prod(shape))
            msg["value"] = transform(self._rest[:size].reshape(shape))
            self._rest = self._rest[size:]


def score(
    guide: Callable[..., Any],
    model: Callable[..., Any],
    *,
    key: jax.Array,
    vector: jax.Array | None,
    params: dict[str, Any],
    supports: dict[str, Any],
    marginal: TraceEnum_ELBO | None,
) -> Point:
    """A run of the guide, or what it makes of a vector, scored.

    Args:
        supports: of the model's latent sites: the numbers of a guide that draws them itself are on these.
        marginal: sums over enumerated sites.
    """
    guide_key, model_key = jax.random.split(key)
    placed = guide if vector is None else Placement(guide, vector, supports)
    log_q, trace = log_density(handlers.seed(placed, guide_key), (), {}, params)
    latent = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
    if marginal:
        log_p = -marginal.loss(model_key, params, model, handlers.mask(handlers.replay(guide, trace), mask=False))
    else:
        log_p, _ = log_density(handlers.seed(handlers.replay(model, trace), model_key), (), {}, params)
    volume, parts, discrete = jnp.zeros(()), [], False
    for name, site in latent.items():
        fn, value = site["fn"], site["value"]
        if not is_random(site):
            volume -= jnp.sum(fn.log_prob(value))
        elif fn.is_discrete:
            discrete = True
        else:
            transform = biject_to(supports.get(name, fn.support))
            unconstrained = transform.inv(value)
            volume += jnp.sum(transform.log_abs_det_jacobian(unconstrained, value))
            parts.append(jnp.ravel(unconstrained))
            if vector is not None and name in supports:  # the hosts' densities are finite outside, too
                log_q = jnp.where(jnp.all(fn.support(value)), log_q, -jnp.inf)
    own = {n: s["value"] for n, s in latent.items() if not s["infer"].get("is_auxiliary")}
    # more numbers than those of the latents, as annealed guides draw, have other densities than theirs
    coordinates = not discrete and 0 < sum(map(jnp.size, parts)) <= sum(map(jnp.size, own.values()))
    return Point(own, jnp.concatenate(parts) if coordinates else None, log_p + volume, log_q + volume)


def is_random(site: dict[str, Any]) -> bool:
    """Whether a sample site is drawn, and not observed or a function of others."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return not (site["is_observed"] or isinstance(fn, Delta))
