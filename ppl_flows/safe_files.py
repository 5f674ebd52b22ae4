"""Arrays and a few strings in one ``.safetensors`` file: read as if from a stranger, written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from secrets import token_hex
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed, nor replace another
    fcntl = None  # type: ignore[assignment]

HEADER_BYTES = 2**23  # at most: what the names and shapes of some 80,000 arrays take
TEXT_LENGTH = 2**22  # of a description, at most
CONTAINERS = 2**16  # objects and lists in it, at most; with TEXT_LENGTH: what JSON makes of it fits into 100 MB
LEVELS = 128  # of nesting, at most: what reads them calls itself
NUMPY_DTYPES = {"BOOL", "U8", "I8", "U16", "I16", "F16", "U32", "I32", "F32", "U64", "I64", "F64", "C64"}
# what Python raises where code meets data that it was not written for
UNFIT = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)


class FileFormatError(ValueError):
    """A file is not what ``load`` takes, whatever is wrong with it: ``path`` and ``reason`` say where and what.

    What the operating system refuses, such as a file that is not there, stays an ``OSError``.

    Args:
        path: of the file; ``.path`` of the error.
        reason: what is wrong with it; ``.reason`` of the error.

    Example:
        >>> import pathlib, tempfile, ppl_flows as pf
        >>> path = tempfile.mkdtemp() + "/flow.safetensors"
        >>> _ = pathlib.Path(path).write_text("something else")
        >>> try:
        ...     pf.load(path)
        ... except pf.FileFormatError as error: print(error.path == path)
        True
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(os.fspath(path), reason)  # both are arguments, so that it pickles
        self.path, self.reason = os.fspath(path), reason

    def __str__(self) -> str:
        return f"{self.path!r}: {self.reason}"


@contextmanager
def faults_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever the contents of a file lead to in this block is a ``FileFormatError``."""
    try:
        yield
    except FileFormatError:
        raise
    except UNFIT as error:
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise FileFormatError(path, said if len(said) < 1000 else f"{said[:1000]} …") from error


def read(path: str | os.PathLike[str], formats: tuple[str, ...]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The metadata and the arrays, by their names in the file.

    Args:
        path: the file.
        formats: values of the metadata's ``"format"`` that the caller knows; no array of another file is read.

    Raises:
        FileFormatError: no regular file, no .safetensors file, one of another format, or one whose arrays NumPy lacks.
        OSError: what the system refuses.
    """
    with faults_of(path):
        _check_header_size(path)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") not in formats:
                    raise ValueError(
                        f"expected a ppl_flows file of format {' or '.join(formats)}, got {metadata.get('format')!r}; "
                        "a newer ppl_flows may read it."
                    )
                return metadata, {name: _array(file, name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        except SafetensorError as error:
            raise ValueError(f"this is not a .safetensors file: {error}.") from error


def _check_header_size(path: str | os.PathLike[str]) -> None:
    """Before anything is opened that could block, and before the header is parsed."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("this is no regular file, but a directory or a device.")
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > HEADER_BYTES:
        raise ValueError(
            f"this is not a .safetensors file of ppl_flows: its header would take {size} bytes, of {HEADER_BYTES}."
        )


def _array(file: Any, name: str) -> np.ndarray:
    dtype = file.get_slice(name).get_dtype()
    if dtype not in NUMPY_DTYPES:
        raise ValueError(f"the array {name!r} is of dtype {dtype}, which NumPy lacks.")
    return np.asarray(file.get_tensor(name))


def parse(text: str) -> Any:
    """What a JSON text of the metadata holds.

    Raises:
        ValueError: it is too long, nested too deeply or no JSON.
    """
    if len(text) > TEXT_LENGTH:
        raise ValueError(f"the description has {len(text)} characters, more than {TEXT_LENGTH}.")
    if text.count("{") + text.count("[") > CONTAINERS:
        raise ValueError(f"the description has more than {CONTAINERS} objects and lists.")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"the description is nested more than {LEVELS} levels deep.") from None
    except ValueError as error:
        raise ValueError(f"the description is not JSON: {error}.") from error
    level: list[Any] = [[value]]
    for _ in range(LEVELS):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, dict | list)]
    if level:
        raise ValueError(f"the description is nested more than {LEVELS} levels deep.")
    return value


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def nest(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Arrays of dotted names as nested params.

    Raises:
        ValueError: one name is an array and a group, or too deep.
    """
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *groups, leaf = name.split(".")
        if len(groups) > LEVELS:
            raise ValueError(f"the name {name[:40]!r}… of an array has more than {LEVELS} dots.")
        node = params
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ValueError(f"the array {name!r} lies in a group that is an array itself.")
        if leaf in node:
            raise ValueError(f"{name!r} is an array and a group of arrays.")
        node[leaf] = array
    return params


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file that ``read`` reads; one that exists is replaced when the new one is on the disk, or not at all.

    Several may write to one path at once: the last one wins. What a writer that was killed has left behind, the next
    one to this path removes.

    Raises:
        ValueError: names, shapes or metadata of more than ``HEADER_BYTES``.
        OSError: what the system refuses, such as a full disk; an old file is kept.
    """
    data = to_bytes(dict(arrays), dict(metadata))
    if int.from_bytes(data[:8], "little") > HEADER_BYTES:
        raise ValueError(f"the names and shapes of {len(arrays)} arrays and the metadata exceed {HEADER_BYTES} bytes.")
    folder, name = os.path.split(os.path.abspath(path))
    prefix = f".{name[:40]}.{sha256(os.fsencode(name)).hexdigest()[:8]}."  # no name may have more than 255 bytes
    _remove_leftovers(folder, prefix)
    file = _open_partial(os.path.join(folder, prefix))
    try:
        with file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # under the lock: without, it would be taken for a leftover
                os.replace(file.name, path)
        if fcntl is None:
            os.replace(file.name, path)
    finally:
        with suppress(FileNotFoundError):  # it has its place
            os.unlink(file.name)
    with suppress(OSError):  # the file is there; some systems cannot sync a directory, or not this user's
        _sync_folder(folder)


def _open_partial(prefix: str) -> BinaryIO:
    """A new file, locked as long as it is open: what has no lock was left behind."""
    while True:
        file = open(f"{prefix}{token_hex(8)}.partial", "xb")  # noqa: SIM115
        _lock(file, wait=True)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # removed by another writer in the moment before the lock


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is locked, or the file system has no locks: then it may be in use
        return False
    return True


def _remove_leftovers(folder: str, prefix: str) -> None:
    for name in os.listdir(folder):
        if name.startswith(prefix) and name.endswith(".partial"):
            with suppress(OSError), open(os.path.join(folder, name), "rb") as file:  # others remove them, too
                if _lock(file, wait=False):
                    os.unlink(file.name)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
