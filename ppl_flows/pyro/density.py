"""``fit_density``: maximum likelihood with good defaults."""

from __future__ import annotations

import os
from collections.abc import Callable
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
from ppl_flows.inference.density import SETTLE_ROWS, check_density, check_rows, density_start, random_rows, split_rows
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.schedule import BestParams, block_watcher
from ppl_flows.inference.validation import step_sizes
from ppl_flows.pyro.base_distribution import AnyBase, BaseDistribution
from ppl_flows.pyro.checkpoint import open_checkpoint, with_modules
from ppl_flows.pyro.compile.replay import check_compile
from ppl_flows.pyro.context import Context, Values, to_tensors
from ppl_flows.pyro.density_files import draw_rows, save_density
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.flow_sites import flow
from ppl_flows.pyro.params import stored_params
from ppl_flows.pyro.training import train
from ppl_flows.torch.params import to_tensor

# the parameters of the bijection and of its base, and the encoder
Trained: TypeAlias = tuple[Params, Params | None, torch.nn.Module | None]


@one_at_a_time
def fit_density(
    bijection: Bijection,
    data: Any,
    *,
    base: AnyBase = None,
    context: Values | None = None,
    encoder: torch.nn.Module | None = None,
    steps: int = 2_000,
    batch_size: int = 256,
    lr: float | None = None,
    clip: float | None = None,
    optimizer: Any = None,
    standardize: bool | None = None,
    levels: int | None = None,
    validation: float = 0.0,
    compile: bool | str | None = None,
    callback: Callable[[int, float, Params], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    seed: int = 0,
    progress: bool = True,
) -> DensityFit:
    """Fits ``p(data)``, or ``p(data | context)``, by maximum likelihood on minibatches.

    A model with one sub-sampled plate and an empty guide, trained as in ``fit``. Pyro's parameter store is left as it
    was.

    Args:
        bijection: from the base to the data; recipes that score in one pass (``pf.maf``, ``pf.nsf``) train fastest.
        data: ``(rows, *event)``, finite: a tensor, another array, a list or a table. Whatever its dtype, the density is
            fitted in torch's default one.
        base: distribution of x; one such as ``pf.StudentT(4)`` trains too. None: standard normal.
        context: ``(rows, context_dim)``, for a conditional bijection; or what the encoder takes.
        encoder: network from rows of ``context``, a tensor or a dict of tensors, to ``(rows, context_dim)``. A copy of
            it trains with the flow, and is the result's ``encoder``, in evaluation mode.
        lr, clip: as in ``fit``. None: 0.005, and 10.
        steps, optimizer, seed, progress: as in ``fit``.
        compile: as in ``fit``; ``"inductor"`` takes .3 to .7 of the time of a step. An encoder is part of the step.
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
            a share that leaves no rows; an unknown ``compile``;
            an optimiser and ``lr``, ``clip`` or ``compile``.
        TypeError: no bijection; data that are no numbers; the encoder is no ``torch.nn.Module``.
        FileFormatError: a ValueError; the checkpoint is a file of another kind, or damaged.
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
        CompileError: ``compile="strict"``, and the step cannot be compiled, as in ``fit``.

    Example:
        >>> import torch, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_density
        >>> result = fit_density(pf.maf(2), torch.randn(100, 2), steps=2, progress=False)
        >>> result.losses.shape
        (2,)
        >>> result.flow.sample().shape
        torch.Size([2])
    """
    lr, clip = step_sizes(optimizer, lr, clip, default_lr=5e-3)
    check_compile(compile, optimizer=optimizer)
    options = {"steps": steps, "batch_size": batch_size, "levels": levels, "validation": validation, "seed": seed}
    check_density(bijection, base, torch.distributions.Distribution, **options)
    data = to_tensors(data, "data", torch.get_default_dtype())
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
    start = map_params(lambda _, a: to_tensor(a).to(data), start)
    base_params: Params | None = None
    if isinstance(base, Base):
        base_params = map_params(lambda _, a: to_tensor(a).to(data), initial_params(base, seed))
    n, train_rows = len(trained_on), torch.as_tensor(trained_on, device=data.device)

    def rows_of_data(rows: torch.Tensor) -> torch.Tensor:
        """These rows of the data, dequantised."""
        return data[rows] if levels is None else (data[rows] + torch.rand_like(data[rows])) / levels

    def model(_: float) -> None:
        given.register()
        with pyro.plate("rows", n, subsample_size=min(batch_size, n)) as i, poutine.scale(scale=1 / n):
            rows = train_rows[i]
            density = flow(
                "density",
                bijection,
                params=start,
                base=base,
                base_params=base_params,
                context=given(rows),
                training=True,
            )
            pyro.sample("data", density, obs=rows_of_data(rows))

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
            rows = train_rows[random_rows(n, SETTLE_ROWS, seed)]
            params = dict(bijection.observe(params, rows_of_data(rows), given(rows, encode), stage="settle")[0])
        return params, of_base, encode

    def fitted_flow(params: Params, of_base: Params | None, context: torch.Tensor | None = None) -> Flow:
        of_x = BaseDistribution(base, of_base) if isinstance(base, Base) else base
        return Flow(bijection, params, base=of_x, context=context)

    def validation_loss(trained: Trained) -> float:
        params, of_base, encode = trained
        total = 0.0
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)  # every time the same noise of dequantised rows
            for rows in torch.as_tensor(held_rows, device=data.device).split(batch_size):
                total -= float(fitted_flow(params, of_base, given(rows, encode)).log_prob(rows_of_data(rows)).sum())
        return total / len(held_rows)

    best = BestParams(validation_loss, pack=_pack, unpack=lambda packed, _: _unpack(packed, given, data.device))
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
            watch=block_watcher(trained_params, best if len(held_rows) else None, callback),
            checkpoint=saved and with_modules(saved.keep({"best": best}), given.encoder),
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
