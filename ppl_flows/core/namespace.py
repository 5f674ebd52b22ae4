"""The one place that knows array libraries: ``namespace(x)`` is the module of functions for x's type.

Each namespace (``backends.numpy.ops``, ``backends.torch.ops``, ``backends.jax.ops``) is the array API plus the same
closed list of names that the standard lacks: ``HOOKS``, the functions in ``ACTIVATIONS``, and the drivers that need
loops or custom gradients.
torch and JAX are imported when the first array of theirs arrives, never before.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

ACTIVATIONS = ("elu", "gelu", "relu", "sigmoid", "silu", "softplus", "tanh")
HOOKS = (
    "constant",
    "conv2d",
    "erfc",
    "keeping_products",
    "lgamma",
    "linear",
    "logsumexp",
    "masked_sum",
    "ndtri",
    "pieces",
    "softmax",
    "solve_triangular",
    "stop_gradient",
    "transposed",
    "vmap",
    "while_loop",
    "scan",
    "checkpoint",
    "reversible",
    "odeint",
    "autoregressive_inverse",
    "rational_quadratic",
)

_by_type: dict[type, ModuleType] = {}


def namespace(x: Any) -> ModuleType:
    """The namespace of x's array library.

    Raises:
        TypeError: x is not a NumPy, torch or JAX array.
    """
    found = _by_type.get(type(x))
    if found is None:
        found = _by_type[type(x)] = importlib.import_module(f"ppl_flows.backends.{_library(x)}.ops")
    return found


def _library(x: Any) -> str:
    if isinstance(x, np.ndarray | np.generic):
        return "numpy"
    for name in ("torch", "jax"):
        if any(base.__module__.partition(".")[0] in (name, name + "lib") for base in type(x).__mro__):
            return name
    raise TypeError(f"expected a NumPy, torch or JAX array, got {type(x).__name__}; convert it with asarray first.")
