"""What models that are simulated, their simulations, and the data of a fit must be; the same in both languages."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from ppl_flows.inference.amortized import Rows
from ppl_flows.inference.warn_user import warn_user

ON_EDGE = 0.01  # share of simulations whose latents may be, by rounding, at an end of their support


def check_sites(data: list[str], latents: list[str]) -> None:
    """Raises ValueError unless a model for ``fit_amortized`` has both data and latents."""
    if not data or not latents:
        raise ValueError(
            f"fit_amortized: the model needs sites with obs, got {data}, and latent ones, got {latents}; give it data "
            "of the right shapes, whose values are not used."
        )


def check_continuous(discrete: list[str]) -> None:
    """Raises ValueError for latents, by name, that a flow cannot have."""
    if discrete:
        raise ValueError(
            f"fit_amortized: the latents {discrete} are discrete, and a flow has densities; sum them out in the model, "
            "such as by a MixtureSameFamily."
        )


def check_simulated(weighed: Mapping[str, str]) -> None:
    """Raises ValueError for a model whose density is not that of what it draws.

    Args:
        weighed: by site, what changes its density.
    """
    if weighed:
        name, what = next(iter(weighed.items()))
        raise ValueError(
            f"the model cannot be simulated: site {name!r} {what}, which changes its density, and not what it draws. "
            "Run the model without, or use fit(model, AutoFlow(model)), which takes the density."
        )


def check_given(given: Mapping[str, np.ndarray], data: Collection[str]) -> None:
    """Raises ValueError unless the data that a fit is given are all there, and finite.

    Args:
        given: that the model observes.
        data: sites.
    """
    if missing := sorted({*data} - given.keys()):
        raise ValueError(
            f"this fit is given the data {sorted(data)}, but the model observes nothing at {missing} with these "
            "arguments; pass all of the data."
        )
    for name in data:
        bad = ~np.isfinite(given[name])
        if bad.any():
            raise ValueError(
                f"the data {name!r} must be finite, but {bad.sum()} of {bad.size} numbers are not; impute what is "
                "missing, or use fit(model, AutoFlow(model)), where it can be a latent site."
            )


def warn_elsewhere(observed: dict[str, np.ndarray] | None, data: dict[str, np.ndarray]) -> None:
    """Warns where data are others than those that the rounds of a fit were aimed at."""
    if observed is not None and any(
        observed[name].shape != data[name].shape or not np.array_equal(observed[name], data[name]) for name in observed
    ):
        warn_user(
            "this fit was trained in rounds for the data in its arguments, and these are others: the posterior is that "
            "of a prior cut to where the former's was. Fit again with rounds=1, or with these data."
        )


def finite_rows(z: np.ndarray, data: dict[str, np.ndarray]) -> Rows:
    """The simulations, without those few whose latents rounding has put at an end of their support.

    Raises:
        ValueError: data that are not finite, or more than a few such latents.
    """
    fine = np.isfinite(z).all(-1)
    bad = ~np.all([np.isfinite(v.reshape(len(v), -1)).all(-1) for v in data.values()], axis=0)
    if bad.any() or np.mean(~fine) > ON_EDGE:
        raise ValueError(
            f"fit_amortized: {(bad | ~fine).sum()} of {len(z)} simulations are not finite, on the unconstrained scale "
            "for the latents; narrow the priors, or let the model observe a transform of the data."
        )
    return z[fine], {name: value[fine] for name, value in data.items()}


def check_supports(values: dict[str, np.ndarray], again: dict[str, np.ndarray]) -> None:
    """Raises ValueError where latents, mapped to the reals and back by the supports of one run, are others."""
    for name, value in values.items():
        off = np.abs(value - again[name])
        fine = off <= 1e-2 * (np.abs(value) + value.std() + 1e-6)
        if not np.all(fine | ~np.isfinite(off)):
            raise ValueError(
                f"fit_amortized: the support of site {name!r} depends on other latents; let the model draw it from a "
                "fixed support, such as a share in (0, 1), and compute the site from it."
            )
