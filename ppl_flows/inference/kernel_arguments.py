"""What a ``FlowKernel`` is made of, and what it is run with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.results import FitResult
from ppl_flows.inference.saved_results import LoadedGuide


def trained_guide(result: Any) -> Any:
    """The trained guide of a result, of a language.

    Raises:
        TypeError, ValueError: as of ``FlowKernel``.
    """
    if not isinstance(result, FitResult):
        raise TypeError(f"FlowKernel takes a result of fit, got {type(result).__name__}.")
    fitted: Any = result._fitted
    if isinstance(fitted, LoadedGuide):
        fitted = fitted.with_model("drives chains")
    with fitted.base_space():
        return fitted


@dataclass(frozen=True)
class FittedModel:
    """A model that runs with the arguments of its fit, if it is given none."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs) if args or kwargs else self.model(*self.args, **self.kwargs)

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raises ValueError for arguments that are neither none nor those of the fit."""
        if (args or kwargs) and not _equal((args, kwargs), (self.args, self.kwargs)):
            raise ValueError(
                "FlowKernel: the model's arguments are not those of the fit, whose flow is near that posterior alone; "
                "leave them out, or fit again."
            )


def _equal(a: Any, b: Any) -> bool:
    """Whether arguments have the same values."""
    if a is b:
        return True
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    try:
        first, second = to_numpy(a), to_numpy(b)
    except (TypeError, ValueError):  # no arrays
        return bool(a == b)
    floats = first.dtype.kind == second.dtype.kind == "f"
    return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=floats)
