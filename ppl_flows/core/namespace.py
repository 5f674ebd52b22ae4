"""The one place that knows array libraries: ``namespace(x)`` is the module of functions for x's type.

Each namespace (``backends.numpy.ops``, ``backends.torch.ops``, ``backends.jax.ops``) is the array API and the hooks of
``Backend``. torch and JAX are imported when the first array of theirs arrives, never before.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_flows.core.backend import Activations

if TYPE_CHECKING:
    from ppl_flows.core.backend import Backend
    from ppl_flows.core.types import Array

ACTIVATIONS = tuple(name for name in vars(Activations) if not name.startswith("_"))

_by_type: dict[type, Any] = {}  # modules; ``ppl_flows.backends`` has them checked against the protocol


def namespace(x: Array) -> Backend:
    """The namespace of x's array library.

    Raises:
        TypeError: x is not a NumPy, torch or JAX array.
    """
    found = _by_type.get(type(x))
    if found is None:
        found = _by_type[type(x)] = importlib.import_module(f"ppl_flows.backends.{library(x)}.ops")
    return found


def flow_class(name: str) -> Any:
    """The class of flows of plain ``"torch"`` or ``"jax"``; raises ImportError where that is not installed."""
    return importlib.import_module(f"ppl_flows.{name}").Flow


@cache
def below_diagonal(dim: int) -> np.ndarray:
    """A matrix of ones below its diagonal, and zeros."""
    return np.tril(np.ones((dim, dim)), -1)


def unit_matrix(dim: int, like: Array) -> Array:
    """The unit matrix, ``(dim, dim)``, of like's library, dtype and device."""
    return namespace(like).constant(_unit_matrix(dim), like)


@cache
def _unit_matrix(dim: int) -> np.ndarray:
    return np.eye(dim)


def library(x: Any) -> str:
    """Its name; raises as ``namespace``."""
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    for name in ("torch", "jax"):
        if any(base.__module__.partition(".")[0] in (name, name + "lib") for base in type(x).__mro__):
            return name
    raise TypeError(f"expected a NumPy, torch or JAX array, got {type(x).__name__}; convert it with asarray first.")
