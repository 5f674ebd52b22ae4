"""Which coordinates a picture is of."""

from __future__ import annotations

from collections.abc import Sequence


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
