"""``FitResult.save``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch

import ppl_flows
from ppl_flows.files import save_fit, to_numpy
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_results import refuse_guide, saved_fit
from ppl_flows.pyro.guide import AutoFlow
from ppl_flows.pyro.params import trained_flow


def save_result(
    result: FitResult, path: Path, *, guide: Callable[..., Any], num_particles: int, seed: int, vectorized: bool
) -> None:
    """Writes a result to a file.

    Raises:
        TypeError: the guide is no ``AutoFlow``.
        ValueError: a site whose support has no neutral words.
    """
    if not isinstance(guide, AutoFlow):
        return refuse_guide(guide, "pyro.get_param_store().save(file), or torch.save(guide.state_dict(), file)")
    params, others = trained_flow(guide, result.params)
    save_fit(
        path,
        saved_fit(
            result,
            guide,
            params=params,
            log_weights=to_numpy(result.params[guide.weights_name]) if guide.num_modes > 1 else None,
            model_params={(name,): to_numpy(value) for name, value in others.items()},
            sites=guide.latent_sites(),
            prefix=None,
            num_particles=num_particles,
            seed=seed,
            vectorized=vectorized,
            language="Pyro",
            versions={"ppl_flows": ppl_flows.__version__, "pyro-ppl": pyro.__version__, "torch": torch.__version__},
        ),
    )
