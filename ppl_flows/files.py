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
from ppl_flows.inference.joint_prior import SitesPrior
from ppl_flows.inference.saved_fits import (
    SavedAmortized,
    SavedDensity,
    SavedFit,
    amortized_from_file,
    amortized_to_file,
    density_to_file,
    fit_from_file,
    fit_to_file,
)
from ppl_flows.inference.saved_likelihoods import SavedLikelihood, likelihood_from_file, likelihood_to_file
from ppl_flows.inference.saved_priors import SavedPrior, prior_from_file, prior_to_file
from ppl_flows.safe_files import faults_of, nest, parse, read, write

FORMAT = "2"


def save(
    path: str | os.PathLike[str], bijection: Bijection | Base | SitesPrior | SavedPrior, params: Params | None = None
) -> None:
    """Writes a bijection, or a base, and its parameters to one ``.safetensors`` file, which either language loads.

    Or a ``JointPrior``, which has its parameters.

    The arrays keep their dtype; bfloat16, which NumPy lacks, becomes float32 of the same values. An existing file is
    replaced only when the new one is complete and on the disk; of several saves to one path at once the last one wins.

    Args:
        path: the file to write.
        bijection: a bijection or a base, made of ppl_flows' own classes and those that you have registered; or a
            ``JointPrior``, or the ``SavedPrior`` of one.
        params: nested dict of NumPy, torch or JAX arrays, with the structure of ``bijection.init``; None for a prior.

    Raises:
        TypeError: no bijection and no base, but a guide, a result, a recipe; no params, or those of a prior.
        ValueError: params do not have the bijection's structure and shapes, or are no real numbers of at most 64
            bits; it holds a class that is not registered, or ``load`` would refuse the file.
        OSError: what the system refuses, such as a full disk; an old file is kept.

    Example:
        >>> import tempfile, numpy as np, ppl_flows as pf
        >>> flow = pf.iaf(2)
        >>> path = tempfile.mkdtemp() + "/flow.safetensors"
        >>> pf.save(path, flow, flow.init(np.random.default_rng(0)))
    """
    if isinstance(bijection, SitesPrior | SavedPrior):
        if params is not None:
            raise TypeError("save: a prior has its params; pf.save(path, prior) writes both.")
        save_fit(path, bijection if isinstance(bijection, SavedPrior) else bijection.saved)
        return
    if not isinstance(bijection, Bijection | Base):
        raise TypeError(
            f"save takes a bijection or a base, and its params, got {type(bijection).__name__}: of a guide save "
            "guide.get_transform(...), of a fitted density fit, each by .bijection and .params; a recipe is called "
            "first."
        )
    if params is None:
        raise TypeError("save takes a bijection with its params: pf.save(path, bijection, params).")
    description, arrays = _written(bijection, params)
    write(path, arrays, {"format": FORMAT, "bijection": description})


def save_fit(
    path: str | os.PathLike[str], fit: SavedFit | SavedDensity | SavedAmortized | SavedLikelihood | SavedPrior
) -> None:
    """Writes what a fit is in no language; ``result.save(path)`` makes that of a result.

    Raises:
        ValueError, OSError: as of ``save``.
    """
    if isinstance(fit, SavedFit):
        metadata, arrays = _flow_parts(fit)
        document, more = fit_to_file(fit)
        write(path, arrays | more, metadata | {"kind": "fit", "fit": json.dumps(document)})
        return
    if isinstance(fit, SavedPrior):
        metadata, arrays = _flow_parts(fit)
        document, more = prior_to_file(fit)
        write(path, arrays | more, metadata | {"kind": "prior", "prior": json.dumps(document)})
        return
    density = fit if isinstance(fit, SavedDensity) else fit.density
    metadata, arrays = _flow_parts(density)
    if density.base is not None and density.base_params is not None:
        metadata["base"], parts = _written(density.base, density.base_params)
        arrays |= {f"base.{name}": array for name, array in parts.items()}
    document, more = density_to_file(density)
    arrays, metadata = arrays | more, metadata | {"kind": "density", "density": json.dumps(document)}
    if isinstance(fit, SavedAmortized):
        document, more = amortized_to_file(fit)
        arrays, metadata = arrays | more, metadata | {"kind": "amortized", "amortized": json.dumps(document)}
    if isinstance(fit, SavedLikelihood):
        document, more = likelihood_to_file(fit)
        arrays, metadata = arrays | more, metadata | {"kind": "likelihood", "likelihood": json.dumps(document)}
    write(path, arrays, metadata)


def _flow_parts(fit: SavedFit | SavedDensity | SavedPrior) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    description, arrays = _written(fit.bijection, fit.params)
    parts = {f"params.{name}": array for name, array in arrays.items()}
    return {"format": FORMAT, "bijection": description}, parts


def _written(bijection: Bijection | Base, params: Params) -> tuple[str, dict[str, np.ndarray]]:
    check_params(bijection, params)
    arrays = {name: to_numpy(array) for name, array in flatten(params)}
    check_dtypes(arrays)
    description = json.dumps(describe(bijection))
    _bijection_of(parse(description), arrays)  # a file that cannot be loaded is better not written
    return description, arrays


def load(path: str | os.PathLike[str]) -> Any:
    """Reads what ``save`` has written, in whichever language. Executes nothing from the file.

    A file may come from a stranger: nothing is built that is much larger than the file.

    Args:
        path: a file written by ``save``, in whichever language.

    Returns:
        ``(bijection, params)``, or a base and its own, the arrays as NumPy arrays. Of a fit that ``save`` of a result
        has written: a ``SavedFit``, ``SavedDensity``, ``SavedAmortized`` or ``SavedLikelihood``; of a ``JointPrior`` a
        ``SavedPrior``.

    Raises:
        FileFormatError: not a file of ours, a newer format, an unknown class or field, arrays that do not fit, or
            whatever else is wrong with it. It is a ValueError.
        OSError: what the system refuses, such as a file that is not there.

    Example:
        >>> import tempfile, numpy as np, ppl_flows as pf
        >>> flow = pf.iaf(2)
        >>> path = tempfile.mkdtemp() + "/flow.safetensors"
        >>> pf.save(path, flow, flow.init(np.random.default_rng(0)))
        >>> pf.load(path)[0] == flow
        True
    """
    metadata, arrays = read(path, ("1", FORMAT))
    with faults_of(path):
        if "kind" in metadata:
            return _fit(metadata, arrays)
        description, params = parse(metadata.get("bijection", "null")), nest(arrays)
        if metadata["format"] == "1":
            try:
                description, params = from_format_1(description, params)
            except KeyError as error:
                raise ValueError(f"a layer of format 1 lacks its field {error}.") from error
        bijection, shapes = _bijection_of(description, arrays)
        check_shapes(bijection, shapes, params)
        return bijection, _with_empty_groups(shapes, params)


def _fit(
    metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]
) -> SavedFit | SavedDensity | SavedAmortized | SavedLikelihood | SavedPrior:
    kind = metadata["kind"]
    if kind not in ("fit", "density", "amortized", "likelihood", "prior"):
        raise ValueError(f"it holds a {kind!r}, which this version does not know; a newer ppl_flows may read it.")
    bijection, params = _with_params(metadata["bijection"], arrays, "params.")
    if not isinstance(bijection, Bijection):
        raise ValueError(f"its flow is a {type(bijection).__name__}.")
    if kind == "fit":
        return fit_from_file(bijection, params, parse(metadata["fit"]), arrays)
    if kind == "prior":
        return prior_from_file(bijection, params, parse(metadata["prior"]), arrays)
    document = parse(metadata["density"])
    base, base_params = _with_params(metadata["base"], arrays, "base.") if "base" in metadata else (None, None)
    if base is not None and not isinstance(base, Base):
        raise ValueError(f"its base is a {type(base).__name__}.")
    density = SavedDensity(
        bijection,
        params,
        base,
        base_params,
        arrays["losses"],
        arrays.get("validation_losses"),
        int(document["skipped"]),
        bool(document["interrupted"]),
        str(document["language"]),
        {str(k): str(v) for k, v in document["versions"].items()},
    )
    if kind == "likelihood":
        return likelihood_from_file(density, parse(metadata["likelihood"]), arrays)
    return density if kind == "density" else amortized_from_file(density, parse(metadata["amortized"]), arrays)


def _with_params(text: str, arrays: Mapping[str, np.ndarray], prefix: str) -> tuple[Bijection | Base, Params]:
    own = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    made, shapes = _bijection_of(parse(text), own)
    params = nest(own)
    check_shapes(made, shapes, params)
    return made, _with_empty_groups(shapes, params)


def _bijection_of(description: Any, arrays: Mapping[str, np.ndarray]) -> tuple[Bijection | Base, Params]:
    """The bijection or base, and the shapes of its params; neither is larger than arrays allow."""
    numbers = sum(array.size for array in arrays.values())
    made = build(description, numbers)
    if not isinstance(made, Bijection | Base):
        raise ValueError(f"the file describes a {type(made).__name__}, not a bijection or a base.")
    return made, shapes_within(made, numbers)


def check_dtypes(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for arrays that a file does not hold."""
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
            raise ValueError(
                f"save: {name!r} has dtype {array.dtype}, but a file holds bools, whole numbers and floats of at most "
                "64 bits; convert it."
            )


def _with_empty_groups(like: Params, params: Params) -> Params:
    """params with the groups that hold no arrays (layers without parameters), which a flat file cannot keep."""
    groups = {k: _with_empty_groups(v, params.get(k, {})) for k, v in like.items() if isinstance(v, Mapping)}
    return {**params, **groups}


def to_numpy(array: Any) -> np.ndarray:
    """An array of any library, on the CPU; bfloat16 as float32."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    if str(array.dtype).endswith("bfloat16"):
        array = wide(array)
    return np.asarray(array, order="C")
