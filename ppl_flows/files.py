"""``save`` and ``load``: one file holds a bijection, or a base, and its parameters, in neither framework's format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import check_params, check_shapes, shapes_within
from ppl_flows.core.params import flatten
from ppl_flows.core.precision import wide
from ppl_flows.core.types import Params
from ppl_flows.descriptions import build, describe
from ppl_flows.file_upgrades import from_format_1
from ppl_flows.safe_files import faults_of, nest, parse, read, write

FORMAT = "2"


def save(path: str | os.PathLike[str], bijection: Bijection | Base, params: Params) -> None:
    """Writes a bijection, or a base, and its parameters to one ``.safetensors`` file, which either language loads.

    The arrays keep their dtype; bfloat16, which NumPy lacks, becomes float32 of the same values. An existing file is
    replaced only when the new one is complete and on the disk; of several saves to one path at once the last one wins.

    Args:
        path: the file to write.
        bijection: a bijection or a base, made of ppl_flows' own classes and those that you have registered.
        params: nested dict of NumPy, torch or JAX arrays, with the structure of ``bijection.init``.

    Raises:
        TypeError: no bijection and no base, but a guide, a result, a recipe.
        ValueError: params do not have the bijection's structure and shapes, it holds a class that is not registered, or
            ``load`` would refuse the file.
        OSError: what the system refuses, such as a full disk; an old file is kept.
    """
    if not isinstance(bijection, Bijection | Base):
        raise TypeError(
            f"save takes a bijection or a base, and its params, got {type(bijection).__name__}: of a guide save "
            "guide.get_transform(...), of a fitted density fit, each by .bijection and .params; a recipe is called "
            "first."
        )
    check_params(bijection, params)
    arrays = {name: _to_numpy(array) for name, array in flatten(params)}
    description = json.dumps(describe(bijection))
    _bijection_of(parse(description), arrays)  # a file that cannot be loaded is better not written
    write(path, arrays, {"format": FORMAT, "bijection": description})


def load(path: str | os.PathLike[str]) -> tuple[Bijection | Base, Params]:
    """Reads ``(bijection, params)``, or a base and its own, the arrays as NumPy arrays. Executes nothing from the file.

    A file may come from a stranger: nothing is built that is much larger than the file.

    Args:
        path: a file written by ``save``, in whichever language.

    Raises:
        FileFormatError: not a file of ours, a newer format, an unknown class or field, arrays that do not fit, or
            whatever else is wrong with it. It is a ValueError.
        OSError: what the system refuses, such as a file that is not there.
    """
    metadata, arrays = read(path, ("1", FORMAT))
    with faults_of(path):
        description, params = parse(metadata.get("bijection", "null")), nest(arrays)
        if metadata["format"] == "1":
            try:
                description, params = from_format_1(description, params)
            except KeyError as error:
                raise ValueError(f"a layer of format 1 lacks its field {error}.") from error
        bijection, shapes = _bijection_of(description, arrays)
        check_shapes(bijection, shapes, params)
        return bijection, _with_empty_groups(shapes, params)


def _bijection_of(description: Any, arrays: Mapping[str, np.ndarray]) -> tuple[Bijection | Base, Params]:
    """The bijection or base, and the shapes of its params; neither is larger than arrays allow."""
    numbers = sum(array.size for array in arrays.values())
    made = build(description, numbers)
    if not isinstance(made, Bijection | Base):
        raise ValueError(f"the file describes a {type(made).__name__}, not a bijection or a base.")
    return made, shapes_within(made, numbers)


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
