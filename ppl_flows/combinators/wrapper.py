"""``Wrapper``: a bijection made of another."""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import numpy as np

from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.support import Support
from ppl_flows.core.types import Params


class Wrapper(Bijection):
    """A bijection made of another, ``part``: whatever it does not write itself is the part's.

    Raises:
        TypeError: the part is not a Bijection.
    """

    part: Bijection

    def __post_init__(self) -> None:
        check_bijection(type(self).__name__, self.part)

    @cached_property
    def context_dim(self) -> int:  # type: ignore[override]
        return self.part.context_dim

    @cached_property
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

    def _layer_counts(self) -> Counter[str]:
        return self.part._layer_counts()

    def _widen(self, params: Params) -> Params:
        return self.part._widen(params)
