"""Draws of sites as columns with names, such as ``theta[0]``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def chosen(owner: str, names: Sequence[str], coordinates: Sequence[str] | None, most: int) -> list[str]:
    """The names that were chosen: coordinates such as ``theta[0]``, or sites, which stand for all of theirs.

    Raises:
        TypeError: coordinates that are no sequence of strings.
        ValueError: one that is not there, or more than so many.
    """
    if coordinates is None:
        found, example = list(names), f"coordinates={list(names)[:3]}"
    else:
        if isinstance(coordinates, str) or not all(isinstance(c, str) for c in coordinates):
            raise TypeError(
                f"{owner}: coordinates must be a list of names such as ['mu', 'theta[0]'], got {coordinates!r}."
            )
        of_site = {c: [n for n in names if n == c or n.partition("[")[0] == c] for c in coordinates}
        if missing := [c for c, of in of_site.items() if not of]:
            there = ", ".join(list(names)[:10]) + (", …" if len(names) > 10 else "")
            raise ValueError(f"{owner}: the draws have no {missing[0]!r}; there are {there}.")
        found, example = list(dict.fromkeys(n for of in of_site.values() for n in of)), "fewer coordinates="
    if len(found) > most:
        raise ValueError(
            f"{owner}: at most {most} coordinates fit into one picture, got {len(found)}; choose {example}."
        )
    if not found:
        raise ValueError(f"{owner}: there are no coordinates to draw.")
    return found
