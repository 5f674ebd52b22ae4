"""``fit`` and ``fit_density``: stochastic variational inference and maximum likelihood with good defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer.importance import vectorized_importance_weights
from pyro.infer.util import is_validation_enabled
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import transform_to
from tqdm.auto import trange

from ppl_flows.core.base import Base
from ppl_flows.core.bijection import Bijection, Params
from ppl_flows.core.params import initial_params, is_stateful, map_params
from ppl_flows.diagnostics import pareto_khat
from ppl_flows.fit_result import MAX_SKIPPED, DensityFit, Elbo, FitError, FitResult, Training, learning_rate
from ppl_flows.hosting import SETTLE_ROWS, check_rows, check_steps, density_start, evaluation, some_rows
from ppl_flows.pyro.base import AnyBase, BaseDistribution
from ppl_flows.pyro.distribution import Flow, flow
from ppl_flows.pyro.params import stored_params, stored_state, to_tensor

EVALUATION_DRAWS, SINGLE_DRAWS = 4_000, 1_000  # of the final ELBO: vectorised, or one by one


def fit(
    model: Callable,
    guide: Callable,
    *args: Any,
    steps: int = 4_000,
    num_particles: int = 32,
    lr: float = 1e-2,
    clip: float = 10.0,
    vectorize_particles: bool = True,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> FitResult:
    """Trains a guide, and the parameters in the model, by SVI; then measures the fit from fresh draws.

    Adam with a short warm-up and a cosine schedule on the negative ELBO. The measure is of flows in evaluation mode,
    their running averages as the last steps left them. Training goes on from the parameters in
    Pyro's store, where there are any. Pyro's own ``SVI`` works on the same model and guide.

    Args:
        model, guide: any Pyro model, and ``AutoFlow`` or any other guide.
        *args, **kwargs: of the model and the guide.
        steps: optimiser steps.
        num_particles: draws per step.
        lr: largest learning rate.
        clip: bound on the norm of the whole gradient, in nats per parameter unit.
        vectorize_particles: all draws in one run of the model; False for models that cannot run under one more plate.
        seed: of all draws; torch's global generator is left as it was.
        progress: show a bar, in a terminal or notebook.

    Raises:
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
        ValueError: there is nothing to train, or steps or particles below 1.
    """
    model, guide = partial(model, *args, **kwargs), partial(guide, *args, **kwargs)
    vectorize_particles = vectorize_particles and num_particles > 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        elbo = Trace_ELBO(num_particles=num_particles, vectorize_particles=vectorize_particles)
        trained = _train(elbo, model, guide, steps=steps, lr=lr, clip=clip, progress=progress)
        subsampled = _subsamples(model, guide)
        # a vectorised model draws one minibatch for all its particles: where there is one, particles go one by one
        nesting = elbo.max_plate_nesting - 1 if vectorize_particles and not subsampled else None
        with evaluation():
            log_weights = _log_weights(model, guide, num_particles, nesting)
    estimate = Elbo(float(log_weights.mean()), float(log_weights.std(ddof=1) / len(log_weights) ** 0.5))
    khat = np.nan if subsampled else pareto_khat(log_weights)
    store = pyro.get_param_store()
    state = store.get_state()

    def draw(num_samples: int, seed: int) -> dict[str, torch.Tensor]:
        with _at(trained.params, state), torch.random.fork_rng(), torch.no_grad(), poutine.block():
            torch.manual_seed(seed)
            nodes = prune_subsample_sites(poutine.trace(guide).get_trace()).nodes
            latents = {n: s for n, s in nodes.items() if s["type"] == "sample" and not s["infer"].get("is_auxiliary")}
            predict = Predictive(guide, num_samples=num_samples, return_sites=[*latents], parallel=vectorize_particles)
            draws = predict()
            return {n: draws[n].reshape(num_samples, *site["value"].shape) for n, site in latents.items()}

    return FitResult(*trained, estimate, khat, draw)


def fit_density(
    bijection: Bijection,
    data: torch.Tensor,
    *,
    base: AnyBase = None,
    context: torch.Tensor | None = None,
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

    A model with one sub-sampled plate and an empty guide, trained as in ``fit``. Pyro's parameter store is left as it
    was.

    Args:
        bijection: from the base to the data; recipes that score in one pass (``pf.maf``, ``pf.nsf``) train fastest.
        data: ``(rows, *event)``, finite.
        base: distribution of x; one such as ``pf.StudentT(4)`` trains too. None: standard normal.
        context: ``(rows, context_dim)``, for a conditional bijection.
        steps, lr, clip, seed, progress: as in ``fit``.
        batch_size: rows per step.
        standardize: add a trainable location and scale per column on the data side, started at those of the data.
            None: where the bijection gives real vectors.
        levels: data are whole numbers 0, ..., levels - 1, such as the grey levels of images; the density is that of
            ``(data + noise) / levels``, with uniform noise from [0, 1), drawn anew in every step.

    Raises:
        ValueError: data of the wrong shape, or not finite.
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
    """
    data = torch.as_tensor(data).to(torch.get_default_dtype())
    context = None if context is None else torch.as_tensor(context).to(data)
    rows_of_data = data.detach().cpu().numpy()
    rows_of_context = None if context is None else context.detach().cpu().numpy()
    check_rows(bijection, rows_of_data, rows_of_context, levels)
    bijection, start = density_start(
        bijection, rows_of_data, rows_of_context, standardize=standardize, levels=levels, seed=seed
    )
    start = map_params(lambda _, a: to_tensor(a).to(data), start)
    base_params: Params | None = None
    if isinstance(base, Base):
        base_params = map_params(lambda _, a: to_tensor(a).to(data), initial_params(base, seed))
    n = len(data)

    def some(rows: torch.Tensor) -> torch.Tensor:
        """These rows of the data, dequantised."""
        return data[rows] if levels is None else (data[rows] + torch.rand_like(data[rows])) / levels

    def model() -> None:
        with pyro.plate("rows", n, subsample_size=min(batch_size, n)) as rows, poutine.scale(scale=1 / n):
            given = None if context is None else context[rows]
            density = flow(
                "density", bijection, params=start, base=base, base_params=base_params, context=given, training=True
            )
            pyro.sample("data", density, obs=some(rows))

    def guide() -> None:
        """Nothing is latent."""

    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(seed)
        trained = _train(Trace_ELBO(), model, guide, steps=steps, lr=lr, clip=clip, progress=progress)
        params = map_params(lambda _, a: a.detach().clone(), stored_params("density", start))
        if base_params is not None:
            base_params = map_params(lambda _, a: a.detach().clone(), stored_params("density_base", base_params))
        if is_stateful(bijection):
            rows = torch.as_tensor(some_rows(n, SETTLE_ROWS, seed))
            given = None if context is None else context[rows]
            params = dict(bijection.observe(params, some(rows), given, stage="settle")[0])
    if not isinstance(base, Base):
        return DensityFit(trained.losses, trained.skipped, bijection, params, Flow(bijection, params, base=base))
    made = Flow(bijection, params, base=BaseDistribution(base, base_params))
    return DensityFit(trained.losses, trained.skipped, bijection, params, made, base, base_params)


def _train(
    elbo: Trace_ELBO, model: Callable, guide: Callable, *, steps: int, lr: float, clip: float, progress: bool
) -> Training:
    check_steps(steps, elbo.num_particles)
    losses, skipped, bad = np.full(steps, np.nan), 0, 0
    optimiser: torch.optim.Optimizer | None = None
    validate = is_validation_enabled()
    with trange(steps, disable=None if progress else True, desc="fit") as bar:
        for step in bar:
            before = {name: value.clone() for name, value in stored_state().items()}
            # Pyro's checks in the first step only: they cost, and would end the fit at one draw that is not finite
            with pyro.validation_enabled(validate and step == 0), poutine.trace(param_only=True) as seen:
                losses[step] = elbo.loss_and_grads(model, guide)
            found = {site["value"].unconstrained(): name for name, site in seen.trace.nodes.items()}
            if optimiser is None:
                if not found:
                    raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
                # one optimiser for all parameters: Pyro's own wrappers make one per parameter, several times slower
                optimiser = torch.optim.Adam(found, lr=lr, betas=(0.9, 0.99))
                names = found
            elif new := found.keys() - names.keys():
                optimiser.add_param_group({"params": list(new)})
                names |= found
            norm = torch.nn.utils.clip_grad_norm_(names, clip)
            bad = 0 if np.isfinite(losses[step]) and torch.isfinite(norm) else bad + 1
            if bad >= MAX_SKIPPED:
                raise FitError(step + 1 - bad, losses[: step + 1], _values(names.values()))
            for group in optimiser.param_groups:
                group["lr"] = lr * learning_rate(step, steps, np)
            if bad:
                skipped += 1
                for name, value in before.items():
                    stored_state()[name].copy_(value)
            else:
                optimiser.step()
            optimiser.zero_grad()
            if step % 100 == 99:
                bar.set_postfix(loss=f"{np.median(losses[step - 99 : step + 1]):.3f}")
    return Training(losses, skipped, _values(names.values()))


def _values(names: Iterable[str]) -> dict[str, torch.Tensor]:
    store = pyro.get_param_store()
    weights = {name: store[name].detach().clone() for name in names}
    return weights | {name: value.clone() for name, value in stored_state().items()}


@contextmanager
def _at(params: dict[str, torch.Tensor], state: dict) -> Iterator[None]:
    """Pyro's store as it was, its tensors (which a guide may own) at these values for the moment."""
    with pyro.get_param_store().scope(state) as live, torch.no_grad():
        tensors = live["params"]
        now = {name: tensors[name].detach().clone() for name in params}
        constraints = live["constraints"]
        try:
            for name, value in params.items():
                tensors[name].copy_(transform_to(constraints[name]).inv(value))
            yield
        finally:
            for name, value in now.items():
                tensors[name].copy_(value)


def _subsamples(model: Callable, guide: Callable) -> bool:
    """Whether a plate of the model draws a minibatch."""
    with poutine.block():
        guide_trace = poutine.trace(guide).get_trace()
        trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace()
    frames = (frame for site in trace.nodes.values() for frame in site.get("cond_indep_stack", ()))
    return any(frame.full_size is not None and frame.full_size != frame.size for frame in frames)


@torch.no_grad()
def _log_weights(model: Callable, guide: Callable, num_particles: int, nesting: int | None) -> np.ndarray:
    """``log p(z, data) - log q(z)`` of draws from the guide, in nats; batches of the size that training had."""
    with poutine.block():
        if nesting is None:
            return -np.array([Trace_ELBO().loss(model, guide) for _ in range(SINGLE_DRAWS)])
        batches = [
            vectorized_importance_weights(model, guide, num_samples=num_particles, max_plate_nesting=nesting)[0]
            for _ in range(-(-EVALUATION_DRAWS // num_particles))
        ]
        return torch.cat(batches).double().cpu().numpy()
