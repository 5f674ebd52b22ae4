"""``Wrapper``: a bijection made of another."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.support import Support
from ppl_flows.core.types import Params


class Wrapper(Bijection):
    """A bijection made of another, ``part``: whatever it does not write itself is the part's.

    Raises:
        TypeError: the part is not a Bijection.
    """

    part: Bijection
    widens: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.part, Bijection):
            raise TypeError(
                f"{type(self).__name__} takes a bijection such as pf.nsf(2), got {type(self.part).__name__}."
            )

    @property
    def context_dim(self) -> int:  # type: ignore[override]
        return self.part.context_dim

    @property
    def batch_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.part.batch_shape

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.part.event_shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.part.output_shape

    @property
    def domain(self) -> Support:
        return self.part.domain

    @property
    def codomain(self) -> Support:
        return self.part.codomain

    def init(self, rng: np.random.Generator) -> Params:
        return self.part.init(rng)
