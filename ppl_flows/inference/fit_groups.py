"""The groups that a fit has in ArviZ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.core.types import Array
from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.inference_data import check_labels, constants, inference_data, labels
from ppl_flows.inference.model_runs import Dims
from ppl_flows.inference.warn_user import warn_user

OF_GUIDE, RESAMPLED = "of the guide", "of the guide, resampled by smoothed importance weights"


class FitGroups(NamedTuple):
    """``{group: {variable: array}}``, names of axes and labels that were found, and attributes."""

    groups: dict[str, dict[str, Any]]
    dims: dict[str, Dims]
    coords: dict[str, Any]
    attrs: dict[str, Any]

    def to_arviz(
        self,
        *,
        coords: Mapping[str, Any] | None,
        dims: Mapping[str, Sequence[str | None]] | None,
        attrs: Mapping[str, Any],
        chains: int = 1,
    ) -> Any:
        """As ArviZ has them, the draws of so many chains; what is given overrides what was found."""
        check_labels(dims, coords, self.groups, self.dims)
        dims, coords = {**self.dims, **(dims or {})}, {**self.coords, **(coords or {})}
        return inference_data(self.groups, dims=dims, coords=coords, attrs={**self.attrs, **attrs}, chains=chains)


def fit_groups(
    fitted: Fitted,
    num_samples: int,
    *,
    resample: bool,
    prior: int,
    posterior_predictive: bool,
    log_likelihood: bool,
    seed: int,
) -> FitGroups:
    """Of a trained guide; options as of ``FitResult.to_arviz``.

    Raises:
        ValueError: draws are to be resampled whose weights are not known.
    """
    attrs = {"draws": RESAMPLED if resample else OF_GUIDE}
    if fitted.subsampled or not fitted.has_model:
        if resample:
            missing = "the likelihood is sub-sampled, so that the weights are noisy"
            if not fitted.has_model:
                missing = (
                    "the fit was loaded without the model's arguments, AutoFlow.load(path, model, *args), to weigh by"
                )
            raise ValueError(f"to_arviz: {missing}; use reweighted=False.")
        if fitted.subsampled:
            return FitGroups({"posterior": fitted.draw(num_samples, seed)}, {}, {}, {**fitted.words, **attrs})
        draws, log_q = fitted.draw_with_log_q(num_samples, seed)
        return FitGroups({"posterior": draws, "sample_stats": {"log_q": log_q}}, {}, {}, {**fitted.words, **attrs})
    weighted = fitted.weigh(4 * num_samples if resample else num_samples, seed)
    weighted = weighted.resample(num_samples, seed) if resample else weighted
    return groups_of_draws(
        fitted,
        weighted.draws,
        {"lp": weighted.scores.log_p, "log_q": weighted.scores.log_q},
        attrs=attrs,
        prior=prior,
        posterior_predictive=posterior_predictive,
        log_likelihood=log_likelihood,
        seed=seed,
    )


def groups_of_draws(
    fitted: Fitted,
    latents: dict[str, Array],
    sample_stats: dict[str, Array],
    *,
    attrs: dict[str, Any],
    prior: int,
    posterior_predictive: bool,
    log_likelihood: bool,
    seed: int,
) -> FitGroups:
    """Of draws of the latents, ``{site: (n, *site shape)}``, and numbers of each, ``(n,)``."""
    if fitted.enumerates:
        latents = latents | fitted.draw_discrete(latents, seed)
        if log_likelihood:
            warn_user("to_arviz: no log_likelihood of single rows, as sites are summed over.")
    scores_rows = log_likelihood and not fitted.enumerates
    runs = fitted.run_model(latents, seed, predictive=posterior_predictive, log_likelihood=scores_rows)
    groups = {
        "posterior": fitted.complete(latents),
        "posterior_predictive": runs.predictive,
        "log_likelihood": runs.log_likelihood,
        "sample_stats": sample_stats,
        "observed_data": runs.observed,
        "constant_data": constants(fitted.arguments, runs.observed),
        **_prior_groups(fitted, prior, seed),
    }
    sizes = plate_sizes({**groups["posterior"], **runs.predictive}, runs.dims)
    return FitGroups(groups, runs.dims, labels(fitted.arguments, sizes), {**fitted.words, **attrs})


def _prior_groups(fitted: Fitted, num_samples: int, seed: int) -> dict[str, dict[str, Array]]:
    if not num_samples:
        return {}
    try:
        latents, data = fitted.draw_prior(num_samples, seed)
    except NotImplementedError as error:
        reason = f" ({error})" if str(error) else ""
        warn_user(f"to_arviz: no prior group, as a prior of the model cannot be drawn from{reason}.")
        return {}
    return {"prior": latents, "prior_predictive": data}


def plate_sizes(draws: Mapping[str, Any], dims: Mapping[str, Dims]) -> dict[str, int]:
    """Of the plates of variables that have draws."""
    return {
        plate: int(np.shape(value)[1 + i])
        for name, value in draws.items()
        for i, plate in enumerate(dims.get(name, ()))
        if plate is not None
    }
