"""Supports of Pyro in words that both languages have."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro.distributions import constraints
from torch.distributions import biject_to

from ppl_flows.files import to_numpy
from ppl_flows.inference.neutral_supports import NeutralSupports


def _array(numbers: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(numbers), dtype=torch.get_default_dtype())


SUPPORTS = NeutralSupports("Pyro", constraints, biject_to, to_numpy, _array)
