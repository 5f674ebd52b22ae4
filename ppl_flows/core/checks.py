"""Checks of hyperparameters, where an object is made: what was expected, what came, and the way out."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

POSITIVE = (0.0, math.inf)  # ends of ``check_real``
SEEDS = 2**32  # how many every language has
MOST_AXES = 64  # of NumPy and of torch


def whole_number(owner: str, name: str, value: Any, least: int = 1) -> int:
    """value as an int.

    Raises:
        TypeError: it is no whole number: a float, a tuple, a bool.
        ValueError: it is below least.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__") or np.ndim(value):
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


def real_number(owner: str, name: str, value: Any, low: float, high: float) -> float:
    """value as a float.

    Raises:
        TypeError: it is no number: a string, a bool, None.
        ValueError: it does not lie between low and high, both excluded.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}.")
    if not low < value < high:
        ends = f"must lie between {low:g} and {high:g}" if high < math.inf else "must be positive and finite"
        raise ValueError(f"{owner}: {name} {ends}, got {value}.")
    return float(value)


def check_real(owner: object, **ends: tuple[float, float]) -> None:
    """Makes these fields of a frozen dataclass floats between such ends; raises as ``real_number``."""
    for name, (low, high) in ends.items():
        value = real_number(type(owner).__name__, name, getattr(owner, name), low, high)
        object.__setattr__(owner, name, value)


def check_flags(owner: object, *names: str) -> None:
    """Makes these fields of a frozen dataclass bools; raises TypeError unless they are True, False, 1 or 0."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, bool | np.bool_ | int | np.integer) or value not in (0, 1):
            raise TypeError(f"{type(owner).__name__}: {name} must be True or False, got {value!r}.")
        object.__setattr__(owner, name, bool(value))


def check_choice(owner: str, name: str, value: Any, choices: Sequence[str], more: str = "") -> None:
    """Raises ValueError unless value is one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{owner}: unknown {name} {value!r}; choose one of {', '.join(choices)}{more}.")


def checked_sequence(owner: str, name: str, value: Any, example: str) -> tuple[Any, ...]:
    """value as a tuple; raises TypeError unless it is a tuple, a list or an array, such as the example."""
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        raise TypeError(f"{owner}: {name} must be a tuple such as {example}, got {value!r}.")
    return tuple(value)


def checked_seed(owner: str, seed: Any) -> int:
    """seed as an int that NumPy, torch and JAX take.

    Raises:
        TypeError: it is no whole number, such as a key of JAX.
        ValueError: it is negative, or has more than 32 bits.
    """
    if type(seed) is int and 0 <= seed < SEEDS:
        return seed
    if not hasattr(seed, "__index__") or np.ndim(seed):
        raise TypeError(f"{owner}: seed must be a whole number such as 0, in every language, and no key, got {seed!r}.")
    number = whole_number(owner, "seed", seed, 0)
    if number >= SEEDS:
        raise ValueError(f"{owner}: seed must be below 2**32, got {number}.")
    return number


def check_generator(rng: Any) -> None:
    """Raises TypeError unless it is a NumPy generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "init takes a NumPy generator, such as np.random.default_rng(0), by which a seed gives the same params in "
            f"every language; got {rng!r}."
        )


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
    check_choice(owner, "activation", activation, activations)
    return widths
