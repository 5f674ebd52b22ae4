"""``MixtureFlow``: several flows under one density, as a guide of several modes has them; and the ELBO of each."""

from __future__ import annotations

import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from numpyro.infer import ELBO

from ppl_flows.core.types import Params
from ppl_flows.inference.cover_modes import Regions
from ppl_flows.inference.flow_checks import check_event
from ppl_flows.numpyro.distribution import Flow


class MixtureFlow(dist.Distribution):
    """The density ``sum_k weight_k q_k(y)`` of flows q_k.

    A draw is that of one component, and differentiable in its parameters, not in the weights: one forward pass of all
    flows. ``log_prob`` is one inverse pass of all.

    Args:
        components: a flow with batch shape ``(K,)``, over vectors.
        log_weights: ``(K,)``; made to sum to one.
        path_gradients: as of ``Flow``.
    """

    pytree_data_fields = ("components", "log_weights")
    pytree_aux_fields = ("path_gradients",)
    support = dist.constraints.real_vector

    def __init__(self, components: Flow, log_weights: Any, *, path_gradients: bool = False) -> None:
        self.components, self.log_weights = components, jnp.asarray(log_weights)
        self.path_gradients = path_gradients
        super().__init__((), components.event_shape, validate_args=False)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        which, draws = jax.random.split(key)
        k = jax.random.categorical(which, self.log_weights, shape=sample_shape)
        of_all = self.components.sample(draws, sample_shape)
        return jnp.take_along_axis(of_all, k[..., None, None], axis=-2)[..., 0, :]

    def component_log_probs(self, value: jax.Array) -> jax.Array:
        """Of each component, without its weight, ``(*batch, K)``."""
        rows = jnp.broadcast_to(value[..., None, :], (*value.shape[:-1], *self.components.batch_shape, value.shape[-1]))
        return self.components.log_prob(rows)

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        check_event(value, self.event_shape, jax.Array)
        if self.path_gradients:
            return self.detach().log_prob(value)
        log_weights = jax.nn.log_softmax(self.log_weights)
        return jax.nn.logsumexp(self.component_log_probs(value) + log_weights, axis=-1)

    def detach(self) -> MixtureFlow:
        """The same distribution with parameters that pass no gradient."""
        fixed = jax.tree.map(lax.stop_gradient, self)
        fixed.path_gradients = False
        return fixed

    def with_path_gradients(self) -> MixtureFlow:
        """The same distribution, with ``path_gradients``."""
        new = copy.copy(self)
        new.path_gradients = True
        return new

    def in_evaluation_mode(self) -> MixtureFlow:
        """The same distribution, whose ``log_prob`` is no training pass."""
        new = copy.copy(self)
        new.components = self.components.in_evaluation_mode()
        return new

    def __repr__(self) -> str:
        return f"MixtureFlow({len(self.log_weights)} of {self.components})"


class RegionFlow(dist.Distribution):
    """One flow of a mixture while it is trained by itself: its score lacks the log of its share of each draw.

    An ELBO then is that of its part of the posterior.

    Args:
        flow: it, over vectors.
        regions: of all flows.
        component: which one it is.
    """

    pytree_data_fields = ("flow", "component")
    pytree_aux_fields = ("regions",)
    support = dist.constraints.real_vector

    def __init__(self, flow: Flow, regions: Regions, component: jax.Array) -> None:
        self.flow, self.regions, self.component = flow, regions, component
        super().__init__((), flow.event_shape, validate_args=False)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return self.flow.sample(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        means, whiten, constants = self.regions
        z = jnp.einsum("kij,...kj->...ki", whiten, value[..., None, :] - means)
        shares = jax.nn.log_softmax(constants - (z**2).sum(-1) / 2, axis=-1)
        return self.flow.log_prob(value) - jnp.take(shares, self.component, axis=-1)

    def with_path_gradients(self) -> RegionFlow:
        """The same, with a flow that has ``path_gradients``."""
        return RegionFlow(self.flow.with_path_gradients(), self.regions, self.component)

    def in_evaluation_mode(self) -> RegionFlow:
        """The same, with a flow whose ``log_prob`` is no training pass."""
        return RegionFlow(self.flow.in_evaluation_mode(), self.regions, self.component)


class ComponentsELBO(ELBO):
    """The mean of the ELBOs of the components of a guide, each by itself, in one vectorised program.

    Args:
        inner: of one of them, with its particles.
        name: of the guide's parameters, every array of which has the components in front.
        guide: that has them, and is told which one it is.
    """

    def __init__(self, inner: Any, name: str, guide: Any) -> None:
        super().__init__(num_particles=inner.num_particles * guide.num_modes)
        self.inner, self._name, self._guide = inner, name, guide
        self.can_infer_discrete = inner.can_infer_discrete

    def loss_with_mutable_state(
        self, rng_key: Any, param_map: dict[str, Any], model: Any, guide: Any, *args: Any, **kwargs: Any
    ) -> Any:
        def one(key: jax.Array, params: Any, component: jax.Array) -> Any:
            with self._guide.as_component(component):
                return self.inner.loss(key, {**param_map, self._name: params}, model, guide, *args, **kwargs)

        count = self._guide.num_modes
        keys = jax.random.split(rng_key, count)
        losses = jax.vmap(one)(keys, param_map[self._name], jnp.arange(count))
        return {"loss": jnp.mean(losses), "mutable_state": None}


def one_of(params: Params) -> bool:
    """Whether parameters of a guide with several modes are those of one component, as ``ComponentsELBO`` has them."""
    return bool(jnp.ndim(params["state"]["log_weights"]) == 0)
