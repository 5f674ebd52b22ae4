"""``fit_density``: maximum likelihood with good defaults."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.types import Params
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.pyro.base_distribution import AnyBase
from ppl_flows.pyro.compile.replay import check_compile
from ppl_flows.pyro.context import Values
from ppl_flows.pyro.density_training import train_density
from ppl_flows.pyro.ranks import over_ranks


@one_at_a_time
@over_ranks
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

    A model with one sub-sampled plate and an empty guide, trained as in ``fit``; the processes of a group share its
    rows. Pyro's parameter store is left as it was.

    Args:
        bijection: from the base to the data; recipes that score in one pass (``pf.maf``, ``pf.nsf``) train fastest.
        data: ``(rows, *event)``, finite: a tensor, another array, a list or a table. Whatever its dtype, the density is
            fitted in torch's default one.
            Or rows that are read when a step takes them, and need not fit into memory: a memory map, an HDF5 dataset, a
            map-style Dataset of rows or ``(row, context)`` pairs; or what gives batches ``(rows, *event)`` or ``(batch,
            contexts)`` of any sizes: a DataLoader, another iterable, or a function that gives a new iterator. The start
            is then from a sample of 16,384 rows, or of 2**22 numbers if these are fewer; of batches, the first ones.
        base: distribution of x; one such as ``pf.StudentT(4)`` trains too. None: standard normal.
        context: ``(rows, context_dim)``, for a conditional bijection; or what the encoder takes. In memory or on disk;
            not with data that give pairs.
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
            tables. 0: the last ones, trained on all rows. Not with data that are iterated.
        callback: as in ``fit``; its params are those of the bijection, as in the result.
        checkpoint, checkpoint_every: as in ``fit``; data are compared by their values, or by those of the sample and of
            the last step, an encoder by its class.

    Returns:
        A ``DensityFit``: the trained bijection, the distribution ``flow``, and the losses in nats per row.

    Raises:
        ValueError: data or contexts of the wrong shape, or not finite; a column to standardise that is constant; an
            encoder that has nothing to train, or to encode; an iterator that ends before the last step; other rows than
            those of the checkpoint; a share that leaves no rows; an unknown ``compile``; an optimiser and ``lr``,
            ``clip`` or ``compile``.
        TypeError: no bijection; data that are no numbers; a callback that is no function; the encoder is no
            ``torch.nn.Module``.
        FileFormatError: a ValueError; the checkpoint is a file of another kind, or damaged.
        FitError: the loss or its gradient is not finite in many steps running; single such steps are skipped.
        CompileError: ``compile="strict"``, and the step cannot be compiled, as in ``fit``.
        RuntimeError: as in ``fit``.

    Example:
        >>> import torch, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_density
        >>> result = fit_density(pf.maf(2), torch.randn(100, 2), steps=2, progress=False)
        >>> result.losses.shape
        (2,)
        >>> result.flow.sample().shape
        torch.Size([2])
    """
    check_compile(compile, optimizer=optimizer)
    return train_density(
        bijection,
        data,
        base=base,
        context=context,
        encoder=encoder,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        clip=clip,
        optimizer=optimizer,
        standardize=standardize,
        levels=levels,
        validation=validation,
        compile=compile,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        seed=seed,
        progress=progress,
    )
