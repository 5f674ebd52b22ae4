"""A generator of random numbers that ends what draws too many of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

PER_NUMBER = 2  # drawn, for each that is kept: a layer may draw matrices and keep a half of each
FREE = 2**16  # drawn, in any case
# of the methods that draw arrays, and the place of their argument ``size``
PLACE_OF_SIZE = {
    "standard_normal": 0,
    "standard_exponential": 0,
    "random": 0,
    "standard_gamma": 1,
    "exponential": 1,
    "choice": 1,
    "normal": 2,
    "uniform": 2,
    "integers": 2,
    "laplace": 2,
    "logistic": 2,
    "gumbel": 2,
    "lognormal": 2,
    "gamma": 2,
    "beta": 2,
}


class MeteredGenerator(np.random.Generator):
    """``np.random.default_rng(0)`` for an ``init`` of which only the shapes are wanted, those of a file.

    An ``init`` that wants far more numbers than the file holds is ended before it has them.

    Args:
        numbers: how many numbers the params are expected to hold.
    """

    left: int  # to be drawn

    def __init__(self, numbers: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.numbers, self.left = numbers, PER_NUMBER * numbers + FREE

    def spend(self, n: int) -> None:
        """Counts n numbers.

        Raises:
            ValueError: too many, with those before.
        """
        self.left -= n
        if self.left < 0:
            raise ValueError(f"its parameters would be far more than the {self.numbers} numbers that the file holds.")


def zeros(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """``np.zeros(shape)`` for an ``init``, where the shape is a product of sizes: counted as if drawn."""
    if not isinstance(rng, MeteredGenerator):
        return np.zeros(shape)
    rng.spend(math.prod(shape))
    return np.broadcast_to(0.0, shape)


def _metered(name: str, place: int) -> Any:
    draw = getattr(np.random.Generator, name)

    def metered(self: MeteredGenerator, *args: Any, **kwargs: Any) -> Any:
        size = args[place] if len(args) > place else kwargs.get("size")
        self.spend(1 if size is None else math.prod(size) if np.iterable(size) else size)
        return draw(self, *args, **kwargs)

    return metered


for _name, _place in PLACE_OF_SIZE.items():
    setattr(MeteredGenerator, _name, _metered(_name, _place))
