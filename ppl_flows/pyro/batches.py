"""The rows of a step that are read when it takes them, where a step of Pyro finds them."""

from __future__ import annotations

from typing import Any

import torch

from ppl_flows.inference.row_source import RowSource, each, leaves


class Batches:
    """The rows of the step at hand, in tensors that stay, so that a replay reads them too.

    Args:
        source: of the rows.
        like: a tensor of the dtype and device.

    Attributes:
        rows: data and contexts; a model reads these, and nothing else of this object, which changes.
        tensors: all of them.
    """

    def __init__(self, source: RowSource, like: torch.Tensor) -> None:
        self._source = source
        self.rows: Any = each(lambda a: torch.as_tensor(a).to(like, copy=True), source.example())
        self.tensors: list[torch.Tensor] = leaves(self.rows)

    def load(self, step: int) -> None:
        """The rows are those of this step."""
        for tensor, array in zip(self.tensors, leaves(self._source.step(step)), strict=True):
            tensor.copy_(torch.as_tensor(array))


class OwnRandomNumbers:
    """A context in which torch's random numbers are a stream of their own, by this seed; outside they stay the same.

    What a Dataset or a DataLoader draws, for its order or to augment, does then not depend on what a training draws.
    """

    def __init__(self, seed: int) -> None:
        self._state = torch.Generator().manual_seed(seed).get_state()

    def __enter__(self) -> None:
        self._outside = torch.get_rng_state()
        torch.set_rng_state(self._state)

    def __exit__(self, *_: object) -> None:
        self._state = torch.get_rng_state()
        torch.set_rng_state(self._outside)
