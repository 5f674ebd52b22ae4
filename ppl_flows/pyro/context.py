"""The context of the rows that ``fit_density`` trains on: as given, or made by an encoder that trains too."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pyro
import torch

from ppl_flows.inference.amortized import ENCODED_ROWS, check_encoded
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.density import check_encoder
from ppl_flows.torch.params import to_tensor

Values: TypeAlias = Any  # an array, or a dict of arrays, rows first


class Context:
    """What a conditional density is given; None, where it is given nothing.

    Args:
        values: ``(n, context_dim)``; or what the encoder takes, a tensor or a dict of tensors, rows first.
        encoder: from rows of values to ``(rows, context_dim)``. A copy of it trains.
        like: tensor of the dtype and device of the data.

    Attributes:
        encoder: the copy.

    Raises:
        TypeError: the encoder is no ``torch.nn.Module``.
        ValueError: there are no values for it.
    """

    def __init__(self, values: Values | None, encoder: torch.nn.Module | None, like: torch.Tensor) -> None:
        check_encoder(encoder, values)
        self._values = None if values is None else to_tensors(values, "context", like)
        encoder = checked_encoder(encoder)
        self.encoder = None if encoder is None else copy.deepcopy(encoder).eval()

    def __call__(self, rows: Any, encoder: torch.nn.Module | None = None) -> Any:
        """Of some rows, ``(rows, context_dim)``: by this encoder, or by the one that trains."""
        return self.of(self.values(rows), encoder)

    def values(self, rows: Any) -> Any:
        """Of some rows, as they were given."""
        return None if self._values is None else _each(lambda v: v[rows], self._values)

    def of(self, values: Any, encoder: torch.nn.Module | None = None) -> Any:
        """Likewise, of these values."""
        encoder = self.encoder if encoder is None else encoder
        return values if encoder is None else encoder(values)

    def register(self) -> None:
        """Inside a model: the encoder's weights are parameters, and it is in training mode."""
        if self.encoder is not None:
            pyro.module("encoder", self.encoder.train())

    @torch.no_grad()
    def all_rows(self) -> Any:
        """``(n, context_dim)``, before training.

        Raises:
            ValueError: the encoder gives another shape, or has nothing to train.
        """
        if self.encoder is None or self._values is None:
            return self._values
        check_encoded(self(slice(2)).shape, any(p.requires_grad for p in self.encoder.parameters()))
        n = len(next(iter(self._values.values())) if isinstance(self._values, Mapping) else self._values)
        return torch.cat([self(rows) for rows in torch.arange(n).split(ENCODED_ROWS)])

    def trained(self) -> torch.nn.Module | None:
        """A copy of the encoder as it is now, in evaluation mode, and without gradients of its weights."""
        return None if self.encoder is None else copy.deepcopy(self.encoder).eval().requires_grad_(False)


def checked_encoder(encoder: Any) -> torch.nn.Module | None:
    """The same; raises TypeError unless an encoder, if there is one, can train."""
    if encoder is not None and not isinstance(encoder, torch.nn.Module):
        raise TypeError(f"encoder must be a torch.nn.Module, or it would not train; got {type(encoder).__name__}.")
    return encoder


def to_tensors(values: Any, name: str, like: torch.Tensor | torch.dtype) -> Any:
    """An array, or every array in a dict, as a tensor of this dtype and device.

    Raises:
        TypeError, ValueError: as in ``to_numpy``.
    """
    return _each(lambda v: (v if isinstance(v, torch.Tensor) else to_tensor(to_numpy(v, name))).to(like), values)


def _each(f: Callable[..., Any], values: Any) -> Any:
    """f of a tensor, or of every tensor in a dict."""
    return {name: f(value) for name, value in values.items()} if isinstance(values, Mapping) else f(values)
