"""The optimiser's loop of ``fit`` and ``fit_density``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from tqdm.auto import trange

from ppl_flows.fit_result import (
    BLOCKS,
    MAX_SKIPPED,
    FitError,
    Training,
    averaging_share,
    converged,
    learning_rate,
    model_weight,
)
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
    tolerance: float | None = None,
    watch: Callable[[], Any] | None = None,
) -> Training:
    """Model and guide take the weight of the model's log density; ``watch`` runs at the means of every block."""
    check_steps(steps, elbo.num_particles)
    losses, skipped, bad = np.full(steps, np.nan), 0, 0
    size = max(1, steps // BLOCKS)
    optimiser = _Adam()
    validate = is_validation_enabled()
    with trange(steps, disable=None if progress else True, desc="fit") as bar:
        for step in bar:
            before = {name: value.clone() for name, value in stored_state().items()}
            # Pyro's checks in the first step only: they cost, and would end the fit at one draw that is not finite
            with pyro.validation_enabled(validate and step == 0), poutine.trace(param_only=True) as seen:
                losses[step] = elbo.loss_and_grads(model, guide, model_weight(step, steps, anneal))
            optimiser.add({site["value"].unconstrained(): name for name, site in seen.trace.nodes.items()})
            norm = torch.nn.utils.clip_grad_norm_(optimiser.names, clip)
            bad = 0 if np.isfinite(losses[step]) and torch.isfinite(norm) else bad + 1
            if bad >= MAX_SKIPPED:
                raise FitError(step + 1 - bad, losses[: step + 1], _values(optimiser.names.values()))
            if bad:
                skipped += 1
                for name, value in before.items():
                    stored_state()[name].copy_(value)
            optimiser.step(0.0 if bad else lr * learning_rate(step, steps, np), averaging_share(step, steps))
            if watch and ((step + 1) % size == 0 or step + 1 == steps):
                with optimiser.at_mean():
                    watch()
            if (step + 1) % size == 0:
                bar.set_postfix(loss=f"{np.median(losses[step + 1 - size : step + 1]):.3f}")
                if converged(losses[: step + 1], steps, elbo.num_particles, anneal, tolerance):
                    break
    optimiser.settle()
    return Training(losses[: step + 1], skipped, _values(optimiser.names.values()))


class _Adam:
    """One optimiser for all parameters: Pyro's own wrappers make one per parameter, several times slower.

    Attributes:
        names: of all unconstrained parameters so far.
    """

    def __init__(self) -> None:
        self.names: dict[torch.Tensor, str] = {}
        self._mean: dict[torch.Tensor, torch.Tensor] = {}
        self._adam: Any = None  # made for the first parameters

    def add(self, found: dict[torch.Tensor, str]) -> None:
        """These parameters were seen; new ones train from now on."""
        new = [parameter for parameter in found if parameter not in self.names]
        if self._adam is None:
            if not new:
                raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
            self._adam = torch.optim.Adam(new, betas=(0.9, 0.99))
        elif new:
            self._adam.add_param_group({"params": new})
        self.names |= found
        self._mean |= {parameter: parameter.detach().clone() for parameter in new}

    def step(self, lr: float, share: float) -> None:
        """A step at this learning rate, which at 0 moves nothing, and its share in the mean."""
        for group in self._adam.param_groups:
            group["lr"] = lr
        if lr:
            self._adam.step()
        self._adam.zero_grad()
        with torch.no_grad():
            for parameter, mean in self._mean.items():
                mean.lerp_(parameter, share)

    @contextmanager
    def at_mean(self) -> Iterator[None]:
        """The parameters are their means for the moment."""
        now = [parameter.detach().clone() for parameter in self._mean]
        self.settle()
        yield
        with torch.no_grad():
            for parameter, value in zip(self._mean, now, strict=True):
                parameter.copy_(value)

    def settle(self) -> None:
        """The parameters are their means."""
        with torch.no_grad():
            for parameter, mean in self._mean.items():
                parameter.copy_(mean)


def _values(names: Iterable[str]) -> dict[str, torch.Tensor]:
    store = pyro.get_param_store()
    weights = {name: store[name].detach().clone() for name in names}
    return weights | {name: value.clone() for name, value in stored_state().items()}
