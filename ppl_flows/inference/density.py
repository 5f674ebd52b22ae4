"""What ``fit_density`` of both shells shares: the rows it takes, and where it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_flows.bijections import Elementwise
from ppl_flows.combinators.chain import Chain
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.checks import whole_number
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import REAL, is_real
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.flow_checks import check_base_kind
from ppl_flows.inference.row_source import Rows, leaves
from ppl_flows.inference.validation import check_training
from ppl_flows.transformers import Affine

# of a density's data: for data-dependent starts (at most so many numbers), and for the last averages
START_ROWS, START_NUMBERS, SETTLE_ROWS = 1_024, 2**16, 16_384


def with_location_scale(bijection: Bijection) -> Bijection:
    """The bijection and, on the target side, a trainable location and scale per coordinate."""
    scaling = Elementwise(bijection.output_shape[0], Affine(max_log_scale=None))
    return Chain({"flow": bijection, "scaling": scaling})


def location_scale_params(bijection: Bijection, loc: Array, scale: Array | float, seed: int) -> Params:
    """Initial parameters of ``with_location_scale(...)`` that start it at this location and scale."""
    xp = namespace(loc)
    log_scale = xp.log(xp.zeros_like(loc) + scale)
    return {**initial_params(bijection, seed), "scaling": {"theta": xp.stack([loc, log_scale], axis=-1)}}


def density_start(
    bijection: Bijection,
    data: np.ndarray,
    context: np.ndarray | None,
    *,
    standardize: bool | None,
    levels: int | None,
    seed: int,
) -> tuple[Bijection, Params]:
    """What ``fit_density`` trains, and its initial parameters, for which some of the rows have passed through.

    Raises:
        ValueError: ``standardize=True`` and no real vectors; columns to standardise that are constant.
    """
    vectors = len(bijection.output_shape) == 1
    if standardize and not (vectors and is_real(bijection.codomain)):
        raise ValueError(
            "fit_density: standardize=True puts a location and scale after the bijection, which needs real vectors, "
            f"but its values have shape {bijection.output_shape} and range {bijection.codomain or 'real'}; pass "
            "standardize=False."
        )
    scaled = vectors and standardize is not False and is_real(bijection.codomain)
    if levels is None and scaled:
        check_varies(data)
    if levels is not None:
        data = (data + np.random.default_rng(seed).random(data.shape)) / levels
    params = initial_params(bijection, seed)
    if scaled:
        bijection = with_location_scale(bijection)
        params = location_scale_params(bijection, data.mean(0), data.std(0) + 1e-12, seed)
    rows = random_rows(len(data), max(2, min(START_ROWS, START_NUMBERS // data[0].size)), seed)
    given = None if context is None else context[rows]
    return bijection, bijection.observe(params, data[rows], given, stage="start")[0]


def random_rows(n: int, at_most: int, seed: int) -> np.ndarray:
    """Indices of so many of n rows, without replacement."""
    return np.random.default_rng(seed).permutation(n)[:at_most]


def split_rows(n: int, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of n rows, in no order: of those to train on, and of the share to validate by.

    Raises:
        ValueError: as ``held_out``.
    """
    held = held_out(n, validation)
    rows = random_rows(n, n, seed) if held else np.arange(n)
    return rows[held:], rows[:held]


def held_out(n: int, validation: float) -> int:
    """How many of n rows this share to validate by is.

    Raises:
        ValueError: it leaves fewer than 2 rows to train on or none to validate by.
    """
    held = round(validation * n)
    if not (n - held >= 2 and (held > 0 or validation == 0)):
        raise ValueError(
            f"validation must be a share of the rows between 0 and 1 that leaves some for both uses, got {validation} "
            f"of {n} rows."
        )
    return held


def check_density(bijection: Any, base: Any, host_class: type, *, levels: Any, **training: Any) -> None:
    """Raises TypeError or ValueError for arguments that ``fit_density`` does not take, before it looks at the data.

    ``host_class`` is that of the language's distributions, ``training`` is as of ``check_training``.
    """
    check_bijection("fit_density", bijection)
    check_base_kind(base, host_class)
    check_training("fit_density", **training)
    if levels is not None:
        whole_number("fit_density", "levels", levels, 2)


def check_encoder(encoder: Any, context: Any) -> None:
    """Raises ValueError for an encoder where there is nothing for it to encode."""
    if encoder is not None and context is None:
        raise ValueError(
            "fit_density: encoder= needs context=, the rows that it encodes, or data that give pairs of a row and its "
            "context; else leave it out."
        )


def check_varies(data: np.ndarray) -> None:
    """Raises ValueError for columns that are constant: at a scale of zero their density has no bound."""
    constant = np.flatnonzero((data == data[0]).all(axis=0))
    if len(constant):
        named = ", ".join(map(str, constant[:10])) + ", ..." * (len(constant) > 10)
        raise ValueError(
            f"fit_density: all {len(data)} rows of the data to train on, or of a sample of them, have the same value "
            f"in column {named}, where a density grows without bound; drop such columns, or pass standardize=False, or "
            "levels= for whole numbers."
        )


def check_rows(bijection: Bijection, data: np.ndarray, context: np.ndarray | None, levels: int | None) -> None:
    """Raises ValueError unless data are finite rows in the bijection's range and context goes with them."""
    if data.shape[1:] != bijection.output_shape or len(data) < 2:
        raise ValueError(
            f"data must have shape (rows, {', '.join(map(str, bijection.output_shape))}) with at least 2 rows, "
            f"got {data.shape}."
        )
    check_context(bijection, data, context)
    check_values(bijection, data, context, levels)


def check_read(bijection: Bijection, levels: int | None, encoded: bool, rows: Rows, row: Callable[[int], str]) -> None:
    """Raises ValueError likewise, for rows that were read in the course of a training.

    Args:
        encoded: contexts are what an encoder takes: whether it takes them, only the encoder knows.
        row: what one of them is called.
    """
    data, context = rows
    if data.shape[1:] != bijection.output_shape or not data.ndim:
        single = data.shape == bijection.output_shape
        raise ValueError(
            f"data must have shape (rows, {', '.join(map(str, bijection.output_shape))}), got {data.shape} from "
            f"{row(0)} on{'; give batches of rows, as a DataLoader does' if single else ''}."
        )
    if any(leaf.shape[:1] != data.shape[:1] for leaf in leaves(rows)):
        shapes = ", ".join(str(leaf.shape) for leaf in leaves(rows))
        raise ValueError(f"data and context must have as many rows, got shapes {shapes} from {row(0)} on.")
    if isinstance(context, Mapping) and not encoded:
        raise ValueError(f"context: a dict, of {sorted(context)}, is for an encoder; pass encoder=, or one array.")
    if not encoded:
        check_context(bijection, data, context)
    check_values(bijection, data, None if encoded else context, levels, row)


def check_context(bijection: Bijection, data: np.ndarray, context: np.ndarray | None) -> None:
    """Raises ValueError unless these contexts go with these data."""
    given = None if context is None else context.shape
    wanted = (len(data), bijection.context_dim) if bijection.context_dim else None
    if given != wanted:
        way_out = (
            f"must have shape {wanted} for this bijection and these data"
            if wanted
            else "is not wanted by this bijection; leave it out, or make one with context_dim="
            f"{context.shape[-1] if context is not None and context.ndim else 'k'}"
        )
        raise ValueError(f"context {way_out}, got {'none' if given is None else f'one of shape {given}'}.")


def check_values(
    bijection: Bijection,
    data: np.ndarray,
    context: np.ndarray | None,
    levels: int | None,
    row: Callable[[int], str] = "row {}".format,
) -> None:
    """Raises ValueError unless rows are finite, whole numbers where there are levels, and in the bijection's range."""
    for name, array in (("data", data), ("context", context)):
        if array is not None and not np.all(np.isfinite(array)):
            bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=-1))
            raise ValueError(
                f"{name} must be finite, but {len(bad)} of {len(array)} rows are not (the first is {row(bad[0])}); "
                "drop or impute them."
            )
    if levels is not None and not np.all(fine := (data == np.floor(data)) & (data >= 0) & (data < levels)):
        first = np.flatnonzero(~fine.reshape(len(data), -1).all(axis=-1))[0]
        raise ValueError(
            f"levels={levels}: data must be whole numbers 0, ..., {levels - 1}, got values from {data.min()} to "
            f"{data.max()} (the first row of others is {row(first)})."
        )
    if not is_real(bijection.codomain):
        low, high = np.array([i or REAL for i in bijection.codomain or ()]).T
        rows = data.reshape(len(data), -1) if levels is None else np.array([[0.5], [levels - 0.5]]) / levels
        outside = np.flatnonzero(((rows <= low) | (rows >= high)).any(axis=-1))
        if len(outside):
            raise ValueError(
                f"{len(outside)} of {len(data)} rows of data are not inside the bijection's range "
                f"{sorted({i or REAL for i in bijection.codomain or ()})} (the first is {row(outside[0])})."
            )
