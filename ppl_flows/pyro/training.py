"""The optimiser's loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from tqdm.auto import trange

from ppl_flows.fit_result import MAX_SKIPPED, FitError, Training, learning_rate, model_weight
from ppl_flows.hosting import check_steps
from ppl_flows.pyro.params import stored_state


def train(
    elbo: Trace_ELBO,
    model: Callable,
    guide: Callable,
    *,
    steps: int,
    lr: float,
    clip: float,
    progress: bool,
    anneal: float = 1.0,
) -> Training:
    """Model and guide take the weight of the model's log density."""
    check_steps(steps, elbo.num_particles)
    losses, skipped, bad = np.full(steps, np.nan), 0, 0
    optimiser: torch.optim.Optimizer | None = None
    validate = is_validation_enabled()
    with trange(steps, disable=None if progress else True, desc="fit") as bar:
        for step in bar:
            before = {name: value.clone() for name, value in stored_state().items()}
            # Pyro's checks in the first step only: they cost, and would end the fit at one draw that is not finite
            with pyro.validation_enabled(validate and step == 0), poutine.trace(param_only=True) as seen:
                losses[step] = elbo.loss_and_grads(model, guide, model_weight(step, steps, anneal))
            found = {site["value"].unconstrained(): name for name, site in seen.trace.nodes.items()}
            if optimiser is None:
                if not found:
                    raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
                # one optimiser for all parameters: Pyro's own wrappers make one per parameter, several times slower
                optimiser = torch.optim.Adam(found, lr=lr, betas=(0.9, 0.99))
                names = found
            elif new := found.keys() - names.keys():
                optimiser.add_param_group({"params": list(new)})
                names |= found
            norm = torch.nn.utils.clip_grad_norm_(names, clip)
            bad = 0 if np.isfinite(losses[step]) and torch.isfinite(norm) else bad + 1
            if bad >= MAX_SKIPPED:
                raise FitError(step + 1 - bad, losses[: step + 1], _values(names.values()))
            for group in optimiser.param_groups:
                group["lr"] = lr * learning_rate(step, steps, np)
            if bad:
                skipped += 1
                for name, value in before.items():
                    stored_state()[name].copy_(value)
            else:
                optimiser.step()
            optimiser.zero_grad()
            if step % 100 == 99:
                bar.set_postfix(loss=f"{np.median(losses[step - 99 : step + 1]):.3f}")
    return Training(losses, skipped, _values(names.values()))


def _values(names: Iterable[str]) -> dict[str, torch.Tensor]:
    store = pyro.get_param_store()
    weights = {name: store[name].detach().clone() for name in names}
    return weights | {name: value.clone() for name, value in stored_state().items()}
