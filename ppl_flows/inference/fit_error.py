"""What a fit raises that cannot go on; the same in both languages."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_SKIPPED = 20  # steps running that are not finite before a fit gives up


class FitError(RuntimeError):
    """The loss or its gradient was not finite for ``MAX_SKIPPED`` steps running.

    Attributes:
        step: the first of these steps, counted from 0.
        losses: of all steps so far, in nats.
        params: the last finite parameters.

    Example:
        >>> from ppl_flows.pyro import FitError
        >>> FitError(7, [float("nan")] * 27, {"loc": 0.5}).params  # as ``fit`` raises it
        {'loc': 0.5}
    """

    def __init__(self, step: int, losses: np.ndarray, params: dict[str, Any]) -> None:
        super().__init__(
            f"the loss or its gradient is not finite since step {step}; the parameters before that step are in "
            "`.params` of this error. Look for NaN in the data and for draws at which the model's log density is not "
            "finite; or try a smaller lr or another init_loc_fn."
        )
        self.step, self.losses, self.params = step, losses, params

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.step, self.losses, self.params)
