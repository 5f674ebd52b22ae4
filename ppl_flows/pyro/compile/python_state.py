"""What a model or a guide keeps in Python from run to run, which replays would not change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

HOSTS = ("torch", "pyro", "numpy", "ppl_flows", "builtins", "functools")  # whose functions keep nothing in globals
MOST_OBJECTS, MOST_ITEMS = 20_000, 1_000  # that are looked at; and in one list or dict
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.generic)

Seen = dict[str, Any]


def python_state(*functions: Callable[..., Any], ignored: Collection[torch.Tensor] = ()) -> Seen:
    """What functions can reach, closures, globals that they name, and attributes, as far as it is seen: by its place.

    Numbers, strings, small arrays, the lengths of lists, and how often a tensor was changed in place.

    Args:
        ignored: tensors that change for reasons of their own, as trained ones do.
    """
    walk = _Walk({t.data_ptr() for t in ignored})
    for function in functions:
        walk.see(function, "")
    return walk.found


def changed(before: Seen, after: Seen) -> str | None:
    """What is no longer as it was, in words; None: nothing."""
    for place in before.keys() | after.keys():
        old, new = before.get(place), after.get(place)
        if isinstance(old, _Version) and isinstance(new, _Version):
            if old.of == new.of and old.version != new.version:
                return place
        elif old != new and not (isinstance(old, _Version) or isinstance(new, _Version)):
            return place
    return None


class _Version:
    """Of a tensor: how often it was changed in place."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.of, self.version = id(tensor), 0 if tensor.is_inference() else tensor._version


class _Walk:
    def __init__(self, ignored: set[int]) -> None:
        self.found: Seen = {}
        self._ignored, self._seen = ignored, set[int]()

    def see(self, value: Any, place: str) -> None:
        """Notes a value, and what it leads to."""
        if isinstance(value, PLAIN):
            self.found[place] = repr(value)
            return
        if isinstance(value, torch.Tensor):
            if value.data_ptr() not in self._ignored:
                self.found[place] = _Version(value)
            return
        if id(value) in self._seen or len(self._seen) > MOST_OBJECTS or isinstance(value, ModuleType):
            return
        self._seen.add(id(value))
        if isinstance(value, np.ndarray):
            self.found[place] = value.tobytes() if value.size <= MOST_ITEMS and value.dtype != object else None
        elif isinstance(value, type):
            if not _of_a_host(value):
                self._attributes(vars(value), place)
        else:
            self._parts(value, place)

    def _parts(self, value: Any, place: str) -> None:
        if isinstance(value, Mapping):
            self.found[place] = len(value)
            self._all(((f"{place}[{k!r}]" if place else str(k), v) for k, v in list(value.items())[:MOST_ITEMS]))
        elif isinstance(value, list | tuple | set | frozenset):
            self.found[place] = len(value)
            self._all((f"{place}[{i}]", v) for i, v in enumerate([*value][:MOST_ITEMS]))
        elif isinstance(value, partial):
            self._all([(place, value.func), (place, value.args), (place, value.keywords)])
        elif isinstance(value, MethodType):
            self._all([(place, value.__self__), (place, value.__func__)])
        elif isinstance(value, FunctionType):
            self._function(value)
        elif hasattr(value, "__next__"):
            self.found[place] = _Iterator()
        else:
            slots = [n for n in getattr(type(value), "__slots__", ()) if isinstance(n, str) and hasattr(value, n)]
            self._attributes({n: getattr(value, n) for n in slots} | getattr(value, "__dict__", {}), place)
            self._all((place, parent) for parent in type(value).__mro__)  # their methods name globals

    def _attributes(self, attributes: Mapping[str, Any], place: str) -> None:
        # caches of hosts are filled where they are first asked for
        items = [(k, v) for k, v in list(attributes.items()) if not k.startswith("_cache")]
        self._all((f"{place}.{k}" if place else k, v) for k, v in items[:MOST_ITEMS])

    def _function(self, function: FunctionType) -> None:
        names = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        for name, cell in names:
            try:
                self.see(cell.cell_contents, name)
            except ValueError:  # an empty one
                continue
        self._all(
            [("an argument's default", function.__defaults__), ("an argument's default", function.__kwdefaults__)]
        )
        self._attributes(function.__dict__, function.__name__)
        if not _of_a_host(function):
            known = function.__globals__
            self._all((n, known[n]) for n in sorted(set(_names(function.__code__))) if n in known)

    def _all(self, items: Any) -> None:
        for place, value in items:
            self.see(value, place)


class _Iterator:
    """It may be elsewhere at every look, and none sees where."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


def _of_a_host(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] in HOSTS


def _names(code: CodeType) -> Iterator[str]:
    """Of globals and attributes, also in functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
