"""How a training goes: its rates, its averages, and its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.inference.warn_user import warn_user

BLOCKS = 20  # of the steps of a training: after each it is looked at, and over each the parameters are averaged
MIN_BLOCK_STEPS = 20  # steps in a block below which its spread is not known well enough to end a fit by
OUTLIER = 3.0  # root mean squares of the norm of the own optimiser's gradients, above which one of them is shortened
NORM_EPS = 1e-6  # added to norms: by torch.nn.utils.clip_grad_norm_, and so that none of 0 is a bound
LEFT = 0.01  # nats of KL that a training may leave which ends at its first look
ENOUGH = object()  # what ends a training where a watcher gives it


class Training(NamedTuple):
    """What the optimiser's loop returns: as in ``FitResult``."""

    losses: np.ndarray
    skipped: int
    params: dict[str, Any]
    interrupted: bool


class BestParams:
    """The parameters with the smallest validation loss of those that it was called with.

    Args:
        loss: of parameters.
        pack: what a checkpoint keeps of them, and ``unpack`` the way back: it is given the training's own, too.
        first: parameters that take the place of those of the first call, where their loss is smaller; None: none.

    Attributes:
        params: these; None before the first call.
        losses: of all.
    """

    def __init__(
        self,
        loss: Callable[[Any], Any],
        *,
        pack: Callable[[Any], Any],
        unpack: Callable[[Any, Any], Any],
        first: Any = None,
    ) -> None:
        self.params: Any = None
        self.losses: list[float] = []
        self._loss, self._smallest, self._first = loss, np.inf, first
        self._pack, self._unpack = pack, unpack

    def __call__(self, params: Any) -> None:
        loss = float(self._loss(params))
        if self._first is not None and not self.losses and (of_first := float(self._loss(self._first))) < loss:
            loss, params = of_first, self._first
        self.losses.append(loss)
        if not np.isfinite(self._smallest) or loss < self._smallest:  # the last ones, until one is finite
            self.params, self._smallest = params, loss if np.isfinite(loss) else np.inf

    def stalled(self, patience: int) -> bool:
        """Whether the last so many losses were all above the smallest one."""
        finite = np.isfinite(self.losses)
        return bool(finite.any()) and len(finite) - int(np.argmin(np.where(finite, self.losses, np.inf))) > patience

    def kept(self, otherwise: Callable[[], Any]) -> Any:
        """The parameters, or what ``otherwise`` gives where it was never called; a warning where no loss was finite."""
        if self.params is None:
            return otherwise()
        if not np.isfinite(self._smallest):
            warn_user(
                "the loss of the held-out rows was never finite, so that the last parameters are kept: a held-out row "
                "has no density, such as one very far from all others; look at the rows, or hold out none, "
                "validation=0.0."
            )
        return self.params

    def saved(self) -> list[Any] | None:
        """All of it, for a checkpoint; None before the first call."""
        return None if self.params is None else [self.losses, self._smallest, self._pack(self.params)]

    def restore(self, saved: list[Any] | None, values: Any) -> None:
        """As it was when this was saved; ``values`` are those of the training."""
        if saved is not None:
            self.losses, self._smallest = saved[0], saved[1]
            self.params = self._unpack(saved[2], values)


def block_watcher(
    trained_params: Callable[[Any], tuple[Any, ...]],
    best: BestParams | None,
    callback: Callable[[int, float, Any], Any] | None,
    patience: int | None = None,
) -> Callable[[int, float, Any], object] | None:
    """What ``fit_density`` does after a block: tries its parameters on held-out rows, and calls the user back.

    Args:
        trained_params: from what the training gives to what ``best`` takes, the bijection's parameters first.
        patience: it gives ``ENOUGH`` when so many blocks brought no smaller validation loss; None: never.
    """
    if best is None and callback is None:
        return None

    def watch(step: int, loss: float, values: Any) -> object:
        trained = trained_params(values)
        if best:
            best(trained)
        if callback:
            callback(step, loss, trained[0])
        return ENOUGH if best and patience is not None and best.stalled(patience) else None

    return watch


def learning_rate(step: Any, steps: int, xp: Any, look: int | None = None) -> Any:
    """Share of the learning rate at a step: up over the first 5 %, then a cosine to 0.

    Args:
        look: a step at which the training may be enough: so up to there, and once more for those that remain.
    """
    first = steps if look is None else look
    again = step >= first
    step, length = step - xp.where(again, first, 0), xp.where(again, max(steps - first, 1), first)
    return xp.minimum(1.0, (step + 1) / xp.maximum(0.05 * length, 1.0)) * 0.5 * (1 + xp.cos(np.pi * step / length))


def model_weight(step: Any, steps: int, anneal: float) -> Any:
    """Weight of the model's log density at a step: from ``anneal`` to 1 over the first half."""
    return np.minimum(1.0, anneal + (1 - anneal) * np.asarray(step) / max(steps / 2, 1))


def averaging_share(step: Any, steps: int) -> Any:
    """Share of a step's parameters in their mean, which starts anew in every block."""
    return 1 / (step % max(1, steps // BLOCKS) + 1)


def has_converged(
    losses: np.ndarray,
    steps: int,
    num_particles: int,
    anneal: float,
    tolerance: float | None,
    look: int | None = None,
) -> bool:
    """Whether a fit with these losses so far has converged, by its last two blocks.

    The ELBO moved by less than the tolerance from one to the other, and half the variance of the log weights, which
    near the posterior is KL(guide || posterior), is below it in the last; at ``look``, below ``LEFT`` is enough.
    """
    block = steps // BLOCKS
    first = len(losses) - 2 * block
    if tolerance is None or block < MIN_BLOCK_STEPS or first < 0 or model_weight(first, steps, anneal) < 1:
        return False
    if not np.isfinite(losses[first:]).all():  # of steps that were skipped
        return False
    before, last = losses[first:].reshape(2, block)
    spread, move = num_particles * last.var(ddof=1) / 2, abs(last.mean() - before.mean())
    return bool((spread < tolerance and move < tolerance) or (len(losses) == look and spread < LEFT))
