"""Training steps as Pyro takes them, one by one, with their own optimiser or with one of the host's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from pyro.optim import PyroOptim

from ppl_flows.inference.fit_error import MAX_SKIPPED
from ppl_flows.inference.interrupts import StopOnInterrupt
from ppl_flows.inference.schedule import NORM_EPS, OUTLIER
from ppl_flows.pyro.adam import BETAS, EPS, Adam, usual_norm
from ppl_flows.pyro.batches import Batches
from ppl_flows.pyro.params import stored_state


class EagerSteps:
    """The loop's steps in Python: one optimiser for all parameters, as one for each is several times slower.

    Args:
        elbo, model, guide: model and guide take the weight of the model's log density.
        clip: bound on the norm of the gradient; the own optimiser's is also at most ``OUTLIER`` times its usual one.
        optimizer: as ``fit`` takes it. None: Adam, with the plan's learning rate.
        weighted: False: model and guide take nothing, as compiled losses of the host's want it.
        batches: what the model reads anew in every step; None: nothing.

    Attributes:
        names: of all unconstrained parameters so far.
        means: of their iterates.
        optimizer: made for the first of them, unless it is Pyro's, which makes its own.
        skipped, running: steps that were not finite, in all, and running.
        batches: as given.

    Raises:
        TypeError: the optimiser is of another kind.
    """

    def __init__(
        self,
        elbo: ELBO,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        clip: float,
        *,
        optimizer: Any = None,
        weighted: bool = True,
        batches: Batches | None = None,
    ) -> None:
        uncalled = getattr(optimizer, "__module__", "").startswith("pyro.optim") and not isinstance(
            optimizer, PyroOptim
        )
        if isinstance(optimizer, torch.optim.Optimizer) or uncalled or not (optimizer is None or callable(optimizer)):
            raise TypeError(
                "optimizer must be an object of pyro.optim, such as pyro.optim.Adam({'lr': 1e-2}), or, as parameters "
                "are made in the first step, a function of these that gives a torch optimiser, such as "
                f"functools.partial(torch.optim.Adam, lr=1e-2); got "
                f"{f'{optimizer.__name__}, which is to be called' if uncalled else type(optimizer).__name__}."
            )
        self.elbo: Any = elbo  # the host's base class has no loss_and_grads
        self.model, self.guide, self.clip = model, guide, clip
        self.names: dict[torch.Tensor, str] = {}
        self.means: dict[torch.Tensor, torch.Tensor] = {}
        self.optimizer: Any = None
        self._given, self._weighted, self.batches = optimizer, weighted, batches
        self.skipped = self.running = 0
        self._validate = is_validation_enabled()

    def run(self, plan: np.ndarray, first: int = 0) -> Iterator[float]:
        """The losses of steps by this plan, ``(n, 3)``: weight of the model, learning rate, share in the mean.

        It ends early after ``MAX_SKIPPED`` steps running that were not finite.

        Args:
            first: number of the first of these steps.
        """
        for step, (weight, lr, share) in enumerate(plan, first):
            if self.batches:
                self.batches.load(step)
            before = {name: value.clone() for name, value in stored_state().items()}
            loss, finite = self.gradient(weight)
            self.running = 0 if finite else self.running + 1
            if not finite:
                self.skipped += 1
                for name, value in before.items():
                    stored_state()[name].copy_(value)
            else:
                self._move(lr)
            for parameter in self.names:
                parameter.grad = None
            with torch.no_grad():
                torch._foreach_lerp_([*self.means.values()], [*self.means], share)
            yield loss
            if self.running >= MAX_SKIPPED:
                return

    def gradient(self, weight: float) -> tuple[float, bool]:
        """The loss, and whether it is finite and so is its gradient, which is now, clipped, in the parameters."""
        arguments = [weight] if self._weighted else []
        # Pyro's checks in the first step only: they cost, and would end the fit at one draw that is not finite
        with pyro.validation_enabled(self._validate), poutine.trace(param_only=True) as seen:
            loss = self._loss_and_grads(arguments)
        self._validate = False
        sites: dict[str, Any] = seen.trace.nodes
        self._add({site["value"].unconstrained(): name for name, site in sites.items()})
        loss = self._joined(loss, arguments)
        bound = min(self.clip, OUTLIER * usual_norm(self.optimizer) + NORM_EPS) if self._given is None else self.clip
        norm = torch.nn.utils.clip_grad_norm_(self.names, bound)
        return loss, bool(np.isfinite(loss) and torch.isfinite(norm))

    def interrupted(self, interrupt: StopOnInterrupt) -> bool:
        """Whether the training is to end after the last step."""
        return interrupt.requested

    def _loss_and_grads(self, arguments: list[float]) -> float:
        """The loss of this process, whose gradients are now in the parameters."""
        loss: float = self.elbo.loss_and_grads(self.model, self.guide, *arguments)
        return loss

    def _joined(self, loss: float, arguments: list[float]) -> float:
        """The loss of all processes, whose gradients are now in the parameters: here there is one."""
        return loss

    def _add(self, seen: dict[torch.Tensor, str]) -> None:
        """These parameters were seen; new ones train from now on."""
        new = [parameter for parameter in seen if parameter not in self.names]
        if self.optimizer is None:
            if not new:
                raise ValueError("there is nothing to train: neither the model nor the guide has parameters.")
            self.optimizer = self._make_optimizer(new)
        elif new and not isinstance(self.optimizer, PyroOptim):
            self.optimizer.add_param_group({"params": new})
        self.names |= seen
        self.means |= {parameter: parameter.detach().clone() for parameter in new}

    def _make_optimizer(self, parameters: list[torch.Tensor]) -> Any:
        if self._given is None:
            fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
            return Adam(parameters) if fused else torch.optim.Adam(parameters, betas=BETAS, eps=EPS)
        if isinstance(self._given, PyroOptim):
            return self._given
        optimizer = self._given(parameters)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise TypeError("optimizer: LBFGS takes several losses a step, and fit gives one; use another optimiser.")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"optimizer: of the parameters it must give a torch optimiser, but it gave {type(optimizer).__name__}."
            )
        return optimizer

    def _move(self, lr: float) -> None:
        """A step of the optimiser; lr is for the own one."""
        if isinstance(self.optimizer, PyroOptim):
            self.optimizer([parameter for parameter in self.names if parameter.grad is not None])
            return
        if self._given is None:
            if not lr:
                return
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        self.optimizer.step()

    def sync(self) -> None:
        """Nothing to do: Pyro's store has the parameters at every step."""

    def confirm(self, _: np.ndarray) -> None:
        """Nothing to do: these are the eager steps."""

    def look_again(self) -> None:
        """As above: they run the model itself."""

    def hand_over(self) -> None:
        """As above."""

    @contextmanager
    def at_means(self) -> Iterator[None]:
        """The parameters are their means for the moment."""
        now = [parameter.detach().clone() for parameter in self.means]
        self.settle()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([*self.means], now)

    def settle(self) -> None:
        """The parameters are their means."""
        with torch.no_grad():
            for parameter, mean in self.means.items():
                parameter.copy_(mean)

    def finish(self) -> None:
        """No step follows: the parameters stay their means."""
        self.settle()

    def values(self) -> dict[str, torch.Tensor]:
        """Of all parameters, by name and on their own support, and of all state."""
        store = pyro.get_param_store()
        weights = {name: store[name].detach().clone() for name in self.names.values()}
        return weights | {name: value.clone() for name, value in stored_state().items()}
