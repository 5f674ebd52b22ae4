"""``fit_density``: maximum likelihood with good defaults."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro import handlers
from numpyro.infer import Trace_ELBO

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import is_stateful
from ppl_flows.core.params import merge
from ppl_flows.core.types import Params
from ppl_flows.inference.checkpoint import name_of
from ppl_flows.inference.density import SETTLE_ROWS, check_density, check_rows, density_start, random_rows, split_rows
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.schedule import BestParams, block_watcher
from ppl_flows.inference.validation import step_sizes
from ppl_flows.numpyro.base_distribution import AnyBase, BaseDistribution
from ppl_flows.numpyro.checkpoint import like, open_checkpoint
from ppl_flows.numpyro.context import Context, to_arrays
from ppl_flows.numpyro.density_files import draw_rows, save_density
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.flow_sites import flow
from ppl_flows.numpyro.training import train


@one_at_a_time
def fit_density(
    bijection: Bijection,
    data: Any,
    *,
    base: AnyBase = None,
    context: Any = None,
    encoder: Callable[..., Any] | None = None,
    steps: int = 2_000,
    batch_size: int = 256,
    lr: float | None = None,
    clip: float | None = None,
    optimizer: Any = None,
    standardize: bool | None = None,
    levels: int | None = None,
    validation: float = 0.0,
    callback: Callable[[int, float, Params], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    seed: int = 0,
    progress: bool = True,
) -> DensityFit:
    """Fits ``p(data)``, or ``p(data | context)``, by maximum likelihood on minibatches.

    A model with one sub-sampled plate and an empty guide, trained as in ``fit``.

    Args:
        bijection: from the base to the data; recipes that score in one pass (``pf.maf``, ``pf.nsf``) train fastest.
        data: ``(rows, *event)``, finite: an array of any kind, a list or a table. Whatever its dtype, the density is
            fitted in JAX's default one.
        base: distribution of x; one such as ``pf.StudentT(4)`` trains too. None: standard normal.
        context: ``(rows, context_dim)``, for a conditional bijection; or what the encoder takes.
        encoder: network from rows of ``context``, an array or a dict of arrays, to ``(rows, context_dim)``: a function
            that takes its parameters from ``numpyro.param``, or from ``flax_module`` and its like. They train with the
            flow; the result's ``encoder`` has them, and takes the same rows.
        steps, optimizer, seed, progress: as in ``fit``.
        lr, clip: likewise. None: 0.005, and 10.
        batch_size: rows per step.
        standardize: add a trainable location and scale per column on the data side, started at those of the data.
            None: where the bijection gives real vectors.
        levels: data are whole numbers 0, ..., levels - 1, such as the grey levels of images; the density is that of
            ``(data + noise) / levels``, with uniform noise from [0, 1), drawn anew in every step.
        validation: share of the rows, drawn with ``seed``, that are held out. The parameters returned are then those,
            averaged over a twentieth of the steps, which score best on them: a remedy for flows that overfit small
            tables. 0: the last ones, trained on all rows.
        callback: as in ``fit``; its params are those of the bijection, as in the result.
        checkpoint, checkpoint_every: as in ``fit``; data are compared by their values, an encoder by its class.

    Returns:
        A ``DensityFit``: the trained bijection, the distribution ``flow``, and the losses in nats per row.

    Raises:
        ValueError: data or contexts of the wrong shape, or not finite; a column to standardise that is constant; an
            encoder that has nothing to train;
            a share that leaves no rows; an optimiser and ``lr`` or ``clip``.
        TypeError: no bijection, or data that are no numbers.
        FileFormatError: a ValueError; the checkpoint is a file of another kind, or damaged.
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> from ppl_flows.numpyro import fit_density
        >>> data = np.random.default_rng(0).normal(size=(100, 2))
        >>> result = fit_density(pf.TriangularAffine(2), data, steps=2, progress=False)
        >>> result.losses.shape
        (2,)
        >>> result.flow.log_prob(data).shape
        (100,)
    """
    lr, clip = step_sizes(optimizer, lr, clip, default_lr=5e-3)
    options = {"steps": steps, "batch_size": batch_size, "levels": levels, "validation": validation, "seed": seed}
    check_density(bijection, base, dist.Distribution, **options)
    data = to_arrays(data, "data")
    given = Context(context, encoder, seed)
    contexts = given.all_rows()
    all_data, all_context = np.asarray(data), None if contexts is None else np.asarray(contexts)
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
        },
        arguments=((), {"data": data, "context": context}),
        bijection=repr(bijection),
        base=repr(base) if isinstance(base, Base) else base,
        encoder=encoder,
    )
    trained_on, held_rows = split_rows(len(data), validation, seed)
    bijection, start = density_start(
        bijection,
        all_data[trained_on],
        None if all_context is None else all_context[trained_on],
        standardize=standardize,
        levels=levels,
        seed=seed,
    )
    n = len(trained_on)
    train_rows = jnp.asarray(trained_on)

    def rows_of_data(rows: jax.Array, key: Any) -> jax.Array:
        """These rows of the data, dequantised."""
        if levels is None:
            return data[rows]
        return (data[rows] + jax.random.uniform(key, (len(rows), *data.shape[1:]))) / levels

    def model(_: jax.Array) -> None:
        with numpyro.plate("rows", n, subsample_size=min(batch_size, n)) as i, handlers.scale(scale=1 / n):
            rows = train_rows[i]
            density = flow("density", bijection, params=start, base=base, context=given(rows), training=True)
            numpyro.sample("data", density, obs=rows_of_data(rows, numpyro.prng_key()))

    def guide(_: jax.Array) -> None:
        """Nothing is latent."""

    @jax.jit  # one program, not one per operation
    def settle(values: dict[str, Any]) -> Params:
        params = merge(values["density"], values["density$state"]["params"])
        rows = train_rows[random_rows(n, SETTLE_ROWS, seed)]
        return dict(
            bijection.observe(params, rows_of_data(rows, jax.random.key(seed)), given(rows, values), stage="settle")[0]
        )

    def trained_params(values: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
        """The bijection's parameters, with running averages settled, and those of all sites."""
        return settle(values) if is_stateful(bijection) else values["density"], values

    def fitted_flow(params: Params, values: dict[str, Any], context: jax.Array | None = None) -> Flow:
        of_x = BaseDistribution(base, values["density_base"]) if isinstance(base, Base) else base
        return Flow(bijection, params, base=of_x, context=context)

    @jax.jit
    def validation_loss(trained: tuple[Params, dict[str, Any]]) -> jax.Array:
        params, values = trained
        size = min(batch_size, len(held_rows))
        batches = np.resize(held_rows, (-(-len(held_rows) // size), size))  # some rows twice, to fill the last

        def score(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
            return fitted_flow(params, values, given(batch[0], values)).log_prob(rows_of_data(*batch))

        # the same key, and so the same noise of dequantised rows, every time
        scores = lax.map(score, (jnp.asarray(batches), jax.random.split(jax.random.key(seed), len(batches))))
        return -scores.ravel()[: len(held_rows)].mean()

    def best_params(leaves: list[np.ndarray], values: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
        """From a checkpoint."""
        like_these, structure = jax.tree.flatten(trained_params(values))
        restored: tuple[Params, dict[str, Any]] = jax.tree.unflatten(structure, like(like_these, leaves))
        return restored

    best = BestParams(validation_loss, pack=jax.tree.leaves, unpack=best_params)
    trained = train(
        jax.random.key(seed),
        Trace_ELBO(),
        model,
        guide,
        steps=steps,
        lr=lr,
        clip=clip,
        optimizer=optimizer,
        progress=progress,
        init_params=given.params,
        watch=block_watcher(trained_params, best if len(held_rows) else None, callback),
        checkpoint=saved and saved.keep({"best": best}),
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
