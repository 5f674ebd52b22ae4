"""``AutoFlow.load``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine

from ppl_flows.core.params import map_params, merge, split
from ppl_flows.files import load, save_fit
from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.model_map import ModelMap
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_fits import SavedFit
from ppl_flows.inference.saved_results import has_arguments, loaded_guide, loaded_result, whole_flow
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.elbo import choose_elbo
from ppl_flows.pyro.fitted_guide import FittedGuide, fitted_guide
from ppl_flows.pyro.mixture import MixtureFlow
from ppl_flows.pyro.neutral_supports import SUPPORTS
from ppl_flows.pyro.transform import FlowTransform
from ppl_flows.safe_files import faults_of
from ppl_flows.torch.params import to_tensor


@one_at_a_time
def load_fit(
    make: Callable[[SavedFit], Any],
    path: Path,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Any, FitResult]:
    """The guide, by ``make``, and the result of a file."""
    saved = load(path)
    if not isinstance(saved, SavedFit):
        raise ValueError(f"{str(path)!r} holds no fit of an AutoFlow; pf.load gives what it holds.")
    with faults_of(path):
        for site in saved.sites:
            SUPPORTS.transform(site)
    guide = make(saved)
    start: Callable[[], Fitted] | None = None
    transform = transform_of(saved)
    params = {guide.parameter_name(leaf): p.detach().clone() for leaf, p in transform.named_parameters()}
    if saved.log_weights is not None:
        params[guide.weights_name] = to_tensor(saved.log_weights)
    params |= {".".join(path): to_tensor(array) for path, array in saved.model_params}
    if has_arguments(model, args, kwargs):
        with poutine.block(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(saved.seed)
            guide._setup_prototype(*args, **kwargs)
        start = partial(_fitted, saved, model, guide, args, kwargs, params)
    fitted = loaded_guide(saved, draw_sites, start)
    return guide, loaded_result(saved, params, fitted, partial(_write, saved=saved))


def transform_of(saved: SavedFit, like: torch.Tensor | None = None, informed: ModelMap | None = None) -> FlowTransform:
    """From a standard normal to the latent vector, with parameters that train, on the device of a tensor."""
    bijection, params = whole_flow(saved, informed)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return to_tensor(array) if like is None else torch.tensor(array).to(like)

    weights, state = split(params)
    trained = map_params(lambda _, a: torch.nn.Parameter(tensor(a)), weights)
    return FlowTransform(bijection, merge(trained, map_params(lambda _, a: tensor(a), state)))


def set_model_params(saved: SavedFit) -> None:
    """Gives Pyro's store the model's parameters that a file has.

    Raises:
        ValueError: the model has none of a name.
    """
    store = pyro.get_param_store()
    for path, value in saved.model_params:
        name = ".".join(path)
        if name not in store:
            raise ValueError(
                f"AutoFlow.load: the file has a parameter {name!r} of the model, which this model does not have."
            )
        store[name] = torch.as_tensor(value).to(store[name])


def draw_sites(saved: SavedFit, num_samples: int, seed: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Draws of the sites in a file, and the log density of the vectors they are made of."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        flow: Any = Flow(transform_of(saved))
        if saved.log_weights is not None:
            flow = MixtureFlow(flow, to_tensor(saved.log_weights).to(flow.base_dist.mean))
        draws = {}
        rest = flow.sample((num_samples,))
        log_q = np.asarray(flow.log_prob(rest).double().cpu())
        for site in saved.sites:
            size = int(np.prod(site.numbers))
            draws[site.name] = SUPPORTS.transform(site)(rest[:, :size].reshape(num_samples, *site.numbers))
            rest = rest[:, size:]
        return draws, log_q


def _fitted(
    saved: SavedFit,
    model: Callable[..., Any],
    guide: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    params: dict[str, torch.Tensor],
) -> FittedGuide:
    bound_model, bound_guide = partial(model, *args, **kwargs), partial(guide, *args, **kwargs)
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=[]):  # the guide may have trained on
        torch.manual_seed(saved.seed)
        choice = choose_elbo(
            lambda _: bound_model(), lambda _: bound_guide(), saved.num_particles, vectorize=saved.vectorized
        )
        return fitted_guide(
            bound_model,
            bound_guide,
            params,
            choice,
            vectorized=saved.vectorized,
            num_particles=saved.num_particles,
            seed=saved.seed,
        )


def _write(_: FitResult, path: Path, *, saved: SavedFit) -> None:
    save_fit(path, saved)
