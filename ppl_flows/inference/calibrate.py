"""What ``calibrate`` of both shells shares: posteriors of simulated data, and what they come to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from tqdm.auto import tqdm

from ppl_flows.core.checks import SEEDS, checked_seed, real_number, whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.calibration import LEAST, Calibration
from ppl_flows.inference.coordinates import columns_of
from ppl_flows.inference.density_results import AmortizedFit
from ppl_flows.inference.expected_coverage import nearest_rows

Sites: TypeAlias = dict[str, Array]


def check_arguments(posterior: Any, simulations: int, num_samples: int, level: float, seed: int) -> None:
    """Raises before anything is simulated.

    Raises:
        TypeError: no numbers; a posterior that is no AmortizedFit and does not take data and a seed.
        ValueError: fewer than 10 simulations or 2 draws, a level that is no probability.
    """
    checked_seed("calibrate", seed)
    whole_number("calibrate", "simulations", simulations, LEAST)
    whole_number("calibrate", "num_samples", num_samples, 2)
    real_number("calibrate", "level", level, 0.0, 1.0)
    if isinstance(posterior, AmortizedFit):
        return
    if not callable(posterior):
        raise TypeError(
            f"calibrate: posterior must be what fit_amortized gives, or a function of data and a seed, got "
            f"{posterior!r}; such as lambda y, seed: fit(model, AutoFlow(model), y, seed=seed).sample(100, seed=seed)."
        )
    try:
        signature = inspect.signature(posterior)
    except (TypeError, ValueError):  # of a callable that hides it
        return
    try:
        signature.bind(None, 0)
    except TypeError:
        raise TypeError(
            f"calibrate: posterior must take data and a seed, lambda y, seed: …, but takes {signature}. With one seed "
            "for all data sets their draws would share their noise, and ranks that do are not uniform."
        ) from None


def calibration_of(
    latents: Sites,
    data: Sites,
    posterior: Callable[[Sites, int], Mapping[str, Array]],
    *,
    level: float,
    seed: int,
    progress: bool,
) -> Calibration:
    """Of posteriors of the first half of the simulations; the other half gives reference points.

    Args:
        latents, data: of an even number of simulations, ``{site: (n, *site shape)}``.
        posterior: draws given the data ``{site: value}`` and a seed: ``seed + 1 + i`` for data set i.
        level, seed: as of ``Calibration.from_draws``.
        progress: shows a bar.
    """
    if not latents or not data:
        raise ValueError(
            f"calibrate: the model needs sites with obs, got {sorted(data)}, and latent ones, got {sorted(latents)}; "
            "give it data of the right shapes, whose values are not used."
        )
    n = len(next(iter(latents.values()))) // 2
    drawn: list[dict[str, np.ndarray]] = []
    for i in tqdm(range(n), disable=None if progress else True, desc="calibrate"):
        own_seed = (seed + 1 + i) % SEEDS
        try:
            drawn.append(_arrays(posterior({name: value[i] for name, value in data.items()}, own_seed)))
        except Exception as error:
            error.add_note(f"calibrate: at data set {i} of {n}, with seed {own_seed}")
            raise
        shapes = [{name: value.shape for name, value in draws.items()} for draws in (drawn[0], drawn[-1])]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"calibrate: all posteriors must give draws of the same shapes, got {shapes[0]}, {shapes[1]}."
            )
    truths = {name: to_numpy(value) for name, value in latents.items()}
    if missing := sorted(drawn[0].keys() - truths.keys()):
        raise ValueError(
            f"calibrate: posterior gives draws of {missing[0]!r}, which is no latent site of the model; it has "
            f"{sorted(truths)}."
        )
    rows = np.stack(list(columns_of("calibrate", data, "data").values()), axis=-1)
    nearest = nearest_rows(rows[:n], rows[n:])
    return Calibration.from_draws(
        {name: truths[name][:n] for name in drawn[0]},
        {name: np.stack([draws[name] for draws in drawn]) for name in drawn[0]},
        references={name: truths[name][n:][nearest] for name in drawn[0]},
        level=level,
        seed=seed,
    )


def only_value(data: Sites) -> Any:
    """Data as a user's posterior takes them: the value of the one site, or ``{site: value}`` of several."""
    return data if len(data) > 1 else next(iter(data.values()))


def _arrays(draws: Any) -> dict[str, np.ndarray]:
    if not isinstance(draws, Mapping) or not draws:
        raise TypeError(
            f"calibrate: posterior must return draws, {{site: (num_draws, *site shape)}}, got {type(draws).__name__}; "
            "fit(…).sample(100, seed=seed) gives them."
        )
    return {name: to_numpy(value, f"calibrate: draws, site {name!r},") for name, value in draws.items()}
