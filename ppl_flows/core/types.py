"""Names of types that the whole library speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Array = Any  # a NumPy, torch or JAX array

Params = Mapping[str, Any]  # nested dict of arrays; those below a key "state" are no weights: nothing trains them

Observed = tuple[Params, Array, Array]  # what ``observe`` returns
