"""``AutoFlow.load``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params
from ppl_flows.files import load, save_fit
from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_fits import SavedFit
from ppl_flows.inference.saved_results import has_arguments, loaded_guide, loaded_result, whole_flow
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.compile_once import random_key
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.elbo import choose_elbo
from ppl_flows.numpyro.fitted_guide import FittedGuide
from ppl_flows.numpyro.lazy_guide import set_up
from ppl_flows.numpyro.mixture import MixtureFlow
from ppl_flows.numpyro.neutral_supports import SUPPORTS
from ppl_flows.safe_files import faults_of


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
    prefix = saved.prefix or f"auto_{saved.sites[0].name}"
    own: Params = flow_of(saved)[1]
    if saved.log_weights is not None:
        own = {"components": own, "state": {"log_weights": to_array(saved.log_weights)}}
    params: dict[str, Any] = {f"{prefix}_flow": own}
    for names, array in saved.model_params:
        node = params
        for name in names[:-1]:
            node = node.setdefault(name, {})
        node[names[-1]] = to_array(array)
    if has_arguments(model, args, kwargs):
        set_up(guide, args, kwargs, saved.seed, {})
        start = partial(_fitted, saved, model, guide, args, kwargs, params)
    fitted = loaded_guide(saved, draw_sites, start)
    return guide, loaded_result(saved, params, fitted, partial(_write, saved=saved))


def flow_of(saved: SavedFit) -> tuple[Bijection, Params]:
    """From a standard normal to the latent vector, and its parameters, as arrays of the language."""
    bijection, params = whole_flow(saved)
    return bijection, map_params(lambda _, a: to_array(a), params)


def draw_sites(saved: SavedFit, num_samples: int, seed: int) -> tuple[dict[str, jax.Array], np.ndarray]:
    """Draws of the sites in a file, and the log density of the vectors they are made of."""
    transforms = [SUPPORTS.transform(site) for site in saved.sites]
    bijection, params = flow_of(saved)
    ends = np.cumsum([int(np.prod(site.numbers)) for site in saved.sites])

    @jax.jit  # one program, not one per operation
    def draw(key: jax.Array, params: Params) -> tuple[dict[str, jax.Array], jax.Array]:
        flow: Any = Flow(bijection, params)
        if saved.log_weights is not None:
            flow = MixtureFlow(flow, to_array(saved.log_weights))
        vectors, intermediates = flow.sample_with_intermediates(key, (num_samples,))
        parts = jnp.split(vectors, ends[:-1], axis=-1)
        return {
            site.name: transform(part.reshape(num_samples, *site.numbers))
            for site, transform, part in zip(saved.sites, transforms, parts, strict=True)
        }, flow.log_prob(vectors, intermediates)

    draws, log_q = draw(random_key(seed), params)
    return draws, np.asarray(log_q, dtype=np.float64)


def _fitted(
    saved: SavedFit,
    model: Callable[..., Any],
    guide: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    params: dict[str, Any],
) -> FittedGuide:
    bound = partial(model, *args, **kwargs), partial(guide, *args, **kwargs)
    choice = choose_elbo(*bound, saved.num_particles, random_key(saved.seed), params)
    return FittedGuide(model, guide, args, kwargs, params, choice, saved.num_particles, saved.seed)


def _write(_: FitResult, path: Path, *, saved: SavedFit) -> None:
    save_fit(path, saved)
