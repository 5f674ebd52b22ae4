"""``FlowKernel``: the moves of ``result.exact`` as a kernel of NumPyro's ``MCMC``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from ppl_flows.inference.exact import PILOTS
from ppl_flows.inference.flow_moves import (
    FIRST_ANGLE,
    INDEPENDENT,
    LEAST_ANGLE,
    QUARTER,
    SHORT,
    SHORTER,
    TARGET,
    log_acceptance,
    set_out,
)
from ppl_flows.inference.kernel_arguments import FittedModel, trained_guide
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.results import FitResult
from ppl_flows.numpyro.base_space import GuideSpace
from ppl_flows.numpyro.compile_once import Program


class FlowKernelState(NamedTuple):
    """Of a chain.

    Attributes:
        i: moves so far.
        latent: the latent vector, ``(dim,)``.
        flow: number of the guide's flow in whose base space the chain is, and ``z`` the point there, ``(dim,)``.
        log_weight: log of posterior over guide there, in nats, up to the log evidence; ``gradient`` is its own.
        angle: of the moves.
        accept_prob: of the last move, and ``mean_accept_prob`` since the warm-up began or ended.
        rng_key: of the next move.
    """

    i: jax.Array
    latent: jax.Array
    flow: jax.Array
    z: jax.Array
    log_weight: jax.Array
    gradient: jax.Array
    angle: jax.Array
    accept_prob: jax.Array
    mean_accept_prob: jax.Array
    rng_key: jax.Array


class FlowKernel(MCMCKernel):
    """Moves in the base space of a fitted flow: its draws as proposals, and circles that gradients bend.

    Each chain starts at one of 32 draws of the guide, taken by their weights; the warm-up adapts the angle of the
    moves. A move costs one gradient. The host's ``MCMC`` judges the chains as it does all others: ``result.exact`` also
    looks for what the guide lacks.

    Args:
        result: of ``fit`` with an ``AutoFlow``.

    Raises:
        TypeError: the result is none of ``fit``, or its guide is no ``AutoFlow``.
        ValueError: a plate was sub-sampled; at the start: arguments of the model that are not those of the fit.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from numpyro.infer import MCMC
        >>> from ppl_flows.numpyro import AutoFlow, FlowKernel, fit
        >>> model = lambda: numpyro.sample("z", dist.Normal(0.0, 1.0))
        >>> result = fit(model, AutoFlow(model, pf.TriangularAffine), steps=2, draws=100, progress=False)
        >>> mcmc = MCMC(FlowKernel(result), num_warmup=5, num_samples=5, progress_bar=False)
        >>> mcmc.run(jax.random.key(0)); mcmc.get_samples()["z"].shape
        (5,)
    """

    sample_field = "latent"

    def __init__(self, result: FitResult) -> None:
        self._fitted = trained_guide(result)
        self.model = FittedModel(self._fitted.model, self._fitted.args, self._fitted.kwargs)
        self._space = GuideSpace(self._fitted)
        self._log_shares = np.log(self._space.shares)
        self._num_warmup = 0

    @one_at_a_time
    def init(
        self, rng_key: jax.Array, num_warmup: int, init_params: Any, model_args: tuple[Any, ...], model_kwargs: Any
    ) -> FlowKernelState:
        """Starts a chain, or one for each of several keys.

        Args:
            rng_key: a key, or several.
            num_warmup: moves that adapt the angle.
            init_params: None.
            model_args, model_kwargs: none, or those of the fit.

        Raises:
            ValueError: others; ``init_params`` are given.
        """
        self.model.check(model_args, model_kwargs)
        if init_params is not None:
            raise ValueError("FlowKernel starts at draws of its guide; leave out init_params.")
        self._num_warmup = num_warmup
        with numpyro.validation_enabled(False):
            start = self._start if is_prng_key(rng_key) else jax.vmap(self._start)
            state: FlowKernelState = Program(start)(rng_key)
        return state

    def _start(self, rng_key: jax.Array) -> FlowKernelState:
        rng_key, of_flows, of_draws, of_choice = jax.random.split(rng_key, 4)
        flows = jax.random.categorical(of_flows, self._log_shares, shape=(PILOTS,))
        z = jax.random.normal(of_draws, (PILOTS, len(self._space.coordinates)), self._space.dtype)
        log_weights, gradients = jax.vmap(self._weigh)(z, flows)
        first, zero = jax.random.categorical(of_choice, log_weights), jnp.zeros((), z.dtype)
        return FlowKernelState(
            jnp.zeros((), int),
            self._to_latent(z[first], flows[first]),
            flows[first],
            z[first],
            log_weights[first],
            gradients[first],
            zero + FIRST_ANGLE,
            zero,
            zero,
            rng_key,
        )

    @one_at_a_time
    def sample(self, state: FlowKernelState, model_args: tuple[Any, ...], model_kwargs: Any) -> FlowKernelState:
        """The ``state`` after one move of each chain; ``model_args`` and ``model_kwargs`` are those of the fit."""
        with numpyro.validation_enabled(False):
            moved: FlowKernelState = self._move(state) if state.z.ndim == 1 else jax.vmap(self._move)(state)
        return moved

    def _move(self, state: FlowKernelState) -> FlowKernelState:
        rng_key, of_kind, of_flow, of_momentum, of_choice, of_change = jax.random.split(state.rng_key, 6)
        u_independent, u_short = jax.random.uniform(of_kind, (2,), state.z.dtype)
        independent = u_independent < INDEPENDENT
        short = ~independent & (u_short < SHORT)
        angle = jnp.where(independent, QUARTER, jnp.where(short, state.angle / SHORTER, state.angle))
        kick = jnp.where(independent, 0.0, angle / 2)
        flow = jnp.where(independent, jax.random.categorical(of_flow, self._log_shares), state.flow)
        momentum = jax.random.normal(of_momentum, state.z.shape, state.z.dtype)
        moving = set_out(state.z, state.gradient, momentum, angle, kick)
        log_weight, gradient = self._weigh(moving.z, flow)
        ratio = log_acceptance(moving, state.log_weight, log_weight, gradient)
        rate = jnp.exp(jnp.minimum(jnp.where(jnp.isnan(ratio), -jnp.inf, ratio), 0.0))
        taken = jax.random.uniform(of_choice, (), state.z.dtype) < rate
        new = flow, moving.z, log_weight, gradient
        now = state.flow, state.z, state.log_weight, state.gradient
        flow, z, log_weight, gradient = jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, now)
        if len(self._space.shares) > 1:
            flow, z, log_weight, gradient = self._change_flow(of_change, flow, z)
        i = state.i + 1
        adapted = state.angle * jnp.exp((rate - TARGET) / i**0.5)
        adapts = (state.i < self._num_warmup) & ~independent & ~short
        counted = jnp.where(i > self._num_warmup, i - self._num_warmup, i)
        return FlowKernelState(
            i,
            self._to_latent(z, flow),
            flow,
            z,
            log_weight,
            gradient,
            jnp.where(adapts, jnp.clip(adapted, LEAST_ANGLE, QUARTER), state.angle),
            rate,
            state.mean_accept_prob + (rate - state.mean_accept_prob) / counted,
            rng_key,
        )

    def _change_flow(
        self, key: jax.Array, flow: jax.Array, z: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """To the same latent vector, in the base space of a flow drawn by the density that each has there."""
        points, log_densities = self._space.in_all_at(z, flow, self._fitted.params)
        new = jax.random.categorical(key, log_densities)
        return new, points[new], *self._weigh(points[new], new)

    def _weigh(self, z: jax.Array, flow: jax.Array) -> tuple[jax.Array, jax.Array]:
        """No density: minus infinity, where a move is refused."""
        log_weight, gradient = jax.value_and_grad(self._space.log_weight)(z, flow, self._fitted.params)
        fine = jnp.isfinite(log_weight) & jnp.isfinite(gradient).all()
        return jnp.where(fine, log_weight, -jnp.inf), jnp.where(fine, gradient, 0.0)

    def _to_latent(self, z: jax.Array, flow: jax.Array) -> jax.Array:
        return self._space.to_latent(z, flow, self._fitted.params)[0]

    def postprocess_fn(self, model_args: tuple[Any, ...], model_kwargs: Any) -> Callable[[jax.Array], dict[str, Any]]:
        """From latent vectors to sites, deterministic ones too; ``model_args`` and ``model_kwargs`` are the fit's."""
        guide, params = self._fitted.guide, self._fitted.params

        def postprocess(latent: jax.Array) -> dict[str, Any]:
            sites: dict[str, Any] = guide._unpack_and_constrain(latent, params)
            return sites

        return postprocess

    def get_diagnostics_str(self, state: FlowKernelState) -> str:
        return f"angle {state.angle:.2e}, acc. prob={state.mean_accept_prob:.2f}"
