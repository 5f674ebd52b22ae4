"""The latent sites of a fit as a file holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class SavedSite:
    """A latent site of a model.

    Attributes:
        name: of the site.
        shape: of one value.
        support: where it lies, in words that both languages have: ``{"name": "interval", "lower_bound": 0.0, ...}``.
        numbers: shape of what becomes one value, so many numbers of the latent vector.
        value: one, where the guide saw its model.
        image: what the language makes of ``probe(numbers)``: another language has to make the same of it.
    """

    name: str
    shape: tuple[int, ...]
    support: dict[str, Any]
    numbers: tuple[int, ...]
    value: np.ndarray
    image: np.ndarray

    def __repr__(self) -> str:
        return f"SavedSite({self.name!r}, {self.shape}, {support_words(self.support)})"


def probe(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers that maps onto a support are compared at."""
    return np.asarray(np.sin(np.arange(1.0, math.prod(shape) + 1))).reshape(shape)


def support_words(support: dict[str, Any]) -> str:
    """A support in one short line."""
    inner = [v if isinstance(v, str) else repr(v) for k, v in support.items() if k not in ("name", "over")]
    words = f"{support['name']}({', '.join(w if len(w) < 40 else '...' for w in inner)})" if inner else support["name"]
    return f"independent({words}, {support['over']})" if support.get("over") else words


def sites_to_file(sites: tuple[SavedSite, ...]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """What JSON takes of sites, and their arrays."""
    words = [{"name": s.name, "shape": s.shape, "support": s.support, "numbers": s.numbers} for s in sites]
    arrays = {f"sites.{i}.{kind}": getattr(s, kind) for i, s in enumerate(sites) for kind in ("value", "image")}
    return words, arrays


def site_from_file(site: dict[str, Any], arrays: Arrays, i: int) -> SavedSite:
    """The i-th site; errors as of ``fit_from_file``."""
    shape, numbers = tuple(site["shape"]), tuple(site["numbers"])
    value, image = arrays[f"sites.{i}.value"], arrays[f"sites.{i}.image"]
    if not (value.shape == image.shape == shape):
        raise ValueError(f"the site {site['name']!r} has shape {shape}, but its arrays {value.shape}, {image.shape}.")
    if not (isinstance(site["support"]["name"], str) and isinstance(site["name"], str)):
        raise ValueError("a site, or its support, has no name.")
    if math.prod(numbers) > 4 * image.size:
        raise ValueError(f"the site {site['name']!r} takes {numbers} numbers for a value of shape {shape}.")
    return SavedSite(site["name"], shape, site["support"], numbers, value, image)
