"""Groups of draws and data as ArviZ has them: ``InferenceData`` of 0.x, ``DataTree`` of 1.x, the same names in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.model_runs import Dims

SAMPLE_DIMS = ("chain", "draw")
WITHOUT_DRAWS = ("observed_data", "constant_data")
OF_PRIOR = ("prior", "prior_predictive")


def inference_data(
    groups: Mapping[str, Mapping[str, Any]],
    *,
    dims: Mapping[str, Sequence[str | None]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
    chains: int = 1,
) -> Any:
    """What the installed ArviZ works on.

    Args:
        groups: ``{group: {variable: array}}``; those of draws are ``(draws, *shape)``.
        dims: names of a variable's axes, without those of draws, from the left; None, or too few: ``{variable}_dim_i``.
            A name that a variable has too becomes ``{name}_dim``.
        coords: values of an axis; others are counted from 0.
        attrs: of the whole.
        chains: that the draws are of, one after the other; those of the prior are of one.

    Raises:
        ImportError: ArviZ is not installed.
        ValueError: as many coords as an axis has not; two names that are one in ArviZ.
    """
    try:
        import arviz
        import xarray
    except ImportError as error:
        raise ImportError(f"to_arviz needs ArviZ: pip install ppl_flows[arviz] ({error}).") from error
    # 1.x has no "/" in names, as it separates groups
    _check_safe_names(groups)
    groups = {group: {_safe(name): value for name, value in own.items()} for group, own in groups.items()}
    taken = {name for variables in groups.values() for name in variables}
    if reserved := sorted(taken & set(SAMPLE_DIMS)):
        raise ValueError(f"to_arviz: {reserved[0]!r} is ArviZ's own name of an axis; give the site another.")

    def axis(name: str) -> str:
        return f"{_safe(name)}_dim" if _safe(name) in taken else _safe(name)

    dims = {_safe(name): [None if a is None else axis(a) for a in own] for name, own in dims.items()}
    coords = {axis(name): values for name, values in coords.items()}
    stamp = {"created_at": datetime.now(UTC).isoformat(), "arviz_version": arviz.__version__}
    attrs = {**attrs, **stamp, "inference_library": "ppl_flows"}
    made = {}
    for group, variables in groups.items():
        if variables:
            sample_dims = () if group in WITHOUT_DRAWS else SAMPLE_DIMS
            own = 1 if group in OF_PRIOR else chains
            data = {name: _axes(name, a, dims.get(name, ()), sample_dims, own) for name, a in variables.items()}
            made[group] = xarray.Dataset(data, _coords(data, coords), attrs)
    if int(arviz.__version__.split(".")[0]) < 1:
        container: Any = arviz.InferenceData
        return container(attrs=attrs, **made)
    tree = xarray.DataTree.from_dict(made)
    tree.attrs = attrs
    return tree


def check_labels(
    dims: Mapping[str, Sequence[str | None]] | None,
    coords: Mapping[str, Any] | None,
    groups: Mapping[str, Mapping[str, Any]],
    known: Mapping[str, Dims],
) -> None:
    """Raises for dims and coords, as they were given, that are none, or of variables and axes that are not there.

    Raises:
        TypeError: no mappings, of no sequences.
        ValueError: an unknown variable or axis; more names than axes, or one twice.
    """
    dims, coords = {} if dims is None else dims, {} if coords is None else coords
    for option, given in (("dims", dims), ("coords", coords)):
        if not isinstance(given, Mapping):
            raise TypeError(f"to_arviz: {option} must be a dict by name, got {type(given).__name__}.")
        for name, values in given.items():
            if isinstance(values, str) or not hasattr(values, "__len__"):
                raise TypeError(f"to_arviz: {option}[{name!r}] must be a list, got {values!r}.")
    sizes = {
        name: np.ndim(value) - (group not in WITHOUT_DRAWS)
        for group, own in groups.items()
        for name, value in own.items()
    }
    for name, own in dims.items():
        if name not in sizes:
            raise ValueError(f"to_arviz: dims has {name!r}, but the variables are {', '.join(sizes)}.")
        if len(own) > sizes[name] or len(set(own) - {None}) < len([a for a in own if a is not None]):
            raise ValueError(f"to_arviz: dims[{name!r}] must name each of {sizes[name]} axes once, got {list(own)}.")
    axes = {a for own in (*known.values(), *dims.values()) for a in own if a is not None}
    axes |= {f"{name}_dim_{i}" for name, size in sizes.items() for i in range(size)}
    if unknown := [name for name in coords if name not in axes]:
        raise ValueError(f"to_arviz: coords has {unknown[0]!r}, but the axes are {', '.join(sorted(axes))}.")


def _check_safe_names(groups: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError for two names that become one."""
    named: dict[str, str] = {}
    for name in (name for own in groups.values() for name in own):
        if (other := named.setdefault(_safe(name), name)) != name:
            raise ValueError(f"to_arviz: {other!r} and {name!r} are both {_safe(name)!r} in ArviZ; rename one of them.")


def _safe(name: str) -> str:
    return name.replace("/", ".")


def _axes(
    name: str, value: Any, dims: Sequence[str | None], sample_dims: tuple[str, ...], chains: int
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the axes, and the array, by chains where it is of draws."""
    array = to_numpy(value, name)
    array = array.astype(np.float32) if array.dtype.kind == "V" else array  # bfloat16, which files have not
    array = array.reshape(chains, -1, *array.shape[1:]) if sample_dims else array
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
                    f"to_arviz: {axis!r} has size {size} in {name!r}, and {sizes[axis]} before it; give dims."
                )
            if axis in coords and len(coords[axis]) != size:
                raise ValueError(f"to_arviz: coords has {len(coords[axis])} values of {axis!r}, of size {size}.")
    return {axis: coords.get(axis, np.arange(size)) for axis, size in sizes.items()}


def labels(arguments: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Coords of plates, from the indexes of pandas and xarray arguments of a model.

    An index named as a plate labels it. One of rows without a name, and not only counted, labels the plate of its
    length, where there is but one such plate and no other such index.
    """
    found: dict[str, Any] = {}
    unnamed: dict[str, list[Any]] = {}
    for name, values in _indexes(arguments.values()):
        if name is not None:
            if sizes.get(name) == len(values):
                found[name] = values
        elif not np.array_equal(values, np.arange(len(values))):
            fits = [plate for plate, size in sizes.items() if size == len(values)]
            if len(fits) == 1:
                unnamed.setdefault(fits[0], []).append(values)
    for plate, candidates in unnamed.items():
        if all(np.array_equal(values, candidates[0]) for values in candidates):
            found.setdefault(plate, candidates[0])
    return found


def _indexes(values: Any) -> Iterator[tuple[str | None, np.ndarray]]:
    """Names and values of the indexes of tables, without importing what makes them; no unnamed ones of columns."""
    for value in values:
        if isinstance(value, Mapping):
            yield from _indexes(value.values())
        library = type(value).__module__.partition(".")[0]
        if library == "pandas" and hasattr(value, "index"):
            columns = getattr(value, "columns", None)
            for index in (value.index, *([] if columns is None or columns.name is None else [columns])):
                if getattr(index, "nlevels", 1) == 1:
                    yield (None if index.name is None else str(index.name)), np.asarray(index)
        elif library == "xarray" and hasattr(value, "indexes"):
            for name, index in value.indexes.items():
                if getattr(index, "nlevels", 1) == 1:
                    yield str(name), np.asarray(index)


def constants(arguments: Mapping[str, Any], observed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The numbers among a model's arguments, by name, those in dicts, lists and tuples as ``name.key``; not its data.

    Data are arguments with the name of an observed site, or its values, where no second argument has them.
    """
    found = dict(_numbers(arguments))
    for site, data in observed.items():
        same = [name for name, array in found.items() if array.ndim and _equal(array, data)]
        for name in same if len(same) == 1 else [name for name in same if name == site]:
            del found[name]
    return found


def _numbers(arguments: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from _numbers({f"{name}.{key}": a for key, a in value.items()})
        elif value is not None and not isinstance(value, bool | str):
            try:
                yield name, to_numpy(value, name)
            except (TypeError, ValueError):  # no numbers, or several arrays
                if isinstance(value, list | tuple):
                    yield from _numbers({f"{name}.{i}": a for i, a in enumerate(value)})


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")
