"""The training of a density, for ``fit_density`` and ``fit_amortized``."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import Trace_ELBO

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import is_stateful
from ppl_flows.core.params import merge
from ppl_flows.core.types import Params
from ppl_flows.inference.checkpoint import name_of
from ppl_flows.inference.density import SETTLE_ROWS, check_density, check_read, check_rows, random_rows, split_rows
from ppl_flows.inference.density_hooks import PLAIN, DensityHooks, first_params
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.open_rows import open_rows
from ppl_flows.inference.row_source import Reading
from ppl_flows.inference.schedule import BestParams, block_watcher
from ppl_flows.inference.validation import step_sizes
from ppl_flows.numpyro.base_distribution import AnyBase, BaseDistribution
from ppl_flows.numpyro.checkpoint import like, open_checkpoint
from ppl_flows.numpyro.context import Context, to_arrays
from ppl_flows.numpyro.density_files import draw_rows, save_density
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.flow_sites import flow
from ppl_flows.numpyro.held_rows import mean_loss, mean_loss_read
from ppl_flows.numpyro.mesh import Split, automatic, is_first, jitted, on_host
from ppl_flows.numpyro.training import train


def train_density(
    bijection: Bijection,
    data: Any,
    *,
    base: AnyBase,
    context: Any,
    encoder: Callable[..., Any] | None,
    steps: int,
    batch_size: int,
    lr: float | None,
    clip: float | None,
    optimizer: Any,
    standardize: bool | None,
    levels: int | None,
    validation: float,
    callback: Callable[[int, float, Params], Any] | None,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: float,
    mesh: Any,
    seed: int,
    progress: bool,
    hooks: DensityHooks = PLAIN,
) -> DensityFit:
    """As ``fit_density``, whose arguments and errors these are."""
    lr, clip = step_sizes(optimizer, lr, clip, default_lr=5e-3)
    options = {"steps": steps, "batch_size": batch_size, "levels": levels, "validation": validation, "seed": seed}
    check_density(bijection, base, dist.Distribution, callback=callback, **options)
    source, data, context = open_rows(
        data,
        context,
        Reading(
            steps,
            batch_size,
            validation,
            seed,
            check=partial(check_read, bijection, levels, encoder is not None),
            dtype=jnp.zeros(()).dtype,
            random_numbers=nullcontext,
        ),
    )
    split, data, given, all_data, all_context = _rows(data, context, encoder, mesh, seed)
    check_rows(bijection, all_data, all_context, levels)
    saved = open_checkpoint(
        checkpoint,
        checkpoint_every,
        options={
            "steps": steps,
            "batch_size": batch_size,
            "optimizer": optimizer and name_of(optimizer),
            "lr": lr,
            "clip": clip,
            "standardize": standardize,
            "levels": levels,
            "validation": validation,
            "seed": seed,
            **({} if hooks.patience is None else {"patience": hooks.patience}),
        },
        arguments=((), {"data": all_data, "context": context} | ({} if source is None else {"rows": source.rows})),
        bijection=repr(bijection),
        base=repr(base) if isinstance(base, Base) else base,
        encoder=encoder,
    )
    trained_on, held_rows = split_rows(len(all_data), validation if source is None else 0.0, seed)
    start_rows = all_data[trained_on], None if all_context is None else all_context[trained_on]
    bijection, start = first_params(hooks, bijection, *start_rows, standardize=standardize, levels=levels, seed=seed)
    train_rows = jnp.asarray(trained_on)
    in_plate = train_rows if source is None else jnp.arange(source.batch_size)
    n = len(in_plate)
    program = partial(jitted, split=split)

    def dequantised(values: jax.Array, key: Any) -> jax.Array:
        values = values if levels is None else (values + jax.random.uniform(key, values.shape)) / levels
        return split.over_rows(values) if split else values

    def model(_: jax.Array, of_step: tuple[jax.Array, Any] | None = None) -> None:
        new = of_step if hooks.fresh is None else hooks.fresh(min(batch_size, n), numpyro.prng_key())
        with numpyro.plate("rows", n, subsample_size=min(batch_size, n)) as i, handlers.scale(scale=1 / n):
            rows, contexts = _batch(
                hooks, given, data, dequantised, in_plate[i], split.over_rows(new) if split else new
            )
            density = flow("density", bijection, params=start, base=base, context=contexts, training=True)
            numpyro.sample("data", density, obs=rows)

    def guide(*_: Any) -> None:
        """Nothing is latent."""

    @program  # one, not one per operation
    def settle(values: dict[str, Any]) -> Params:
        params = merge(values["density"], values["density$state"]["params"])
        rows = train_rows[random_rows(len(train_rows), SETTLE_ROWS, seed)]
        settled = dequantised(data[rows], jax.random.key(seed)), given(rows, values)
        return dict(bijection.observe(params, *settled, stage="settle")[0])

    def trained_params(values: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
        """The bijection's parameters, with running averages settled, and those of encoder and base."""
        others = {n: values[n] for n in (*given.params, *(["density_base"] if isinstance(base, Base) else []))}
        return settle(values) if is_stateful(bijection) else values["density"], others

    def fitted_flow(params: Params, values: dict[str, Any], context: jax.Array | None = None) -> Flow:
        of_x = BaseDistribution(base, values["density_base"]) if isinstance(base, Base) else base
        return Flow(bijection, params, base=of_x, context=context)

    def log_prob(trained: tuple[Params, dict[str, Any]], rows: jax.Array, of_rows: Any, key: Any) -> jax.Array:
        params, values = trained
        return fitted_flow(params, values, given.of(of_rows, values)).log_prob(dequantised(rows, key))

    held = mean_loss(log_prob, program, data, given, held_rows, batch_size, seed)
    validation_loss = held if source is None else mean_loss_read(log_prob, program, source, seed)

    def best_params(leaves: list[np.ndarray], values: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
        """From a checkpoint."""
        like_these, structure = jax.tree.flatten(trained_params(values))
        restored: tuple[Params, dict[str, Any]] = jax.tree.unflatten(structure, like(like_these, leaves))
        return restored

    first = None if hooks.start is None else (jax.tree.map(lambda a: jnp.asarray(a, data.dtype), start), given.params)
    best = BestParams(validation_loss, pack=jax.tree.leaves, unpack=best_params, first=first)
    trained = train(
        jax.random.key(seed),
        Trace_ELBO(),
        model,
        guide,
        steps=steps,
        lr=lr,
        clip=clip,
        optimizer=optimizer,
        progress=progress and is_first(split),
        split=split,
        init_params=given.params,
        watch=block_watcher(
            trained_params, best if len(held_rows) or (source and source.held) else None, callback, hooks.patience
        ),
        checkpoint=saved and saved.keep({"best": best} | ({} if source is None else {"rows": source})),
        source=source,
    )
    params, values = best.params or trained_params(trained.params)
    return DensityFit(
        trained.losses,
        trained.skipped,
        bijection,
        params,
        fitted_flow(params, values),
        base if isinstance(base, Base) else None,
        values["density_base"] if isinstance(base, Base) else None,
        given.trained(values),
        np.array(best.losses) if best.losses else None,
        trained.interrupted,
        draw_rows,
        save_density if base is None or isinstance(base, Base) else None,
    )


def _rows(
    data: Any, context: Any, encoder: Callable[..., Any] | None, mesh: Any, seed: int
) -> tuple[Split | None, Any, Context, np.ndarray, np.ndarray | None]:
    """How to divide them, data and contexts on their devices, and all of them in NumPy."""
    data, context = automatic((data, context))
    split = Split.of_density(mesh, (data, context))
    data, given = to_arrays(data, "data", split), Context(context, encoder, seed, split)
    contexts = given.all_rows()
    whole = on_host(data), None if contexts is None else on_host(contexts)
    return split, split.place(data) if split else data, given.place(), *whole


def _batch(
    hooks: DensityHooks,
    given: Context,
    data: jax.Array,
    dequantised: Callable[[jax.Array, Any], jax.Array],
    rows: jax.Array,
    new: tuple[jax.Array, Any] | None,
) -> tuple[jax.Array, Any]:
    """What a step takes, and its contexts: these rows, or those that are new."""
    key = numpyro.prng_key()
    taken = dequantised(data[rows] if new is None else new[0], key)
    contexts = given(rows) if new is None else given.of(new[1])
    if hooks.vary is not None:
        contexts = hooks.vary(contexts, jax.random.uniform(numpyro.prng_key(), (len(rows),)))
    return taken, contexts
