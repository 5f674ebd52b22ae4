"""The density of a flow as functions of its parameters: what the flows of plain torch and plain JAX share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.initialisation import check_params, initial_params
from ppl_flows.core.namespace import namespace
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.flow_checks import check_base, check_base_domain, check_no_base_params


def starting_params(
    bijection: Bijection, params: Params | None, base: Base | None, base_params: Params | None, seed: int
) -> tuple[Params, Params]:
    """The parameters of a flow and of its base: those that were given, or new ones.

    Raises:
        TypeError: no Bijection, or no Base.
        ValueError: parameters do not fit; the base has another size than the bijection, or the bijection takes x
            from an interval.
    """
    check_bijection("Flow", bijection)
    if params is None:
        params = initial_params(bijection, seed)
    else:
        check_params(bijection, params)
    check_base_domain(bijection, base)
    if base is None:
        check_no_base_params(base, base_params)
        return params, {}
    check_base(base, base_params, inside_model=False)
    if (base.dim,) != bijection.event_shape:
        raise ValueError(
            f"Flow: the base is of vectors of size {base.dim}, but the bijection takes x of shape "
            f"{bijection.event_shape}; give a base of that size."
        )
    if base_params is None:
        base_params = initial_params(base, seed)
    else:
        check_params(base, base_params)
    return params, base_params


def base_log_prob(bijection: Bijection, base: Base | None, base_params: Params, x: Array) -> Array:
    """Log density of x under the base, in nats; None is the standard normal."""
    if base is not None:
        return base.log_prob(base_params, x)
    x = wide(x)
    event = tuple(range(-len(bijection.event_shape), 0))
    return namespace(x).sum(-0.5 * x * x - 0.5 * math.log(2 * math.pi), axis=event)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """The shape of draws; raises TypeError for a number, or anything else that is none."""
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int | np.integer) for n in shape):
        raise TypeError(f"sample takes a shape such as (1000,), got {shape!r}.")
    return tuple(map(int, shape))
