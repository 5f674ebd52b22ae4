"""How many draws are run at once where none are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

MOST_DRAWS = 2_000  # more are hardly faster
MOST_NUMBERS = 2**24  # in the sites of one run: 128 MiB of float64, and as much again in passing


def draws_per_run(numbers_per_draw: int) -> int:
    """As many as there is memory for, at least one."""
    return max(1, min(MOST_DRAWS, MOST_NUMBERS // max(1, numbers_per_draw)))


def numbers_in(sites: Mapping[str, Any]) -> int:
    """In the values, and the log densities if there are any, of the sample sites of a trace."""
    held = [site.get(key) for site in sites.values() if site["type"] == "sample" for key in ("value", "log_prob")]
    return sum(tensor.numel() for tensor in held if isinstance(tensor, torch.Tensor))
