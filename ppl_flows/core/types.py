"""Names of types that the whole library speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Array: TypeAlias = Any  # a NumPy, torch or JAX array

Context: TypeAlias = Array | None

Params: TypeAlias = Mapping[str, Any]  # nested dicts of arrays; no optimiser trains those below a key "state"

Observed: TypeAlias = tuple[Params, Array, Array]  # what ``observe`` returns
