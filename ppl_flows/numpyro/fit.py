"""``fit`` and ``fit_density``: stochastic variational inference and maximum likelihood with good defaults."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import lax
from numpyro import handlers
from numpyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.util import log_density

from ppl_flows.core.base import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import is_stateful, merge
from ppl_flows.fit_result import (
    DensityFit,
    FitResult,
    Weighed,
    judged,
)
from ppl_flows.guides import budget
from ppl_flows.hosting import (
    ESTIMATORS,
    SETTLE_ROWS,
    check_fit,
    check_rows,
    check_steps,
    density_start,
    evaluation,
    path_gradients,
    some_rows,
)
from ppl_flows.numpyro.base import AnyBase, BaseDistribution
from ppl_flows.numpyro.context import Context
from ppl_flows.numpyro.distribution import Flow, flow
from ppl_flows.numpyro.elbo import estimator_of
from ppl_flows.numpyro.training import train


def fit(
    model: Callable,
    guide: Callable,
    *args: Any,
    steps: int | None = None,
    num_particles: int | None = None,
    lr: float = 1e-2,
    clip: float = 10.0,
    estimator: str | None = None,
    anneal: float = 1.0,
    tolerance: float | None = 5e-4,
    draws: int = 10_000,
    init_params: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> FitResult:
    """Trains a guide, and the parameters in the model, by SVI; then measures the fit from fresh draws.

    Adam with a short warm-up and a cosine schedule on the negative ELBO, many steps per dispatch, the parameters
    averaged over the last twentieth of the steps. The measure is of flows in evaluation mode, their running averages
    as the last steps left them. NumPyro's own ``SVI`` works on the same model and guide.

    Discrete latents that the guide does not draw, and that the model marks ``infer={"enumerate": "parallel"}``, are
    summed over, in training as in the measure; NumPyro needs funsor for it.

    Args:
        model, guide: any NumPyro model, and ``AutoFlow`` or any other guide.
        *args, **kwargs: of the model and the guide.
        steps, num_particles: optimiser steps, and draws per step. None: what the guide's ``quality`` says, as in
            ``AutoFlow``; 2,000 steps of 64 for other guides.
        lr: largest learning rate.
        clip: bound on the norm of the whole gradient, in nats of the whole data per parameter unit; where
            that is large, scale model and guide by one over the number of rows.
        estimator: of the gradient. ``"path"``: flows of the guide score their draws with parameters, and a context,
            that pass no gradient, so that the noise dies out near the posterior; costs one inverse pass per step.
            ``"reparam"``: the ordinary reparameterised gradient, steadier far from the posterior. None: the first where
            the guide started near the posterior, the second where it did not.
        anneal: weight of the model's log density in the first step; it grows to 1 over the first half of the steps.
            Values such as 0.1 keep a guide from falling into one of several modes early.
        tolerance: in nats; the fit ends early when, from one twentieth of the steps to the next, the ELBO moved by less
            and the spread of the log weights puts ``KL(guide || posterior)`` below it. None: all steps are taken.
        draws: number of fresh draws that the fit is measured by.
        init_params: parameters to go on from, such as those of an earlier result; the others start as usual.
        seed: of all draws.
        progress: show a bar, in a terminal or notebook.

    Raises:
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
        ValueError: there is nothing to train, or an option is out of its range.
    """
    steps, num_particles = budget(guide, steps, num_particles)
    check_fit(steps, num_particles, estimator, anneal, tolerance, draws)
    bound_model, bound_guide = partial(model, *args, **kwargs), partial(guide, *args, **kwargs)
    train_key, weights_key = jax.random.split(jax.random.key(seed))

    def tempered(weight: jax.Array) -> Any:
        with handlers.scale(scale=weight):
            return bound_model()

    def on_path(weight: jax.Array) -> Any:
        with path_gradients(ESTIMATORS[estimator]):
            return bound_guide()

    elbo, subsampled = estimator_of(bound_model, bound_guide, num_particles, train_key, init_params or {})
    marginal = TraceEnum_ELBO() if isinstance(elbo, TraceEnum_ELBO) else None
    if marginal and anneal < 1:
        raise ValueError("anneal: NumPyro's sum over enumerated sites takes no weights; use anneal=1.0.")
    trained = train(
        train_key,
        elbo,
        (lambda _: bound_model()) if marginal else tempered,
        on_path,
        steps=steps,
        lr=lr,
        clip=clip,
        anneal=anneal,
        tolerance=tolerance,
        progress=progress,
        init_params=init_params,
    )
    params = trained.params

    def draw(num_samples: int, seed: int) -> dict[str, jax.Array]:
        key = jax.random.key(seed)
        if isinstance(guide, AutoGuide):
            return guide.sample_posterior(key, params, *args, sample_shape=(num_samples,), **kwargs)
        return Predictive(bound_guide, params=params, num_samples=num_samples)(key)

    @jax.jit
    def weigh_keys(keys: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        one = partial(_weighed, params=params, model=bound_model, guide=bound_guide, marginal=marginal)
        return lax.map(jax.vmap(one), keys)

    def weigh(num_samples: int, seed: int) -> Weighed:
        blocks = -(-num_samples // num_particles)  # whole ones, as a rest would be compiled a second time
        keys = jax.random.split(jax.random.fold_in(weights_key, seed), (blocks, num_particles))
        with evaluation():
            weighed = weigh_keys(keys)
        latents, log_weights = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:num_samples], weighed)
        return Weighed(latents, np.asarray(log_weights, dtype=np.float64))

    return judged(trained, draw, weigh, num_draws=draws, seed=seed, subsampled=subsampled)


def fit_density(
    bijection: Bijection,
    data: Any,
    *,
    base: AnyBase = None,
    context: Any = None,
    encoder: Callable | None = None,
    steps: int = 2_000,
    batch_size: int = 256,
    lr: float = 5e-3,
    clip: float = 10.0,
    standardize: bool | None = None,
    levels: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> DensityFit:
    """Fits ``p(data)``, or ``p(data | context)``, by maximum likelihood on minibatches.

    A model with one sub-sampled plate and an empty guide, trained as in ``fit``.

    Args:
        bijection: from the base to the data; recipes that score in one pass (``pf.maf``, ``pf.nsf``) train fastest.
        data: ``(rows, *event)``, finite.
        base: distribution of x; one such as ``pf.StudentT(4)`` trains too. None: standard normal.
        context: ``(rows, context_dim)``, for a conditional bijection; or what the encoder takes.
        encoder: network from rows of ``context``, an array or a dict of arrays, to ``(rows, context_dim)``: a function
            that takes its parameters from ``numpyro.param``, or from ``flax_module`` and its like. They train with the
            flow; the result's ``encoder`` has them, and takes the same rows.
        steps, lr, clip, seed, progress: as in ``fit``.
        batch_size: rows per step.
        standardize: add a trainable location and scale per column on the data side, started at those of the data.
            None: where the bijection gives real vectors.
        levels: data are whole numbers 0, ..., levels - 1, such as the grey levels of images; the density is that of
            ``(data + noise) / levels``, with uniform noise from [0, 1), drawn anew in every step.

    Raises:
        ValueError: data or contexts of the wrong shape, or not finite; an encoder that has nothing to train.
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
    """
    data = jnp.asarray(data, dtype=float)
    given = Context(context, encoder, seed)
    contexts = given.all_rows()
    rows_of_data, rows_of_context = np.asarray(data), None if contexts is None else np.asarray(contexts)
    check_rows(bijection, rows_of_data, rows_of_context, levels)
    bijection, start = density_start(
        bijection, rows_of_data, rows_of_context, standardize=standardize, levels=levels, seed=seed
    )
    n = len(data)

    def some(rows: jax.Array, key: jax.Array | None) -> jax.Array:
        """These rows of the data, dequantised."""
        if levels is None:
            return data[rows]
        return (data[rows] + jax.random.uniform(key, (len(rows), *data.shape[1:]))) / levels

    def model(_: jax.Array) -> None:
        with numpyro.plate("rows", n, subsample_size=min(batch_size, n)) as rows, handlers.scale(scale=1 / n):
            density = flow("density", bijection, params=start, base=base, context=given(rows), training=True)
            numpyro.sample("data", density, obs=some(rows, numpyro.prng_key()))

    def guide(_: jax.Array) -> None:
        """Nothing is latent."""

    check_steps(steps, 1)
    trained = train(
        jax.random.key(seed),
        Trace_ELBO(),
        model,
        guide,
        steps=steps,
        lr=lr,
        clip=clip,
        progress=progress,
        init_params=given.params,
    )
    params = trained.params["density"]
    if is_stateful(bijection):
        params = merge(params, trained.params["density$state"]["params"])
        rows = some_rows(n, SETTLE_ROWS, seed)
        settle = jax.jit(
            lambda *batch: bijection.observe(*batch, stage="settle")[0]
        )  # one program, not one per operation
        params = dict(settle(params, some(rows, jax.random.key(seed)), given(rows, trained.params)))
    ours = base if isinstance(base, Base) else None
    base_params = None if ours is None else trained.params["density_base"]
    made = Flow(bijection, params, base=base if ours is None else BaseDistribution(ours, base_params))
    encode = given.trained(trained.params)
    return DensityFit(trained.losses, trained.skipped, bijection, params, made, ours, base_params, encode)


def _weighed(
    key: jax.Array, *, params: dict[str, Any], model: Callable, guide: Callable, marginal: TraceEnum_ELBO | None
) -> tuple[dict[str, jax.Array], jax.Array]:
    """A draw of the guide's latent sites, and its ``log p(z, data) - log q(z)`` in nats.

    ``marginal`` sums over enumerated sites.
    """
    guide_key, model_key = jax.random.split(key)
    log_q, trace = log_density(handlers.seed(guide, guide_key), (), {}, params)
    if marginal:
        log_weight = -marginal.loss(model_key, params, model, handlers.replay(guide, trace))
    else:
        log_p, _ = log_density(handlers.seed(handlers.replay(model, trace), model_key), (), {}, params)
        log_weight = log_p - log_q
    latents = {
        name: site["value"]
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"] and not site["infer"].get("is_auxiliary")
    }
    return latents, log_weight
