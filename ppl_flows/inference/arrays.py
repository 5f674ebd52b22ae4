"""What users hand in as data, contexts and weights: arrays, lists and tables of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ppl_flows.core.precision import wide


def to_numpy(value: Any, name: str = "an argument") -> np.ndarray:
    """A NumPy array of its own, rows contiguous, of numbers in an array of any library, a list or a table.

    Raises:
        TypeError: it holds no real numbers: text, an iterator such as a DataLoader, complex numbers.
        ValueError: rows of different lengths.
    """
    if hasattr(value, "detach"):
        value = wide(value.detach().cpu())  # as NumPy has no bfloat16
    try:
        array = np.array(np.asarray(value), order="C")
    except ValueError as error:
        raise ValueError(f"{name} must be an array of numbers, but its rows do not fit together: {error}.") from error
    if array.dtype.kind == "O" and array.ndim:  # a table whose columns are of several kinds
        try:
            array = array.astype(float)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must be an array of numbers, but holds others: {error}.") from error
    if array.dtype.kind not in "biufV":  # V: bfloat16 of JAX
        batches = hasattr(value, "__iter__") and not array.ndim and not isinstance(value, str)
        way_out = "; put its batches together in one array" if batches else ""
        got = f"{type(value).__name__} of {array.dtype}" if array.ndim else type(value).__name__
        raise TypeError(f"{name} must be an array, a list or a table of numbers, got {got}{way_out}.")
    return array
