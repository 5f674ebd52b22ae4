"""Dtypes, decided once per pass; and numbers narrower than float32: fit to be multiplied, not to be summed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import first_weight, flatten, map_params, split

if TYPE_CHECKING:
    from ppl_flows.core.types import Array, Params


def is_narrow(*arrays: Array | None) -> bool:
    """Whether one of them has fewer bits than float32."""
    return any(a is not None and a.dtype.itemsize < 4 for a in arrays)


def has_narrow(params: Params) -> bool:
    """Whether one of the arrays has fewer bits than float32."""
    return any(a.dtype.itemsize < 4 for _, a in flatten(params))


def wide(a: Array) -> Array:
    """a, in float32 where it is narrower."""
    xp = namespace(a)
    return xp.astype(a, xp.float32) if is_narrow(a) else a


def wide_params(params: Params) -> Params:
    """The same nesting, every array ``wide``."""
    return map_params(lambda _, a: wide(a), params)


def has_one_dtype(params: Params, v: Array, context: Array | None) -> bool:
    """Whether all arrays have the dtype of v, which is float32 or float64: nothing is to be decided."""
    dtype = v.dtype
    return _is_plain(dtype) and (context is None or context.dtype == dtype) and _all_have(dtype, params)


@cache
def _is_plain(dtype: Any) -> bool:
    return str(dtype).rpartition(".")[2] in ("float32", "float64")


def _all_have(dtype: Any, params: Params) -> bool:
    for a in params.values():  # a generator would make one call more for every array
        if isinstance(a, dict):
            if not _all_have(dtype, a):
                return False
        elif getattr(a, "dtype", None) != dtype:
            return False
    return True


def of_one_library(params: Params, v: Array, context: Array | None) -> tuple[Array, Array | None]:
    """v and context, NumPy arrays as arrays of the library that the weights are of."""
    weight = first_weight(params) if isinstance(params, dict) else None
    if isinstance(weight, np.ndarray | np.generic) or not hasattr(weight, "dtype"):
        return v, context
    v, *given = (
        namespace(weight).asarray(a if a.flags.carray else a.copy(order="C"))  # torch takes no others
        for a in (v, context)
        if isinstance(a, np.ndarray)
    )
    return v, given[0] if given else context


def result_dtype(params: Params, v: Array, context: Array | None) -> Any:
    """The dtype of what a bijection gives: that of value, weights and context together.

    State has no part in it where it is wider than they: it is kept in float32, as counters and averages are.
    """
    xp, given = namespace(v), [v] if context is None else [v, context]
    dtype = xp.result_type(*given, *(a for _, a in flatten(split(params)[0])))
    return dtype if dtype.itemsize < 4 else xp.result_type(*given, *(a for _, a in flatten(params)))


def in_one_dtype(
    run: Callable[..., tuple[Any, ...]],
    widen: Callable[[Params], Params],
    params: Params,
    v: Array,
    context: Array | None,
) -> tuple[Any, ...]:
    """``run(params, v, context)`` with all three in ``result_dtype``: ``(..., out, log_det)``.

    Where that is narrower than float32, in float32, but for the params that ``widen`` leaves narrow; out is narrow
    again, log_det is not. Params that run returns before out get the dtypes that they had.

    Raises:
        ValueError: state is narrow.
        TypeError: complex numbers.
    """
    xp, before, result = namespace(v), dict(flatten(params)), result_dtype(params, v, context)
    for name, a in flatten(split(params)[1]):
        if is_narrow(a):
            raise ValueError(
                f"{name!r} is state, which must stay in float32, as averages and counters of {a.dtype} stop moving; "
                "cast the weights alone: weights, state = pf.split(params)."
            )
    if xp.isdtype(result, "complex floating"):
        raise TypeError(f"arrays must hold real numbers, got {v.dtype} of shape {tuple(v.shape)}; take the real parts.")
    if not xp.isdtype(result, "real floating"):
        result = xp.asarray(0.0).dtype  # whole numbers are numbers
    dtype = xp.float32 if result.itemsize < 4 else result

    def cast(a: Array) -> Array:
        return xp.astype(a, dtype, copy=False)

    given = map_params(lambda _, a: cast(a), params)
    if result.itemsize < 4:
        given = map_params(lambda _, a: a if is_narrow(a) else cast(a), widen(params))
    *new, out, log_det = run(given, cast(v), None if context is None else cast(context))
    new = [map_params(lambda name, a: xp.astype(a, before[name].dtype, copy=False), p) for p in new]
    return *new, xp.astype(out, result, copy=False), log_det
