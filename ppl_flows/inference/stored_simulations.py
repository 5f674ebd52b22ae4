"""Simulations that were made before, and need not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppl_flows.inference.amortized import Rows
from ppl_flows.inference.open_rows import opened
from ppl_flows.inference.row_source import SAMPLE_NUMBERS, SAMPLE_ROWS, Fetched

PROBED = 16  # simulations of the model itself, which show what the stored ones cannot


class StoredSimulations:
    """Latents, on their own supports, and data: ``{site: (n, *site shape)}``, arrays in memory or on disk.

    Attributes:
        n: number of simulations.

    Raises:
        ValueError: arrays with different numbers of rows.
        TypeError: some are no arrays of numbers.
    """

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = {site: opened(array, f"simulations[{site!r}]") for site, array in arrays.items()}
        sizes = {site: array.shape[0] if array.shape else 0 for site, array in self._arrays.items()}
        if len({*sizes.values()}) != 1:
            raise ValueError(
                "fit_amortized: simulations must be arrays {site: (n, *site shape)} with one n, got numbers of rows "
                f"{sizes}."
            )
        self.n = next(iter(sizes.values()))

    @classmethod
    def of(cls, simulations: Any, rounds: int) -> StoredSimulations | None:
        """None: they are to be made.

        Raises:
            ValueError: as above; several rounds.
        """
        if not isinstance(simulations, Mapping):
            return None
        if rounds > 1:
            raise ValueError("fit_amortized: rounds make simulations of their own; give a number, or use rounds=1.")
        return cls(simulations)

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ValueError unless there is an array for every latent and every data site, of this shape a row."""
        found = {site: tuple(array.shape[1:]) for site, array in self._arrays.items()}
        if wrong := sorted(site for site in found.keys() | shapes.keys() if found.get(site) != shapes.get(site)):
            said = "; ".join(f"{site!r}: {_say(shapes.get(site))}, got {_say(found.get(site))}" for site in wrong)
            raise ValueError(
                f"fit_amortized: simulations must be an array {{site: (n, *site shape)}} for every latent and every "
                f"data site of the model: {said}."
            )

    def drawn_by(self, simulator: Any) -> Callable[[int, int], Rows]:
        """What a simulator's ``rows`` gives, a sample of the stored ones, whatever number is asked for.

        Raises:
            ValueError: as ``check``; a latent whose support depends on others.
        """
        self.check(simulator.shapes)
        simulator.rows(PROBED, 0)
        return lambda _, seed: self._rows(simulator, self._sampled(seed))

    def fetched(self, simulator: Any, contexts: Callable[[dict[str, np.ndarray]], Any]) -> Fetched:
        """All of them, as rows of a density: normal scores of the latents, and contexts made of the data."""

        def fetch(numbers: np.ndarray) -> tuple[np.ndarray, Any]:
            z, x = self._rows(simulator, numbers)
            return z, contexts(x)

        return Fetched(fetch, self.n)

    def _rows(self, simulator: Any, numbers: np.ndarray) -> Rows:
        """Those with these sorted numbers."""
        z, x = simulator.stored({site: np.asarray(array[numbers]) for site, array in self._arrays.items()})
        parts = {"latents that are not finite, or outside of their supports": z} | {
            f"numbers at site {site!r} that are not finite": value for site, value in x.items()
        }
        for what, part in parts.items():
            bad = np.flatnonzero(~np.isfinite(part).reshape(len(part), -1).all(axis=-1))
            if len(bad):
                raise ValueError(
                    f"fit_amortized: {len(bad)} of {len(part)} simulations have {what} (the first is simulation "
                    f"{numbers[bad[0]]}); drop them."
                )
        return z, x

    def _sampled(self, seed: int) -> np.ndarray:
        """Numbers of some, by which data are scaled."""
        numbers = sum(int(np.prod(array.shape[1:])) for array in self._arrays.values())
        size = min(self.n, SAMPLE_ROWS, max(2, SAMPLE_NUMBERS // max(numbers, 1)))
        return np.sort(np.random.default_rng(seed).choice(self.n, size, replace=False))


def _say(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(("n", *shape)).replace("'", "")
