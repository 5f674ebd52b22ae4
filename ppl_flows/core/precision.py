"""Numbers narrower than float32, such as bfloat16: fit to be stored and multiplied, not to be summed or solved for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ppl_flows.core.namespace import namespace
from ppl_flows.core.params import flatten, map_params, split

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


def result_dtype(params: Params, v: Array, context: Array | None) -> Any:
    """The dtype of what a bijection gives: that of value, weights and context together.

    State has no part in it where it is wider than they: it is kept in float32, as counters and averages are.
    """
    xp, given = namespace(v), [v] if context is None else [v, context]
    dtype = xp.result_type(*given, *(a for _, a in flatten(split(params)[0])))
    return dtype if dtype.itemsize < 4 else xp.result_type(*given, *(a for _, a in flatten(params)))


def promoted(v: Array, params: Params, context: Array | None) -> Array:
    """v in ``result_dtype``: a loop in JAX keeps the dtype that it starts with."""
    return namespace(v).astype(v, result_dtype(params, v, context), copy=False)


def in_float32(run: Callable[..., tuple], params: Params, v: Array, context: Array | None) -> tuple:
    """``run(params, v, context)`` with all three wide: ``(..., out, log_det)``, out in ``result_dtype``.

    Params that run returns before out get the dtypes that they had.

    Raises:
        ValueError: state is narrow.
    """
    xp, before = namespace(v), dict(flatten(params))
    for name, a in flatten(split(params)[1]):
        if is_narrow(a):
            raise ValueError(
                f"{name!r} is state, which must stay in float32, as averages and counters of {a.dtype} stop moving; "
                "cast the weights alone: weights, state = pf.split(params)."
            )
    *new, out, log_det = run(wide_params(params), wide(v), None if context is None else wide(context))
    new = [map_params(lambda name, a: xp.astype(a, before[name].dtype), p) for p in new]
    return *new, xp.astype(out, result_dtype(params, v, context)), log_det


def alike(params: Params, v: Array, context: Array | None) -> tuple[Params, Array, Array | None]:
    """All three in ``result_dtype``, as torch multiplies only matrices of one dtype."""
    xp, dtype = namespace(v), result_dtype(params, v, context)
    cast = lambda a: xp.astype(a, dtype, copy=False)  # noqa: E731
    return map_params(lambda _, a: cast(a), params), cast(v), None if context is None else cast(context)
