"""Checkpoints: a training in a file, from which the same call goes on after the process was killed."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from hashlib import sha256
from types import CellType, CodeType, FunctionType
from typing import Any, Protocol

import numpy as np

from ppl_flows.inference.warn_user import warn_user
from ppl_flows.safe_files import faults_of, parse, read, write

FORMAT = "checkpoint-1"
SHOWN, LENGTH = 6, 300  # differences in an error, and characters of each value
GROUPS = ("options", "arguments", "environment")  # of a fit, whose names say nothing
ADDRESS = r" at 0x[0-9a-f]+"  # of a function in a repr: another one in every process

ArrayOf = Callable[[Any], tuple[np.ndarray, str] | None]  # an array's bytes as NumPy has them, and its own dtype


class Kept(Protocol):
    """What else changes during a training."""

    def saved(self) -> Any:
        """It, as ``Checkpoint.write`` takes it."""

    def restore(self, saved: Any, values: Any) -> None:
        """As it was when this was saved."""


class Checkpoint:
    """The file of one training.

    Args:
        path: of the file.
        every: seconds between two writes.
        fit: arguments of the training, as ``describe`` gives them, and what else makes its numbers.
        array_of: what an array of the language is in NumPy, and the name of its dtype; None for what is no array.
        array_from: the way back.

    Attributes:
        saved: what was written last, as ``write`` took it; None where there is no file.

    Raises:
        FileFormatError: the file is no checkpoint, or damaged.
        ValueError: it is of another fit, or ``every`` is negative.
        FileNotFoundError: there is no such directory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        every: float,
        fit: Mapping[str, Any],
        array_of: ArrayOf,
        array_from: Callable[[np.ndarray, str], Any],
    ) -> None:
        self.path = checked_place(path, every)
        self.saved: Any = None
        self._every, self._array_of = every, array_of
        self._fit: dict[str, Any] = {}
        self._saved_fit: Any = None
        self._kept: dict[str, Kept] = {}
        self._next = 0.0  # the first write comes soon, so that one that cannot succeed is noticed
        if os.path.lexists(self.path):
            self._saved_fit, self.saved = _load(self.path, array_from)
        self.compare(fit)

    def compare(self, fit: Mapping[str, Any]) -> None:
        """More of what the training is, or the same again.

        Raises:
            ValueError: the file says otherwise, or it has changed, so that no checkpoint could be taken up.
        """
        fit = json.loads(re.sub(ADDRESS, "", json.dumps(fit)))
        changed = [line for name in self._fit.keys() & fit for line in differences(name, self._fit[name], fit[name])]
        if changed:
            raise ValueError(
                f"checkpoint: a training whose first step has not all that later ones have cannot go on from a file: "
                f"{'; '.join(changed[:SHOWN])}; use checkpoint=None."
            )
        self._fit |= fit
        if self._saved_fit is None:
            return
        found = [line for name, new in fit.items() for line in differences(name, self._saved_fit.get(name), new)]
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise ValueError(
                f"checkpoint {self.path!r} is of another fit: {'; '.join(found[:SHOWN])}{more}; delete the file or "
                "give another path."
            )

    def keep(self, things: Mapping[str, Kept]) -> Checkpoint:
        """Itself, whose file has these too."""
        self._kept |= things
        return self

    def restore_kept(self, values: Any = None) -> None:
        """What is kept is as it was; ``values`` are the parameters of the training."""
        for name, thing in self._kept.items():
            thing.restore(self.saved["kept"][name], values)

    def faults(self) -> AbstractContextManager[None]:
        """Whatever goes wrong with ``saved`` in this block is a ``FileFormatError``."""
        return faults_of(self.path)

    def is_due(self) -> bool:
        """Whether the time since the last write is over."""
        return time.monotonic() >= self._next

    def write(self, training: Mapping[str, Any]) -> None:
        """Writes dicts, lists and tuples of arrays, numbers, strings and None; warns where the system refuses."""
        arrays: dict[str, np.ndarray] = {}
        kept = {name: thing.saved() for name, thing in self._kept.items()}
        state = _without_arrays({**training, "kept": kept}, arrays, self._array_of)
        text = json.dumps({"fit": self._fit, "training": state})
        metadata = {"format": FORMAT, "checkpoint": text, "sha256": _digest(text, arrays)}
        try:
            write(self.path, arrays, metadata)
        except OSError as error:
            warn_user(f"checkpoint {self.path!r} could not be written, the fit goes on: {error}")
        self._next = time.monotonic() + self._every


def checked_place(path: str | os.PathLike[str], every: float) -> str:
    """The absolute path of a checkpoint; errors as of ``Checkpoint``."""
    if not every >= 0:
        raise ValueError(f"checkpoint_every must be seconds, 0 or more, got {every}.")
    absolute = os.path.abspath(os.fspath(path))
    if not os.path.isdir(os.path.dirname(absolute)):
        raise FileNotFoundError(f"checkpoint {absolute!r}: there is no directory {os.path.dirname(absolute)!r}.")
    return absolute


def _load(path: str, array_from: Callable[[np.ndarray, str], Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    metadata, arrays = read(path, (FORMAT,))
    with faults_of(path):
        text = metadata["checkpoint"]
        if metadata["sha256"] != _digest(text, arrays):
            raise ValueError("this checkpoint is damaged: its contents are not those that were written.")
        content = parse(text)
        fit, training = content["fit"], _with_arrays(content["training"], arrays, array_from)
        if not isinstance(fit, dict) or not isinstance(training, dict):
            raise ValueError("this is not a checkpoint of ppl_flows.")
        return fit, training


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _without_arrays(value: Any, arrays: dict[str, np.ndarray], array_of: ArrayOf) -> Any:
    """As JSON: an array is its number, and the keys of a dict need not be strings."""
    inner = partial(_without_arrays, arrays=arrays, array_of=array_of)
    found = array_of(value)
    if found is not None:
        name = str(len(arrays))
        arrays[name] = np.array(found[0], order="C")
        return {"array": name, "dtype": found[1]}
    if isinstance(value, Mapping):
        return {"dict": [[key, inner(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [inner(item) for item in value]}
    if isinstance(value, list):
        return [inner(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}, which the optimiser has; use another one.")


def _with_arrays(value: Any, arrays: Mapping[str, np.ndarray], array_from: Callable[[np.ndarray, str], Any]) -> Any:
    inner = partial(_with_arrays, arrays=arrays, array_from=array_from)
    if isinstance(value, list):
        return [inner(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return array_from(arrays[value["array"]], value["dtype"])
    if "tuple" in value:
        return tuple(inner(item) for item in value["tuple"])
    return {key: inner(item) for key, item in value["dict"]}


def describe(value: Any, array_of: ArrayOf) -> Any:
    """An argument as JSON: arrays by shape, dtype and hash, numbers and strings by value, functions by their code and
    what is bound to them, the hosts' distributions by their parameters, others by type."""
    again = partial(describe, array_of=array_of)
    found = array_of(value)
    if found is not None:
        return {"dtype": found[1], "shape": [*found[0].shape], "sha256": sha256(found[0].tobytes()).hexdigest()}
    if isinstance(value, Mapping):
        return {str(key): again(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [again(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | complex):
        return repr(value)
    parts = _parts_of(value)
    return {"of": name_of(value), **again(parts)} if parts else name_of(value)


def _parts_of(value: Any) -> dict[str, Any]:
    """What else an object is, beside its class: of partials, functions, and the hosts' distributions and ELBOs."""
    if isinstance(value, partial):
        return {"function": value.func, "bound": value.args, "bound by name": value.keywords}
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        around = {name: _of_cell(cell) for name, cell in cells}
        bound = {"defaults": value.__defaults__, "keywords": value.__kwdefaults__, "around it": around}
        return {"code": _code_of(value.__code__)} | {name: part for name, part in bound.items() if part}
    parts = {*getattr(value, "arg_constraints", {}), "base_dist", "num_particles"}
    return {name: part for name, part in getattr(value, "__dict__", {}).items() if name in parts}


def _of_cell(cell: CellType) -> Any:
    """What a function has from around it; functions, which may be itself, by name."""
    try:
        value = cell.cell_contents
    except ValueError:  # not yet there
        return None
    return name_of(value) if isinstance(value, FunctionType) else value


def _code_of(code: CodeType) -> str:
    consts = [_code_of(const) if isinstance(const, CodeType) else const for const in code.co_consts]
    said = [sorted(map(repr, const)) if isinstance(const, frozenset) else repr(const) for const in consts]
    return sha256(repr((code.co_code, code.co_names, said)).encode()).hexdigest()[:16]


def describe_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any], array_of: ArrayOf) -> dict[str, Any]:
    """Those of a model."""
    named = {f"argument {i}": value for i, value in enumerate(args, 1)}
    return {name: describe(value, array_of) for name, value in (named | dict(kwargs)).items()}


def name_of(value: Any) -> str:
    """Of a function or class, or of the class of an object."""
    while isinstance(value, partial):
        value = value.func
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def differences(name: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        if "sha256" in old and "sha256" in new:
            same = all(old.get(key) == new.get(key) for key in ("dtype", "shape"))
            return [f"{name} has other values" if same else f"{name} was {_say(old)}, is {_say(new)}"]
        if "sha256" not in old and "sha256" not in new:
            keys = [*new, *(key for key in old if key not in new)]
            return [line for key in keys for line in differences(_inside(name, key), old.get(key), new.get(key))]
    return [f"{name} was {_say(old)}, is {_say(new)}"]


def _inside(name: str, key: str) -> str:
    return key if name in GROUPS else f"{name} {key!r}"


def _say(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, dict) and "sha256" in value:
        return f"{value.get('dtype')} {tuple(value.get('shape', ()))}"
    said = value if isinstance(value, str) else json.dumps(value)
    return said if len(said) <= LENGTH else f"{said[:LENGTH]} …"
