"""``save`` and ``load``: one file holds a bijection, or a base, and its parameters, in neither framework's format."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.core.initialisation import check_params, initial_params
from ppl_flows.core.params import flatten
from ppl_flows.core.precision import wide
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Params
from ppl_flows.file_upgrades import from_format_1

FORMAT = "2"
PARTS = (AutoregressiveConditioner, Base, Bijection, Conditioner, Transformer)  # what a description is made of
_registered: dict[str, type] = {}
AnyClass = TypeVar("AnyClass", bound=type)


def register(cls: AnyClass) -> AnyClass:
    """Makes a class of your own one that ``save`` and ``load`` know, by its name; also as a decorator.

    A file holds names and never code: register the class before loading, too.

    Args:
        cls: a frozen dataclass that subclasses ``Bijection``, ``Transformer``, ``Conditioner``,
            ``AutoregressiveConditioner`` or ``Base``, whose fields are numbers, strings, bools, None, tuples of these,
            and objects of such classes.

    Raises:
        TypeError: another kind of class, or no dataclass.
        ValueError: another class has its name.

    Example:
        >>> from dataclasses import dataclass
        >>> import ppl_flows as pf
        >>> @pf.register
        ... @dataclass(frozen=True)
        ... class Doubled(pf.Bijection):
        ...     dim: int
        ...     def _forward(self, params, x, context):
        ...         return 2 * x, 0 * x.sum(-1) + self.dim * 0.6931471805599453
        ...     def _inverse(self, params, y, context):
        ...         return y / 2, 0 * y.sum(-1) - self.dim * 0.6931471805599453
    """
    parameters: Any = getattr(cls, "__dataclass_params__", None)
    if not (isinstance(cls, type) and issubclass(cls, PARTS) and parameters is not None and parameters.frozen):
        raise TypeError(
            "register takes a frozen dataclass that subclasses pf.Bijection, pf.Transformer, pf.Conditioner, "
            f"pf.AutoregressiveConditioner or pf.Base, got {cls!r}."
        )
    known = _classes().get(cls.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"register: {known!r} has the name {cls.__name__!r} already; give yours another.")
    _registered[cls.__name__] = cls
    return cls


def save(path: str | os.PathLike[str], bijection: Bijection | Base, params: Params) -> None:
    """Writes a bijection, or a base, and its parameters to one ``.safetensors`` file, which either language loads.

    The arrays keep their dtype; bfloat16, which NumPy lacks, becomes float32 of the same values. An existing file is
    replaced only when the new one is complete.

    Args:
        path: the file to write.
        bijection: a bijection or a base, made of ppl_flows' own classes and those that you have registered.
        params: nested dict of NumPy, torch or JAX arrays, with the structure of ``bijection.init``.

    Raises:
        TypeError: no bijection and no base, but a guide, a result, a recipe.
        ValueError: params do not have the bijection's structure and shapes, or it holds a class that is not registered.
    """
    if not isinstance(bijection, Bijection | Base):
        raise TypeError(
            f"save takes a bijection or a base, and its params, got {type(bijection).__name__}: of a guide save "
            "guide.get_transform(...), of a fitted density fit, each by .bijection and .params; a recipe is called "
            "first."
        )
    check_params(bijection, params)
    arrays = {name: _to_numpy(array) for name, array in flatten(params)}
    metadata = {"format": FORMAT, "bijection": json.dumps(_describe(bijection))}
    partial = f"{os.fspath(path)}.partial"
    save_file(arrays, partial, metadata=metadata)
    os.replace(partial, path)


def load(path: str | os.PathLike[str]) -> tuple[Bijection | Base, Params]:
    """Reads ``(bijection, params)``, or a base and its own, the arrays as NumPy arrays. Executes nothing from the file.

    Args:
        path: a file written by ``save``, in whichever language.

    Raises:
        ValueError: not a file of ours, a newer format, an unknown class or field, or arrays that do not fit.
    """
    try:
        opened = safe_open(path, framework="numpy")
    except SafetensorError as error:
        raise ValueError(f"{os.fspath(path)!r} is not a .safetensors file: {error}.") from error
    with opened as file:
        metadata = file.metadata() or {}
        if metadata.get("format") not in ("1", FORMAT):
            raise ValueError(
                f"{os.fspath(path)!r}: expected a ppl_flows file of format 1 or {FORMAT}, got "
                f"{metadata.get('format')!r}; a newer ppl_flows may read it."
            )
        params: dict[str, Any] = {}
        for name in file.keys():  # noqa: SIM118  safe_open is no mapping
            *groups, leaf = name.split(".")
            node = params
            for group in groups:
                node = node.setdefault(group, {})
            node[leaf] = file.get_tensor(name)
    description = json.loads(metadata["bijection"])
    if metadata["format"] == "1":
        try:
            description, params = from_format_1(description, params)
        except KeyError as error:
            raise ValueError(f"{os.fspath(path)!r}: a layer of format 1 lacks its field {error}.") from error
    bijection = _build(description)
    if not isinstance(bijection, Bijection | Base):
        raise ValueError(f"{os.fspath(path)!r} describes a {type(bijection).__name__}, not a bijection or a base.")
    complete = _with_empty_groups(initial_params(bijection, 0), params)
    check_params(bijection, complete)
    return bijection, complete


def _with_empty_groups(like: Params, params: Params) -> Params:
    """params with the groups that hold no arrays (layers without parameters), which a flat file cannot keep."""
    groups = {k: _with_empty_groups(v, params.get(k, {})) for k, v in like.items() if isinstance(v, Mapping)}
    return {**params, **groups}


def _to_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    if str(array.dtype).endswith("bfloat16"):
        array = wide(array)
    return np.asarray(array, order="C")


def _classes() -> dict[str, type]:
    import ppl_flows  # here: the package imports this module

    public = (getattr(ppl_flows, name) for name in ppl_flows.__all__)
    return {c.__name__: c for c in public if isinstance(c, type) and dataclasses.is_dataclass(c)} | _registered


def _describe(value: Any) -> Any:
    if isinstance(value, PARTS):
        if _classes().get(type(value).__name__) is not type(value):
            raise ValueError(
                f"only ppl_flows' own classes and registered ones can be saved, got {type(value)!r}; call "
                f"pf.register({type(value).__name__}) first, here and where the file is loaded."
            )
        fields = {f.name: _describe(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}  # type: ignore[arg-type]
        return {"class": type(value).__name__, **fields}
    if isinstance(value, tuple):
        return [_describe(v) for v in value]
    if isinstance(value, np.generic):  # a size that was an element of an array
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a field of type {type(value).__name__} cannot be saved: {value!r}.")


def _build(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_build(v) for v in value)
    if not isinstance(value, dict):
        return value
    fields = {k: _build(v) for k, v in value.items() if k != "class"}
    known = _classes().get(value.get("class", ""))
    if known is None:
        raise ValueError(
            f"unknown class {value.get('class')!r} in the file; if it is your own, pf.register it before loading, "
            "else a newer ppl_flows may know it."
        )
    unknown = fields.keys() - {f.name for f in dataclasses.fields(known)}
    if unknown:
        raise ValueError(f"unknown field {sorted(unknown)} of {known.__name__}; a newer ppl_flows may know it.")
    try:
        return known(**fields)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the file's {known.__name__} cannot be made: {error}") from error
