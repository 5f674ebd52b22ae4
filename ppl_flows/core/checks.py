"""Checks of hyperparameters, where an object is made: what was expected, what came, and the way out."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_AXES = 64  # of NumPy and of torch


def whole_number(owner: str, name: str, value: Any, least: int = 1) -> int:
    """value as an int.

    Raises:
        TypeError: it is no whole number: a float, a tuple, a bool.
        ValueError: it is below least.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise TypeError(f"{owner}: {name} must be a whole number, got {value!r}.")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{owner}: {name} must be at least {least}, got {number}.")
    return number


def check_whole(owner: object, **least: int) -> None:
    """Makes these fields of a frozen dataclass ints of at least so much; raises as ``whole_number``."""
    for name, bound in least.items():
        value = whole_number(type(owner).__name__, name, getattr(owner, name), bound)
        object.__setattr__(owner, name, value)


def check_axes(owner: str, shape: Sequence[Any]) -> None:
    """Raises ValueError for a shape of more axes than arrays can have."""
    if len(shape) > MOST_AXES:
        raise ValueError(f"{owner}: an array has at most {MOST_AXES} axes, got a shape of {len(shape)}.")


def checked_shape(owner: str, shape: Any, name: str = "shape") -> tuple[int, int, int]:
    """shape as a tuple of ints; raises unless it is ``(height, width, channels)``."""
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise TypeError(f"{owner}: {name} must be (height, width, channels), got {shape!r}.")
    numbers = tuple(whole_number(owner, f"every entry of {name}", n) for n in shape)
    if len(numbers) != 3:
        raise ValueError(f"{owner}: {name} must be (height, width, channels), each at least 1, got {numbers}.")
    return numbers


def checked_widths(owner: str, hidden: Any, activation: str, activations: Sequence[str]) -> tuple[int, ...]:
    """hidden as a tuple of ints.

    Raises:
        TypeError: hidden is no tuple of whole numbers.
        ValueError: a width below 1, or an unknown activation.
    """
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise TypeError(f"{owner}: hidden must be a tuple of widths such as (32, 32), got {hidden!r}.")
    widths = tuple(whole_number(owner, "every hidden width", width) for width in hidden)
    if activation not in activations:
        raise ValueError(f"{owner}: unknown activation {activation!r}; choose one of {', '.join(activations)}.")
    return widths
