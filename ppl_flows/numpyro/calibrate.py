"""``calibrate``: whether posteriors are right, on average over data that the model simulates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from numpyro import handlers

from ppl_flows.inference.calibrate import calibration_of, check_arguments, only_value
from ppl_flows.inference.calibration import Calibration
from ppl_flows.inference.density_results import AmortizedFit
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.simulation_checks import check_simulated
from ppl_flows.numpyro.model_runs import prior_draws, weighed
from ppl_flows.numpyro.simulator import sites_of


@one_at_a_time
def calibrate(
    model: Callable[..., Any],
    posterior: AmortizedFit | Callable[[Any, int], Mapping[str, Any]],
    *args: Any,
    simulations: int = 200,
    num_samples: int = 99,
    level: float = 0.95,
    seed: int = 0,
    progress: bool = True,
    **kwargs: Any,
) -> Calibration:
    """Simulation-based calibration: posteriors of data sets that the model itself has drawn, held against the truth.

    Draws parameters and data from the model, asks for the posterior of each data set, and looks where the truth lies
    among its draws: in each coordinate by itself, by ranks, and in all at once, by TARP. As many further simulations
    give the reference points of TARP: of each data set the parameters of the most similar other one.

    Args:
        model: a NumPyro model; its sites with ``obs`` are the data.
        posterior: what ``fit_amortized`` gives. Or a function of data and a seed that returns independent draws,
            ``{site: (n, *site shape)}``, of some or all of the latents, such as
            ``lambda y, seed: fit(model, AutoFlow(model), y, seed=seed).sample(99, seed=seed)``. The data are the value
            of the observed site, or ``{site: value}`` where there are several.
        *args, **kwargs: of the model: any data of the right shapes, whose values are not used.
        simulations: number of data sets, at least 10. 200 find intervals that hold 80 % for 90 %.
        num_samples: draws of each posterior of an amortised fit; a function decides by itself.
        level: with this probability right posteriors are called calibrated.
        seed: of the simulations; a whole number. Posteriors get those that follow.
        progress: shows a bar.

    Returns:
        A ``Calibration``: ``verdict`` says in words what is wrong where.

    Raises:
        ValueError: the model observes nothing, has no latents, a factor, or a site that is masked or scaled; draws of
            what is no latent, draws that are not finite, posteriors with different numbers of draws.
        TypeError: a posterior that takes no seed, or returns no draws.

    Example:
        >>> import numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from ppl_flows.numpyro import calibrate
        >>> model = lambda y: numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> too_narrow = lambda y, seed: {"z": y / 2 + 0.3 * random.normal(random.key(seed), (99,))}
        >>> calibrate(model, too_narrow, 0.0, progress=False).calibrated
        False

    Reference: Talts et al. (2018), Validating Bayesian Inference Algorithms with Simulation-Based Calibration,
    arXiv:1804.06788; Lemos et al. (2023), Sampling-Based Accuracy Testing of Posterior Estimators for General
    Inference, arXiv:2302.03026.
    """
    check_arguments(posterior, simulations, num_samples, level, seed)
    check_simulated(weighed(sites_of(model, args, kwargs)))
    latents, data = prior_draws(partial(model, *args, **kwargs), {}, 2 * simulations, seed)

    def draw(data: dict[str, Any], seed: int) -> Mapping[str, Any]:
        if not isinstance(posterior, AmortizedFit):
            return posterior(only_value(data), seed)
        with handlers.condition(data=data):
            return posterior.sample(num_samples, *args, seed=seed, **kwargs)

    return calibration_of(latents, data, draw, level=level, seed=seed, progress=progress)
