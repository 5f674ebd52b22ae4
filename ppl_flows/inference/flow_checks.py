"""What the flows of both shells check alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.initialisation import check_params
from ppl_flows.core.support import is_real
from ppl_flows.inference.warn_user import warn_user


def check_base(base: Any, params: Any, *, inside_model: bool) -> None:
    """Raises TypeError unless it is a Base, and ValueError if it would make new parameters at every run of a model."""
    if not isinstance(base, Base):
        raise TypeError(f"expected a ppl_flows Base such as pf.StudentT(4), got {type(base).__name__}.")
    if params is None and inside_model:
        raise ValueError(
            f"{type(base).__name__} inside a model or guide would make new parameters at every call and never "
            "train them; use flow(name, bijection, base=...), or give params."
        )


def check_base_kind(base: Any, host_class: type) -> None:
    """Raises TypeError unless it can be the base of a flow: None, a Base, or a distribution of the language."""
    if base is not None and not isinstance(base, Base | host_class):
        got = f"the class {base.__name__}: give an object" if isinstance(base, type) else repr(base)
        raise TypeError(
            f"base must be a distribution of the language, or a ppl_flows Base such as pf.StudentT(4), got {got}."
        )


def check_event(value: Any, event_shape: tuple[int, ...], kind: Any) -> None:
    """Raises for what ``Flow.log_prob`` cannot score: TypeError for no array, ValueError for other events."""
    if not isinstance(value, kind):
        raise TypeError(f"log_prob takes an array of the language, got {type(value).__name__}; convert it first.")
    if tuple(value.shape[value.ndim - len(event_shape) :]) != tuple(event_shape) or value.ndim < len(event_shape):
        raise ValueError(
            f"log_prob expects values of shape (*batch, {', '.join(map(str, event_shape))}), got {tuple(value.shape)}; "
            "the event axes come last."
        )


def scores_shape(value: Any, event_shape: tuple[int, ...], batch_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the log densities of these values."""
    return np.broadcast_shapes(tuple(value.shape[: value.ndim - len(event_shape)]), tuple(batch_shape))


def check_no_base_params(base: Any, params: Any) -> None:
    """Raises ValueError for parameters of what is no Base."""
    if params is not None:
        raise ValueError(f"base_params are those of a ppl_flows Base such as pf.StudentT(4), but base is {base!r}.")


def check_flow_arguments(params: Any, context: Any, *, is_transform: bool, inside_model: bool) -> None:
    """Raises ValueError for arguments of ``Flow`` that contradict each other, or would never train."""
    if is_transform and (params is not None or context is not None):
        raise ValueError("Flow: a FlowTransform has its params and context already; give them to it instead.")
    if not is_transform and params is None and inside_model:
        raise ValueError(
            "Flow(bijection) inside a model or guide would make new parameters at every call and never train "
            "them; use flow(name, bijection), or give params."
        )


def check_flow_start(bijection: Any, params: Any, start: Any) -> None:
    """Raises TypeError for no bijection, ValueError for params that do not fit it, or that come with a start."""
    check_bijection("flow", bijection)
    if params is not None:
        check_params(bijection, params)
    if params is not None and start is not None:
        raise ValueError("flow: give params or start, not both: params have their values already.")


def check_base_domain(bijection: Bijection, base: Any, real: Any = None) -> None:
    """Raises ValueError for a base on the reals where the bijection takes x from intervals.

    Args:
        base: None, which is a standard normal, a Base, or a distribution of the language.
        real: the language's constraint of the reals.
    """
    if is_real(bijection.domain):
        return
    support = real if base is None or isinstance(base, Base) else base.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if type(support) is type(real):
        kind = "normal" if base is None else type(base).__name__
        raise ValueError(
            f"Flow: the bijection takes x from {bijection.domain}, where no {kind} lies; give a base that does, such "
            "as a uniform, of angles dist.Uniform(-math.pi, math.pi).expand([dim]).to_event(1)."
        )


def mapped_shape(
    bijection: Bijection, context: Any, shape: tuple[int, ...], event: tuple[int, ...], other: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape that values or distributions of this shape get, with events ``other`` in place of ``event``.

    Raises:
        ValueError: the shape has other events.
    """
    batch = tuple(shape)[: len(shape) - len(event)]
    if batch + event != tuple(shape):
        raise ValueError(
            f"{type(bijection).__name__} maps events of shape {event}, got a distribution or value of "
            f"shape {tuple(shape)}; the event axes come last."
        )
    return (*bijection.joint_batch(batch, context), *other)


class Recipe(NamedTuple):
    """What two flows of one name in one model must have in common, beside the parameters that they share."""

    bijection: Bijection
    base: Any  # a Base, or what the language's distribution is called


def flow_recipe(bijection: Bijection, base: Any) -> Recipe:
    """Of a ``flow``, with its base as it was given."""
    return Recipe(bijection, base if base is None or isinstance(base, Base) else type(base).__name__)


def check_same_recipe(name: str, first: Recipe, second: Recipe) -> None:
    """Raises ValueError for two different flows of one name."""
    for what, one, other in zip(("bijection", "base"), first, second, strict=True):
        if one != other:
            raise ValueError(
                f"flow: this model has two flows named {name!r}, which would share their parameters, but the {what} of "
                f"one is {one}, and of the other {other}; give one of them another name."
            )


def warn_of_initial_weights(name: str, way: str) -> None:
    """For a flow in a model that MCMC runs on."""
    warn_user(
        f"flow {name!r} has the weights it was made with, and MCMC trains none: the posterior is that of a model that "
        f"nobody has fitted. Fit the flow first, and {way}; or give flow(..., params=), or use random_flow, whose "
        "weights have a prior.",
    )
