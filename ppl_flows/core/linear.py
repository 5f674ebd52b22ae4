"""What the linear layers share."""

from __future__ import annotations

from functools import cache

import numpy as np

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array


def identity(dim: int, like: Array) -> Array:
    """The unit matrix, of like's library, dtype and device."""
    return namespace(like).constant(_eye(dim), like)


@cache
def _eye(dim: int) -> np.ndarray:
    return np.eye(dim)
