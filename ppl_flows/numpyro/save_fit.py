"""``FitResult.save``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import numpyro

import ppl_flows
from ppl_flows.core.params import map_params
from ppl_flows.files import save_fit, to_numpy
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_results import refuse_guide, saved_fit
from ppl_flows.numpyro.guide import AutoFlow


def save_result(result: FitResult, path: Path, *, guide: Callable[..., Any], num_particles: int, seed: int) -> None:
    """Writes a result to a file.

    Raises:
        TypeError: the guide is no ``AutoFlow``, or parameters of the model are no arrays in nested dicts.
        ValueError: a site whose support has no neutral words.
    """
    if not isinstance(guide, AutoFlow):
        return refuse_guide(guide, "numpy.savez or pickle on result.params")
    trained = dict(result.params)
    params = map_params(lambda _, a: to_numpy(a), trained.pop(f"{guide.prefix}_flow"))
    log_weights = params["state"]["log_weights"] if guide.num_modes > 1 else None
    sites = guide.latent_sites()
    save_fit(
        path,
        saved_fit(
            result,
            guide,
            params=params if log_weights is None else params["components"],
            log_weights=log_weights,
            model_params=dict(_leaves((), trained)),
            sites=sites,
            prefix=None if guide.prefix == f"auto_{sites[0].name}" else guide.prefix,
            num_particles=num_particles,
            seed=seed,
            vectorized=True,
            language="NumPyro",
            versions={"ppl_flows": ppl_flows.__version__, "numpyro": numpyro.__version__, "jax": jax.__version__},
        ),
    )


def _leaves(path: tuple[str, ...], tree: Any) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves((*path, name), value)
    elif hasattr(tree, "dtype"):
        yield path, to_numpy(tree)
    else:
        raise TypeError(
            f"save: the model's parameter {'.'.join(path)!r} has a {type(tree).__name__} in it; a file takes arrays in "
            "nested dicts."
        )
