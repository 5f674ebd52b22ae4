"""Draws of sites as columns with names, such as ``theta[0]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ppl_flows.inference.arrays import to_numpy


def columns_of(owner: str, draws: Any, name: str) -> dict[str, np.ndarray]:
    """Vectors ``(n,)`` by the names of coordinates, of ``{site: (n, *site shape)}``, or of an array ``(n, dim)`` as x.

    Raises:
        TypeError: no numbers.
        ValueError: no draws, or sites with different numbers of them.
    """
    sites = {"x": draws} if not isinstance(draws, Mapping) else draws
    arrays = {str(site): to_numpy(value, f"{owner}: {name}, site {site!r},") for site, value in sites.items()}
    lengths = {site: len(a) if a.ndim else 0 for site, a in arrays.items()}
    if len({*lengths.values()}) != 1 or 0 in lengths.values():
        raise ValueError(f"{owner}: {name} must have as many draws of every site, in its first axis, got {lengths}.")
    return {
        name_of(site, index): a[(slice(None), *index)].astype(float)
        for site, a in arrays.items()
        for index in np.ndindex(a.shape[1:])
    }


def name_of(site: str, index: tuple[int, ...]) -> str:
    """``theta[0,1]``; ``theta`` of a scalar site."""
    return f"{site}[{','.join(map(str, index))}]" if index else site
