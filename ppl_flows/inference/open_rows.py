"""Which data are read row by row, and how; all others are in memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.iterated_rows import IteratedRows
from ppl_flows.inference.numbered_rows import NumberedRows, of_dataset
from ppl_flows.inference.row_source import Fetched, Reading, RowSource, leaves


def open_rows(data: Any, context: Any, reading: Reading) -> tuple[RowSource | None, Any, Any]:
    """What a training reads data and contexts from, and those that it starts from.

    Where they are arrays, lists or tables in memory: None, and these.

    Raises:
        TypeError, ValueError: contexts that do not go with the data; as ``NumberedRows`` and ``IteratedRows``.
    """
    if isinstance(data, Fetched):
        source: RowSource | None = NumberedRows(data.fetch, data.n, reading)
    elif is_on_disk(data) or (context is not None and any(map(is_on_disk, leaves((data, context))))):
        source = _of_arrays(data, context, reading)
    else:
        source = _in_turn(data, context, reading)
    return (source, data, context) if source is None else (source, *source.sample)


def is_on_disk(array: Any) -> bool:
    """Whether an array is read from a file: a memory map, or what has rows and cannot be calculated with."""
    if isinstance(array, np.ndarray):
        return isinstance(array, np.memmap)
    return all(hasattr(array, name) for name in ("shape", "dtype", "__getitem__")) and not hasattr(array, "__add__")


def opened(array: Any, name: str) -> Any:
    """An array on disk as it is, another one in NumPy.

    Raises:
        TypeError, ValueError: as in ``to_numpy``.
    """
    if isinstance(array, np.memmap):
        return np.asarray(array)  # the same pages, without the class
    return array if is_on_disk(array) else to_numpy(array, name)


def _of_arrays(data: Any, context: Any, reading: Reading) -> RowSource:
    data = opened(data, "data")
    if isinstance(context, Mapping):
        given: Any = {name: opened(value, "context") for name, value in context.items()}
    else:
        given = None if context is None else opened(context, "context")
    n = [leaf.shape[0] if leaf.shape else 0 for leaf in leaves((data, given))]
    if len({*n}) > 1:
        raise ValueError(f"data and context must have as many rows, got {n[0]} and {', '.join(map(str, n[1:]))}.")

    def fetch(numbers: np.ndarray) -> Any:
        if isinstance(given, dict):
            return data[numbers], {name: value[numbers] for name, value in given.items()}
        return data[numbers], None if given is None else given[numbers]

    return NumberedRows(fetch, n[0], reading)


def _in_turn(data: Any, context: Any, reading: Reading) -> RowSource | None:
    """Of a dataset, or of what is iterated."""
    if isinstance(data, Sequence | Mapping | set | np.ndarray) or any(
        hasattr(data, name) for name in ("shape", "__array__", "__array_interface__", "__dlpack__")
    ):
        return None
    if context is not None and any(hasattr(data, name) for name in ("__next__", "__getitem__", "__iter__", "__call__")):
        raise ValueError(
            f"context= goes with arrays; what else gives rows, such as this {type(data).__name__}, gives pairs of data "
            "and context."
        )
    if hasattr(data, "__next__"):
        return IteratedRows(lambda: data, reading, once=True)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not _is_iterable_dataset(data):
        return NumberedRows(of_dataset(data), len(data), reading)
    if hasattr(data, "__iter__"):
        return IteratedRows(lambda: iter(data), reading, once=False)
    if callable(data):
        return IteratedRows(lambda: iter(data()), reading, once=False)
    return None


def _is_iterable_dataset(data: Any) -> bool:
    """Whether it is torch's ``IterableDataset``, which inherits a ``__getitem__`` that it does not have."""
    torch_data = sys.modules.get("torch.utils.data")
    return torch_data is not None and isinstance(data, torch_data.IterableDataset)
