"""Data sets as what the networks of an amortised posterior take."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array
from ppl_flows.encoders.given_set import given_set_in, with_rows
from ppl_flows.inference.warn_user import warn_user

LINEAR = 5.0  # absolute deviations up to which a Scaler is nearly linear


class Scaler(NamedTuple):
    """Data as a context for networks: centred, scaled, and compressed far out, so that heavy tails do no harm."""

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> Scaler:
        """By the median and the median absolute deviation of rows; by the standard deviation, or 1, where that is 0."""
        rows = np.asarray(rows, dtype=float)
        centre = np.median(rows, axis=0)
        scale, spread = np.median(np.abs(rows - centre), axis=0), rows.std(0)
        return cls(centre, np.where(scale > 0, scale, np.where(spread > 0, spread, 1.0)))

    def __call__(self, rows: Array) -> Array:
        xp = namespace(rows)
        if isinstance(rows, np.ndarray):
            rows = rows.astype(float)
        centre, scale = (xp.constant(a, rows) for a in self)
        return LINEAR * xp.asinh((rows - centre) / (LINEAR * scale))


class Observations:
    """Data sets, ``{site: (n, *site shape)}``, as what networks take.

    Vectors; or, for an encoder, the sites; or, for a set, the contexts of a ``GivenSet``. Numbers of a vector and of a
    row of a set are scaled each by itself, sites for an encoder as a whole, which keeps what their elements have in
    common. Arrays are of any library, of floats.

    Args:
        scalers: by site.
        encoder: whether they are for an encoder.
        axes: of the sites in the plate whose rows are a set, its axis from the end, in a site's shape. None: no set.
        shapes: of the sites. None: of a file that does not have them, and not checked.
    """

    def __init__(
        self,
        scalers: dict[str, Scaler],
        *,
        encoder: bool,
        axes: dict[str, int] | None = None,
        shapes: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        self.scalers, self._encoder, self.axes, self.shapes = scalers, encoder, axes, shapes

    @classmethod
    def from_rows(
        cls, data: dict[str, np.ndarray], *, encoder: bool, axes: dict[str, int] | None = None
    ) -> Observations:
        """Scaled by these data sets."""
        members = axes or {}
        rows = {n: _members(v, members[n]) if n in members else _flat(v) for n, v in data.items()}
        if encoder:
            rows = {n: v.reshape(-1, 1) for n, v in data.items()}
        scalers = {n: Scaler.from_rows(v.reshape(-1, v.shape[-1])) for n, v in rows.items()}
        return cls(scalers, encoder=encoder, axes=axes, shapes={n: tuple(v.shape[1:]) for n, v in data.items()})

    def __call__(self, data: dict[str, Array]) -> Array | dict[str, Array]:
        if self._encoder:
            return {name: scaler(data[name]) for name, scaler in self.scalers.items()}
        members, parts = self.axes or {}, []
        if members:
            rows = [self.scalers[n](_members(data[n], axis)) for n, axis in members.items()]
            xp, flat = namespace(rows[0]), _flat(namespace(rows[0]).concat(rows, axis=-1))
            parts = [flat, 0.0 * flat[:, :1] + rows[0].shape[1]]
        parts += [scaler(_flat(data[n])) for n, scaler in self.scalers.items() if n not in members]
        xp = namespace(parts[0])
        return xp.concat(parts, axis=-1)

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of a row of the set, 0 without one, and numbers that are in no row."""
        members = self.axes or {}
        features = sum(self.scalers[n].centre.size for n in members)
        return features, sum(s.centre.size for n, s in self.scalers.items() if n not in members)

    def rows(self, data: dict[str, Array]) -> int | None:
        """How many rows the set of these data has; None without a set.

        Raises:
            ValueError: none, or sites of different sizes.
        """
        if not self.axes:
            return None
        sizes = {n: int(data[n].shape[axis]) for n, axis in self.axes.items()}
        if len({*sizes.values()}) > 1 or 0 in sizes.values():
            raise ValueError(f"the sites of a set must have the same number of rows, at least 1, got {sizes}.")
        return next(iter(sizes.values()))

    def check(self, data: dict[str, Array]) -> None:
        """Raises ValueError for sites of other shapes than in training, but for the number of rows of a set."""
        for name, shape in (self.shapes or {}).items():
            wanted, got = (_say(s, (self.axes or {}).get(name)) for s in (shape, data[name].shape[1:]))
            if got != wanted:
                raise ValueError(
                    f"the data {name!r} must have shape {wanted}, as this fit was trained on, got "
                    f"{tuple(data[name].shape[1:])}; fit again with data of this shape in the arguments."
                )

    def given(self, bijection: Bijection, data: dict[str, Array]) -> Bijection:
        """The bijection for these data: their set may have another size than those of training.

        Raises:
            ValueError: other shapes than in training; a set of another size than the encoder is for.

        Warns:
            UserWarning: a set larger than those of training.
        """
        self.check(data)
        rows, trained = self.rows(data), given_set_in(bijection)
        if rows is None or trained is None:
            return bijection
        if rows != trained.rows and not trained.encoder.any_size:
            raise ValueError(
                f"this fit has a SetEncoder(any_size=False), and is for sets of {trained.rows} rows, got {rows}; fit "
                "again with any_size=True and the most rows that a set has, or with sets of this size."
            )
        if rows > trained.rows:
            warn_user(
                f"this fit was trained on sets of up to {trained.rows} rows, and these data have {rows}: the posterior "
                "is extrapolated. Fit again with so many rows in the arguments."
            )
        return with_rows(bijection, rows)


def _say(shape: tuple[int, ...], axis: int | None) -> str:
    """In words, with the axis left open."""
    sizes = ["n" if i - len(shape) == axis else str(n) for i, n in enumerate(shape)]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


def _flat(rows: Array) -> Array:
    return rows.reshape(rows.shape[0], -1)


def _members(rows: Array, axis: int) -> Array:
    """``(n, rows of the set, numbers of a row)``."""
    return namespace(rows).moveaxis(rows, axis, 1).reshape(rows.shape[0], rows.shape[axis], -1)


def set_axes(
    plates: dict[str, dict[str, int]], latents: dict[str, dict[str, int]], plate: str | None
) -> dict[str, int]:
    """Of the data in the plate whose rows are a set, the axis from the end.

    Args:
        plates: of every site of data, the axis of each of its plates.
        latents: likewise of the latents, which must not be in it.
        plate: its name; None: the only one there is.

    Raises:
        ValueError: there is none, or there are several; or the plate has latents.
    """
    names = sorted({name for axes in plates.values() for name in axes})
    free = [n for n in names if not any(n in axes for axes in latents.values())]
    chosen = [plate] if plate is not None else free
    if len(chosen) != 1 or chosen[0] not in free:
        raise ValueError(
            "SetEncoder: the rows must be those of one plate of the model, with data and without latents; the model "
            f"has such plates {free}, and the encoder has plate={plate!r}. Put the rows in a plate, or name it."
        )
    return {site: axes[chosen[0]] for site, axes in plates.items() if chosen[0] in axes}
