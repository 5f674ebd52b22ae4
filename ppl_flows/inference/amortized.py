"""What ``fit_amortized`` of both shells shares: data as contexts, and checks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LINEAR = 5.0  # absolute deviations up to which a Scaler is nearly linear


class Scaler(NamedTuple):
    """Data as a context for networks: centred, scaled, and compressed far out, so that heavy tails do no harm."""

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def from_rows(cls, rows: np.ndarray) -> Scaler:
        """By the median and the median absolute deviation of rows; 1 where that is 0."""
        centre = np.median(rows, axis=0)
        scale = np.median(np.abs(rows - centre), axis=0)
        return cls(centre, np.where(scale > 0, scale, 1.0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(LINEAR * np.arcsinh((rows - self.centre) / (LINEAR * self.scale)))


class Observations:
    """Data sets, ``{site: (n, *site shape)}``, as what networks take: vectors, or, for an encoder, the sites, scaled.

    Numbers of a vector are scaled each by itself, sites as a whole, which keeps what their elements have in common.
    """

    def __init__(self, scalers: dict[str, Scaler], *, encoder: bool) -> None:
        self.scalers, self._encoder = scalers, encoder

    @classmethod
    def from_rows(cls, data: dict[str, np.ndarray], *, encoder: bool) -> Observations:
        """Scaled by these data sets."""
        scalers = {n: Scaler.from_rows(v.reshape(-1, 1) if encoder else _flat(v)) for n, v in data.items()}
        return cls(scalers, encoder=encoder)

    def __call__(self, data: dict[str, np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
        if self._encoder:
            return {name: scaler(data[name]) for name, scaler in self.scalers.items()}
        return np.concatenate([scaler(_flat(data[name])) for name, scaler in self.scalers.items()], axis=-1)


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), -1)


ENCODED_ROWS = 1_024  # per call of an encoder, outside training


def check_encoded(shape: tuple[int, ...], trains: bool) -> None:
    """Raises ValueError unless an encoder that trains gave contexts of this shape for 2 rows."""
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"encoder: for 2 rows it must give shape (2, context_dim), but gave {tuple(shape)}.")
    if not trains:
        raise ValueError("encoder: it has no parameters to train; what a fixed function gives can be the data itself.")


def check_sites(data: list[str], latents: list[str]) -> None:
    """Raises ValueError unless a model for ``fit_amortized`` has both data and latents."""
    if not data or not latents:
        raise ValueError(
            f"fit_amortized: the model needs sites with obs, got {data}, and latent ones, got {latents}; give it data "
            "of the right shapes, whose values are not used."
        )


def check_data(observed: list[str], scalers: dict[str, Scaler]) -> None:
    """Raises ValueError unless a model observes what a loaded fit is given."""
    if missing := scalers.keys() - set(observed):
        raise ValueError(f"the fit in the file is given {sorted(missing)}, which this model does not observe.")


def check_simulations(z: np.ndarray, data: dict[str, np.ndarray]) -> None:
    """Raises ValueError unless there are enough simulations and all are finite."""
    if len(z) < 100:
        raise ValueError(f"fit_amortized: simulations must be at least 100, got {len(z)}.")
    bad = ~np.all([np.isfinite(_flat(v)).all(-1) for v in (z, *data.values())], axis=0)
    if bad.any():
        raise ValueError(
            f"fit_amortized: {bad.sum()} of {len(z)} simulations are not finite, on the unconstrained scale for the "
            "latents; narrow the priors, or let the model observe a transform of the data."
        )
