"""How flows score their draws while a fit trains them, and while it measures them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_evaluating: ContextVar[bool] = ContextVar("evaluating", default=False)

_path: ContextVar[bool | None] = ContextVar("path", default=False)

ESTIMATORS = {"path": True, "reparam": False, None: None}  # of ``fit``, as ``path_gradients`` takes them


@contextmanager
def evaluation() -> Iterator[None]:
    """No flow made inside is in training mode: what a trained model and guide are measured in."""
    token = _evaluating.set(True)
    try:
        yield
    finally:
        _evaluating.reset(token)


@contextmanager
def path_gradients(on: bool | None) -> Iterator[None]:
    """Flows made inside score draws with parameters that pass no gradient; None: those that started near a posterior.

    The gradient of the ELBO then flows through the draws only ("sticking the landing"): it has the same mean, and no
    variance where the flow is the posterior. Far from it, and for splines, it can have more.

    Reference: Roeder et al. (2017), Sticking the Landing, arXiv:1703.09194.
    """
    token = _path.set(on)
    try:
        yield
    finally:
        _path.reset(token)


def on_the_path(*, near: bool = False) -> bool:
    """Whether a flow made now, near the posterior or not, takes part in path gradients."""
    wish = _path.get()
    return near if wish is None else wish


def in_training(training: bool) -> bool:
    """Whether a flow that asks for training mode gets it."""
    return training and not _evaluating.get()
