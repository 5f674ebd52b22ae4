"""Bijections and bases as JSON: the names of their classes and their fields, and back without building what is huge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.core.transformer import Transformer
from ppl_flows.encoders.set_encoder import SetEncoder

PARTS = (
    AutoregressiveConditioner,
    Base,
    Bijection,
    Conditioner,
    SetEncoder,
    Transformer,
)  # what a description is made of
# What is built is measured by its sizes: together at most the numbers that the file's arrays hold, and these for layers
# without parameters, which take 0.3 s and 100 MB at most.
FREE = 2**20
PER_OBJECT = 64
EVENT = 4  # times as many coordinates: those of images on all reals cost nothing, and have few parameters
_registered: dict[str, type] = {}
AnyClass = TypeVar("AnyClass", bound=type)


def register(cls: AnyClass) -> AnyClass:
    """Makes a class of your own one that ``save`` and ``load`` know, by its name; also as a decorator.

    A file holds names and never code: register the class before loading, too. Whole numbers in its fields are sizes,
    which ``load`` compares with the arrays of the file; those of a field ``seed`` are not.

    Args:
        cls: a frozen dataclass that subclasses ``Bijection``, ``Transformer``, ``Conditioner``,
            ``AutoregressiveConditioner`` or ``Base``, whose fields are numbers, strings, bools, None, tuples of these,
            and objects of such classes.

    Returns:
        The class.

    Raises:
        TypeError: another kind of class, or no dataclass.
        ValueError: another class has its name.

    Example:
        >>> import ppl_flows as pf
        >>> from dataclasses import dataclass
        >>> @pf.register
        ... @dataclass(frozen=True)
        ... class Stretched(pf.Conditioner):
        ...     def bind(self, inputs, outputs, context_dim=0):
        ...         return pf.MLP((256, 256)).bind(inputs, outputs, context_dim)
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


def describe(value: Any) -> Any:
    """A bijection or a base as what JSON takes.

    Raises:
        ValueError: it holds a class that is not registered, or a field that is no number, string or such.
    """
    return _describe(value, _classes())


def build(description: Any, numbers: int) -> Any:
    """The object that ``describe`` has described.

    Args:
        description: what JSON gave.
        numbers: how many the arrays beside it hold.

    Raises:
        ValueError: an unknown class or field, fields that its class refuses, or sizes far above ``numbers``.
    """
    return _Builder(_classes(), numbers).build(description)


def _classes() -> Mapping[str, type]:
    import ppl_flows  # here: the package imports this module
    from ppl_flows.encoders.given_set import GivenSet  # which, as the next, only fits make
    from ppl_flows.inference.normal_scores import NormalToLogistic

    public = (getattr(ppl_flows, name) for name in ppl_flows.__all__)
    return (
        {c.__name__: c for c in public if isinstance(c, type) and dataclasses.is_dataclass(c)}
        | {c.__name__: c for c in (GivenSet, NormalToLogistic)}
        | _registered
    )


def _describe(value: Any, classes: Mapping[str, type]) -> Any:
    if isinstance(value, PARTS):
        if classes.get(type(value).__name__) is not type(value):
            if hasattr(value, "walk"):  # a ``ModelMap``
                raise ValueError(
                    f"{value!r} runs a model, which no file has; result.save(path) saves the fit of a guide, and "
                    "AutoFlow.load(path, model, *args) restores it."
                )
            raise ValueError(
                f"only ppl_flows' own classes and registered ones can be saved, got {type(value)!r}; call "
                f"pf.register({type(value).__name__}) first, here and where the file is loaded."
            )
        fields = [f.name for f in dataclasses.fields(value) if f.init]  # type: ignore[arg-type]
        return {"class": type(value).__name__} | {name: _describe(getattr(value, name), classes) for name in fields}
    if isinstance(value, tuple):
        return [_describe(v, classes) for v in value]
    if isinstance(value, np.generic):  # a size that was an element of an array
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"a field of type {type(value).__name__} cannot be saved: {value!r}.")


class _Builder:
    def __init__(self, classes: Mapping[str, type], numbers: int) -> None:
        self.classes, self.numbers = classes, numbers
        self.most = self.left = numbers + FREE

    def build(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple([self.build(v) if isinstance(v, dict | list) else v for v in value])
        return self._object(value) if isinstance(value, dict) else value

    def _object(self, description: dict[str, Any]) -> Any:
        name = description.get("class", "")
        known = self.classes.get(name) if isinstance(name, str) else None
        if known is None:
            raise ValueError(
                f"unknown class {name!r} in the file; if it is your own, pf.register it before loading, "
                "else a newer ppl_flows may know it."
            )
        fields = {k: self.build(v) for k, v in description.items() if k != "class"}
        unknown = fields.keys() - {f.name for f in dataclasses.fields(known)}
        if unknown:
            raise ValueError(f"unknown field {sorted(unknown)} of {known.__name__}; a newer ppl_flows may know it.")
        # before it is made: a constructor may count to its sizes
        sizes = [_size(v) for k, v in fields.items() if k != "seed"]
        self._spend(known.__name__, PER_OBJECT + max(sizes, default=0))
        try:
            made = known(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the file's {known.__name__} cannot be made: {error}") from error
        if isinstance(made, Bijection):
            self._check_shapes(made)
        return made

    def _check_shapes(self, made: Bijection) -> None:
        """Before another object asks for its supports, which have an entry for each coordinate."""
        name = type(made).__name__
        for shape in (made.event_shape, made.output_shape, made.batch_shape):
            if math.prod(shape) > EVENT * self.most:
                self._refuse(name)
        self._spend(name, len(made.domain or ()) + len(made.codomain or ()))

    def _spend(self, name: str, size: int) -> None:
        self.left -= size
        if self.left < 0:
            self._refuse(name)

    def _refuse(self, name: str) -> None:
        raise ValueError(
            f"the sizes up to the file's {name} are far above the {self.numbers} numbers that its arrays hold."
        )


def _size(value: Any) -> int:
    """What a field may lead its class to count to: its largest whole number, and how many it has."""
    if isinstance(value, tuple):
        return len(value) + max(map(_size, value), default=0)
    return abs(value) if isinstance(value, int) else 0
