"""The training of a density, for ``fit_density`` and ``fit_amortized``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import initial_params, is_stateful
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.checkpoint import name_of
from ppl_flows.inference.density import SETTLE_ROWS, check_density, check_read, check_rows, random_rows, split_rows
from ppl_flows.inference.density_hooks import PLAIN, DensityHooks, first_params
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.open_rows import open_rows
from ppl_flows.inference.row_source import Reading
from ppl_flows.inference.schedule import BestParams, block_watcher
from ppl_flows.inference.validation import step_sizes
from ppl_flows.pyro.base_distribution import AnyBase, BaseDistribution
from ppl_flows.pyro.batches import Batches, OwnRandomNumbers
from ppl_flows.pyro.checkpoint import open_checkpoint, with_modules
from ppl_flows.pyro.context import Context, Values, to_tensors
from ppl_flows.pyro.density_files import draw_rows, save_density
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.flow_sites import flow
from ppl_flows.pyro.held_rows import held_batches, mean_loss
from ppl_flows.pyro.params import stored_params
from ppl_flows.pyro.shared_draws import own_rows, whole_batch
from ppl_flows.pyro.training import train
from ppl_flows.torch.params import to_tensor

# the parameters of the bijection and of its base, and the encoder
Trained: TypeAlias = tuple[Params, Params | None, torch.nn.Module | None]


def train_density(
    bijection: Bijection,
    data: Any,
    *,
    base: AnyBase,
    context: Values | None,
    encoder: torch.nn.Module | None,
    steps: int,
    batch_size: int,
    lr: float | None,
    clip: float | None,
    optimizer: Any,
    standardize: bool | None,
    levels: int | None,
    validation: float,
    compile: bool | str | None,
    callback: Callable[[int, float, Params], Any] | None,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: float,
    seed: int,
    progress: bool,
    hooks: DensityHooks = PLAIN,
) -> DensityFit:
    """As ``fit_density``, whose arguments and errors these are."""
    lr, clip = step_sizes(optimizer, lr, clip, default_lr=5e-3)
    options = {"steps": steps, "batch_size": batch_size, "levels": levels, "validation": validation, "seed": seed}
    check_density(bijection, base, torch.distributions.Distribution, callback=callback, **options)
    source, data, context = open_rows(
        data,
        context,
        Reading(
            steps,
            batch_size,
            validation,
            seed,
            check=partial(check_read, bijection, levels, encoder is not None),
            dtype=np.float64 if torch.get_default_dtype() == torch.float64 else np.float32,
            random_numbers=partial(OwnRandomNumbers, seed),
        ),
    )
    data = to_tensors(data, "data", torch.get_default_dtype())
    batches = None if source is None else Batches(source, data)
    given = Context(context, encoder, data)
    contexts = given.all_rows()
    all_data = data.detach().cpu().numpy()
    all_context = None if contexts is None else contexts.detach().cpu().numpy()
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
            "compile": compile,
            "seed": seed,
            **({} if hooks.patience is None else {"patience": hooks.patience}),
        },
        arguments=((), {"data": data, "context": context} | ({} if source is None else {"rows": source.rows})),
        bijection=repr(bijection),
        base=repr(base) if isinstance(base, Base) else base,
        encoder=encoder,
    )
    trained_on, held_rows = split_rows(len(data), validation if source is None else 0.0, seed)
    start_rows = all_data[trained_on], None if all_context is None else all_context[trained_on]
    bijection, start = first_params(hooks, bijection, *start_rows, standardize=standardize, levels=levels, seed=seed)
    start = map_params(lambda _, a: to_tensor(a).to(data), start)
    of_base = initial_params(base, seed) if isinstance(base, Base) else None
    base_params: Params | None = of_base and map_params(lambda _, a: to_tensor(a).to(data), of_base)
    train_rows = torch.as_tensor(trained_on, device=data.device)
    in_plate = train_rows if source is None else torch.arange(source.batch_size, device=data.device)
    n = len(in_plate)
    of_step: Any = batches and batches.rows

    dequantised = partial(_dequantised, levels)

    def model(_: float) -> None:
        given.register()
        new = of_step if hooks.fresh is None else whole_batch(hooks.fresh, min(batch_size, n), None)
        with pyro.plate("rows", n, subsample_size=min(batch_size, n)) as i, poutine.scale(scale=1 / n):
            rows, contexts = _batch(hooks, given, data, dequantised, in_plate[i], own_rows(new))
            density = flow(
                "density",
                bijection,
                params=start,
                base=base,
                base_params=base_params,
                context=contexts,
                training=True,
            )
            pyro.sample("data", density, obs=rows)

    def guide(_: float) -> None:
        """Nothing is latent."""

    def trained_params(_: Any = None) -> Trained:
        """The bijection's parameters in the store, with running averages settled, the base's, and the encoder."""
        encode = given.trained()
        params = map_params(lambda _, a: a.detach().clone(), stored_params("density", start))
        of_base = base_params and map_params(
            lambda _, a: a.detach().clone(), stored_params("density_base", base_params)
        )
        if is_stateful(bijection):
            rows = train_rows[random_rows(len(train_rows), SETTLE_ROWS, seed)]
            params = dict(bijection.observe(params, dequantised(data[rows]), given(rows, encode), stage="settle")[0])
        return params, of_base, encode

    fitted_flow = partial(_flow, bijection, base)

    def log_prob(trained: Trained, rows: torch.Tensor, values: Any) -> torch.Tensor:
        params, of_base, encode = trained
        return fitted_flow(params, of_base, given.of(values, encode)).log_prob(dequantised(rows))

    validation_loss = mean_loss(log_prob, partial(held_batches, data, given, held_rows, batch_size, source), seed)
    best = BestParams(
        validation_loss,
        pack=_pack,
        unpack=lambda packed, _: _unpack(packed, given, data.device),
        first=None if hooks.start is None else (start, None, given.trained()),
    )
    with pyro.get_param_store().scope(), torch.random.fork_rng():
        torch.manual_seed(seed)
        trained = train(
            Trace_ELBO(),
            model,
            guide,
            steps=steps,
            lr=lr,
            clip=clip,
            optimizer=optimizer,
            progress=progress,
            compile=compile,
            watch=block_watcher(
                trained_params, best if len(held_rows) or (source and source.held) else None, callback, hooks.patience
            ),
            checkpoint=saved
            and with_modules(saved.keep({"best": best} | ({} if source is None else {"rows": source})), given.encoder),
            batches=batches,
            rows="rows",
        )
        params, base_params, encode = best.params or trained_params()
    return DensityFit(
        trained.losses,
        trained.skipped,
        bijection,
        params,
        fitted_flow(params, base_params),
        base if isinstance(base, Base) else None,
        base_params,
        encode,
        np.array(best.losses) if best.losses else None,
        trained.interrupted,
        draw_rows,
        save_density if base is None or isinstance(base, Base) else None,
    )


def _pack(trained: Trained) -> tuple[Any, ...]:
    """For a checkpoint."""
    params, of_base, encode = trained
    return params, of_base, None if encode is None else encode.state_dict()


def _unpack(packed: tuple[Any, ...], given: Context, device: torch.device) -> Trained:
    params, of_base = (tree and map_params(lambda _, a: a.to(device), tree) for tree in packed[:2])
    encode = given.trained()
    if encode is not None:
        encode.load_state_dict(packed[2])
    return params, of_base, encode


def _flow(
    bijection: Bijection, base: AnyBase, params: Params, of_base: Params | None, context: torch.Tensor | None = None
) -> Flow:
    of_x = BaseDistribution(base, of_base) if isinstance(base, Base) else base
    return Flow(bijection, params, base=of_x, context=context)


def _dequantised(levels: int | None, rows: torch.Tensor) -> torch.Tensor:
    return rows if levels is None else (rows + torch.rand_like(rows)) / levels


def _batch(
    hooks: DensityHooks,
    given: Context,
    data: torch.Tensor,
    dequantised: Callable[[torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    new: tuple[torch.Tensor, Any] | None,
) -> tuple[torch.Tensor, Any]:
    """What a step takes, and its contexts: these rows, or those that are new."""
    taken = dequantised(data[rows] if new is None else new[0])
    contexts = given(rows) if new is None else given.of(new[1])
    if hooks.vary is not None:
        contexts = hooks.vary(contexts, torch.rand(len(taken), dtype=taken.dtype, device=taken.device))
    return taken, contexts
