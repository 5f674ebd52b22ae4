"""Groups of draws and data as ArviZ has them: ``InferenceData`` of 0.x, ``DataTree`` of 1.x, the same names in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ppl_flows.inference.arrays import to_numpy

SAMPLE_DIMS = ("chain", "draw")
WITHOUT_DRAWS = ("observed_data", "constant_data")


def inference_data(
    groups: Mapping[str, Mapping[str, Any]],
    *,
    dims: Mapping[str, Sequence[str | None]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> Any:
    """What the installed ArviZ works on.

    Args:
        groups: ``{group: {variable: array}}``; those of draws get one chain, ``(draws, *shape)``.
        dims: names of a variable's axes, without those of draws, from the left; None, or too few: ``{variable}_dim_i``.
            A name that a variable has too becomes ``{name}_dim``.
        coords: values of an axis; others are counted from 0.
        attrs: of the whole.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: as many coords as an axis has not.
    """
    try:
        import arviz
        import xarray
    except ImportError as error:
        raise ImportError(f"to_arviz needs ArviZ: pip install ppl_flows[arviz] ({error}).") from error
    stamp = {"created_at": datetime.now(UTC).isoformat(), "arviz_version": arviz.__version__}
    attrs = {**attrs, **stamp, "inference_library": "ppl_flows"}
    taken = {name for variables in groups.values() for name in variables}

    def axis(name: str) -> str:
        return f"{name}_dim" if name in taken else name

    dims = {name: [None if axis_name is None else axis(axis_name) for axis_name in own] for name, own in dims.items()}
    coords = {axis(name): values for name, values in coords.items()}
    made = {}
    for group, variables in groups.items():
        if variables:
            sample_dims = () if group in WITHOUT_DRAWS else SAMPLE_DIMS
            data = {name: _axes(name, value, dims.get(name, ()), sample_dims) for name, value in variables.items()}
            made[group] = xarray.Dataset(data, _coords(data, coords), attrs)
    if int(arviz.__version__.split(".")[0]) < 1:
        container: Any = arviz.InferenceData
        return container(attrs=attrs, **made)
    tree = xarray.DataTree.from_dict(made)
    tree.attrs = attrs
    return tree


def _axes(
    name: str, value: Any, dims: Sequence[str | None], sample_dims: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the axes, and the array, with one chain where it is of draws."""
    array = to_numpy(value, name)
    array = array[None] if sample_dims else array
    own = range(array.ndim - len(sample_dims))
    given = [dims[i] if i < len(dims) else None for i in own]
    named = [f"{name}_dim_{i}" if axis is None else axis for i, axis in enumerate(given)]
    return (*sample_dims, *named), array


def _coords(data: Mapping[str, tuple[tuple[str, ...], np.ndarray]], coords: Mapping[str, Any]) -> dict[str, Any]:
    sizes: dict[str, int] = {}
    for name, (axes, array) in data.items():
        for axis, size in zip(axes, array.shape, strict=True):
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"to_arviz: {axis!r} has size {size} in {name!r} and {sizes[axis]} before it; give dims."
                )
            if axis in coords and len(coords[axis]) != size:
                raise ValueError(f"to_arviz: coords has {len(coords[axis])} values of {axis!r}, of size {size}.")
    return {axis: coords.get(axis, np.arange(size)) for axis, size in sizes.items()}


def labels(arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Coords of plates, from the indexes of pandas and xarray arguments of a model.

    An index named as a plate labels it. One without a name, and not only counted, labels the plate of its length, where
    there is but one.
    """
    found: dict[str, Any] = {}
    for name, values in _indexes(arguments.values()):
        if name is not None:
            if sizes.get(name) == len(values):
                found[name] = values
        elif not np.array_equal(values, np.arange(len(values))):
            fits = [plate for plate, size in sizes.items() if size == len(values)]
            if len(fits) == 1:
                found.setdefault(fits[0], values)
    return found


def _indexes(values: Any) -> Iterator[tuple[str | None, np.ndarray]]:
    """Names and values of the indexes of tables, without importing what makes them."""
    for value in values:
        if isinstance(value, Mapping):
            yield from _indexes(value.values())
        library = type(value).__module__.partition(".")[0]
        if library == "pandas" and hasattr(value, "index"):
            for index in (value.index, getattr(value, "columns", None)):
                if index is not None:
                    yield (None if index.name is None else str(index.name)), np.asarray(index)
        elif library == "xarray" and hasattr(value, "indexes"):
            for name, index in value.indexes.items():
                yield str(name), np.asarray(index)


def constants(arguments: Mapping[str, Any], observed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers among a model's arguments, by name, those in dicts as ``name.key``; not what it observes."""
    found: dict[str, np.ndarray] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            found |= constants({f"{name}.{key}": a for key, a in value.items()}, observed)
            continue
        if value is None or isinstance(value, bool | str):
            continue
        try:
            array = to_numpy(value, name)
        except (TypeError, ValueError):  # no numbers
            continue
        if not any(array.shape == data.shape and np.array_equal(array, data) for data in observed.values()):
            found[name] = array
    return found
