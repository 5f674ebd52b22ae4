"""Counts the gradients that a start looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Counter:
    """Gradients of the log density that a start looks at."""

    gradients: int = 0

    def watch(self, density: type) -> None:
        """Counts the calls of a class of log densities: a Hessian is dim gradients, a product with it is two."""
        for name, method in [*vars(density).items()]:
            if callable(method) and not name.startswith("_") and name not in {"at", "obstacle", "through"}:
                setattr(density, name, self._counted(name, method))

    def _counted(self, name: str, method: Callable) -> Callable:
        def counted(density: Any, z: np.ndarray, *args: Any, **kwargs: Any) -> Any:
            before = self.gradients
            result = method(density, z, *args, **kwargs)
            self.gradients = before + len(z) * {"value_and_gradient": 1, "hessian": z.shape[-1]}.get(name, 2)
            return result

        return counted
