"""What runs of a model at draws of its latents give, for results that are handed on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.core.types import Array

Dims = tuple[str | None, ...]


class ModelRuns(NamedTuple):
    """Of n draws.

    Attributes:
        predictive: new values of the observed sites, ``{site: (n, *site shape)}``.
        log_likelihood: log densities of the data, ``{site: (n, *batch shape)}``, in nats.
        observed: the data, by site.
        dims: of all sites, the plate of each axis of a value, or None.
    """

    predictive: dict[str, Array]
    log_likelihood: dict[str, Array]
    observed: dict[str, np.ndarray]
    dims: dict[str, Dims]


class ModelData(NamedTuple):
    """What a run of a model with its data shows: these by site, ``dims`` as of ``ModelRuns``, arguments by name."""

    observed: dict[str, np.ndarray]
    dims: dict[str, Dims]
    arguments: dict[str, Any]


def plate_names(shape: tuple[int, ...], plates: Iterable[tuple[str, int, int]], event_dim: int | None) -> Dims:
    """The plate of each axis of a value, or None.

    Args:
        shape: of the value.
        plates: that the site is in: name, batch dim (negative) and size of each.
        event_dim: of the value; None: unknown, and the axes have names where the plates fit in one way only.
    """
    plates, fits = list(plates), []
    for events in range(len(shape) + 1) if event_dim is None else (event_dim,):
        axes = {len(shape) - events + dim: (name, size) for name, dim, size in plates}
        if all(axis >= 0 and shape[axis] == size for axis, (_, size) in axes.items()):
            fits.append(tuple(axes[axis][0] if axis in axes else None for axis in range(len(shape))))
    return fits[0] if len(fits) == 1 else (None,) * len(shape)


def named_arguments(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a model, by name."""
    try:
        bound = inspect.signature(model).bind(*args, **kwargs)
    except (TypeError, ValueError):  # of a callable that hides its signature
        return {**{f"argument_{i}": a for i, a in enumerate(args)}, **kwargs}
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}_{i}": a for i, a in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def guide_words(guide: Any, packages: dict[str, ModuleType]) -> dict[str, str]:
    """``Fitted.words`` of a guide and the packages of its language."""
    kind = type(guide).__name__
    bijection = getattr(guide, "bijection", None)
    name = f"{kind} of {bijection}" if bijection is not None else getattr(guide, "__name__", kind)
    return {"guide": name, **{f"{name}_version": str(module.__version__) for name, module in packages.items()}}
