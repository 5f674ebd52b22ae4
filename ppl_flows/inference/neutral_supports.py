"""Supports of sites in words that both languages have, and back; and what a fit of a file asks of a model's sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_flows.inference.saved_sites import SavedSite, probe, support_words

# of the languages' modules ``constraints``: some are absent in one, or have no bijection from the reals there
WITHOUT_PARAMETERS = (
    "real",
    "positive",
    "nonnegative",
    "unit_interval",
    "circular",
    "simplex",
    "ordered_vector",
    "positive_ordered_vector",
    "corr_cholesky",
    "corr_matrix",
    "lower_cholesky",
    "positive_definite",
    "positive_semidefinite",
    "softplus_positive",
    "softplus_lower_cholesky",
    "scaled_unit_lower_cholesky",
    "l1_ball",
)
PARAMETERS = {
    "greater_than": ("lower_bound",),
    "greater_than_eq": ("lower_bound",),
    "less_than": ("upper_bound",),
    "less_than_eq": ("upper_bound",),
    "interval": ("lower_bound", "upper_bound"),
    "half_open_interval": ("lower_bound", "upper_bound"),
    "open_interval": ("lower_bound", "upper_bound"),
    "zero_sum": ("event_dim",),
}
IN_OTHER_WORDS = {  # which both languages have, and which are the same map
    "nonnegative": "positive",
    "greater_than_eq": "greater_than",
    "less_than_eq": "less_than",
    "half_open_interval": "interval",
    "open_interval": "interval",
}
KEEP_BY_HAND = "keep the flow and its params by pf.save, and the guide by the language's own means"


@dataclass(frozen=True)
class NeutralSupports:
    """Supports between a language's constraints and neutral words.

    Args:
        language: its name.
        constraints: its module of that name.
        biject_to: its registry.
        to_numpy: of its arrays.
        array: of numbers, in its default dtype.
    """

    language: str
    constraints: Any
    biject_to: Callable[[Any], Any]
    to_numpy: Callable[[Any], np.ndarray]
    array: Callable[[Any], Any]

    def site(self, name: str, fn: Any, value: Any) -> SavedSite:
        """A latent site, its distribution and a value, as a file has it.

        Raises:
            ValueError: a support that has no neutral words.
        """
        return self.site_on(name, fn.support, fn.shape(), value)

    def site_on(self, name: str, support: Any, shape: Any, value: Any, way_out: str = KEEP_BY_HAND) -> SavedSite:
        """A site of this support and shape, and a value; errors, which end in the way out, as of ``site``."""
        numbers = tuple(self.biject_to(support).inverse_shape(shape))
        words = self._words(name, support, way_out)
        return SavedSite(name, tuple(shape), words, numbers, self.to_numpy(value), self._image(support, numbers))

    def is_interval(self, support: Any) -> bool:
        """Whether its numbers lie, each by itself, between two ends."""
        while hasattr(support, "reinterpreted_batch_ndims"):
            support = support.base_constraint
        return (self._plain_words(support) or {}).get("name") in ("interval", "unit_interval", "circular")

    def row(self, name: str, support: Any, again: Any, shape: Any, value: Any) -> SavedSite:
        """A row of data of this shape.

        On its support; on the reals where the bounds are others in a second run, ``again``, or of each row.
        """
        words, others = (self._words(name, s, KEEP_BY_HAND) for s in (support, again))
        if words != others or any(isinstance(bound, list) for bound in words.values()):
            real = self.constraints.real
            support = self.constraints.independent(real, len(shape)) if shape else real
        return self.site_on(name, support, shape, value)

    def support(self, site: SavedSite) -> Any:
        """The language's own, of a site of a file.

        Raises:
            ValueError: it has none.
        """
        words = dict(site.support)
        name, over = words.pop("name"), words.pop("over", 0)
        known = name in WITHOUT_PARAMETERS or set(words) == set(PARAMETERS.get(name, ()))
        kind = getattr(self.constraints, name, None) if known else None
        if kind is None:
            raise self._refused(site, f"which {self.language} does not have")
        own = kind(*(self._bound(words[p]) for p in PARAMETERS[name])) if name in PARAMETERS else kind
        return self.constraints.independent(own, over) if over else own

    def transform(self, site: SavedSite) -> Any:
        """The language's map onto the support of a site of a file.

        Raises:
            ValueError: there is none, or it is another than that of the language which wrote the file.
        """
        support = self.support(site)
        try:
            transform = self.biject_to(support)
        except NotImplementedError:
            raise self._refused(site, f"onto which {self.language} has no bijection from the reals") from None
        if not _same(self._image(support, site.numbers), site.image):
            raise self._refused(site, f"onto which {self.language} has another map than the one of the fit")
        return transform

    def _refused(self, site: SavedSite, why: str) -> ValueError:
        words = f"site {site.name!r} has support {support_words(site.support)}, {why}"
        return ValueError(f"{words}; load the fit in the language that it was made in.")

    def _words(self, name: str, support: Any, way_out: str) -> dict[str, Any]:
        over, base = 0, support
        while hasattr(base, "reinterpreted_batch_ndims"):
            over, base = over + base.reinterpreted_batch_ndims, base.base_constraint
        found = self._plain_words(base)
        if found is None:
            raise ValueError(
                f"site {name!r} has the support {support!r}, which has no name that both languages know; {way_out}."
            )
        return {**found, "over": over} if over else found

    def _plain_words(self, base: Any) -> dict[str, Any] | None:
        for name, parameters in PARAMETERS.items():  # first, as Pyro's positive is its greater_than(0)
            if type(base) is getattr(self.constraints, name, None):
                values = {p: self._numbers(getattr(base, p)) for p in parameters}
                return _shortest({"name": IN_OTHER_WORDS.get(name, name), **values})
        for name in WITHOUT_PARAMETERS:
            if type(base) is type(getattr(self.constraints, name, None)):
                return {"name": IN_OTHER_WORDS.get(name, name)}
        return None

    def _numbers(self, bound: Any) -> Any:
        return self.to_numpy(bound).tolist() if hasattr(bound, "dtype") else bound

    def _bound(self, value: Any) -> Any:
        return value if isinstance(value, int | float) else self.array(value)

    def _image(self, support: Any, numbers: tuple[int, ...]) -> np.ndarray:
        return self.to_numpy(self.biject_to(support)(self.array(probe(numbers))))


def _shortest(words: dict[str, Any]) -> dict[str, Any]:
    if words == {"name": "interval", "lower_bound": 0, "upper_bound": 1}:
        return {"name": "unit_interval"}
    return {"name": "positive"} if words == {"name": "greater_than", "lower_bound": 0} else words


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-4, atol=1e-5))  # float32, after some sums


def check_sites(file: Sequence[SavedSite], model: Sequence[SavedSite]) -> None:
    """Raises ValueError, naming every difference, unless a model's latent sites are those of a file."""
    ours, theirs = {s.name: s for s in file}, {s.name: s for s in model}
    found = [f"{name!r} is in the file only" for name in ours if name not in theirs]
    found += [f"{name!r} is in the model only" for name in theirs if name not in ours]
    for name in (n for n in ours if n in theirs):
        a, b = ours[name], theirs[name]
        if a.shape != b.shape:
            found.append(f"{name!r} has shape {a.shape} in the file and {b.shape} in the model")
        elif a.numbers != b.numbers or not _same(a.image, b.image):
            words = support_words(a.support), support_words(b.support)
            found.append(f"{name!r} has support {words[0]} in the file and {words[1]} in the model")
    if not found and [*ours] != [*theirs]:
        found = [f"their order is {', '.join(ours)} in the file and {', '.join(theirs)} in the model"]
    if found:
        raise ValueError(
            f"AutoFlow.load: the fit in the file is not one of this model with these arguments: {'; '.join(found)}."
        )
