"""``GivenSet``: a conditional bijection whose context is a set."""

from __future__ import annotations

import dataclasses
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np

from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.wrapper import Wrapper
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Observed, Params
from ppl_flows.encoders.set_encoder import SetEncoder, SetNetwork


@dataclass(frozen=True)
class GivenSet(Wrapper):
    """A conditional bijection, given what an encoder makes of a set.

    The context is one vector: ``rows * features`` numbers, the rows one after the other; how many of them, from the
    first on, are the set; and ``others`` numbers that are in no row. Parameters do not depend on ``rows``.

    Args:
        part: the conditional bijection, whose ``context_dim`` is the encoder's size.
        encoder: of the set.
        rows, features, others: sizes.

    Raises:
        TypeError: the part is no Bijection.
        ValueError: its context has another size than the encoder gives.
    """

    part: Bijection
    _: KW_ONLY
    encoder: SetEncoder
    rows: int
    features: int
    others: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, rows=1, features=1, others=0)
        if self.part.context_dim != self.encoder.size:
            raise ValueError(
                f"GivenSet: the encoder gives {self.encoder.size} numbers, but the part takes a context of "
                f"{self.part.context_dim}."
            )

    @property
    def context_dim(self) -> int:  # type: ignore[override]
        return self.rows * self.features + 1 + self.others

    @cached_property
    def _network(self) -> SetNetwork:
        return self.encoder.bind(self.features, self.others)

    def init(self, rng: np.random.Generator) -> Params:
        return {"part": self.part.init(rng), "encoder": self._network.init(rng)}

    def _encode(self, params: Params, context: Array | None) -> Array | None:
        if context is None:
            return None
        sizes = (self.rows * self.features, 1, self.others)[: 3 if self.others else 2]
        flat, count, *others = namespace(context).pieces(context, sizes, -1)
        rows = flat.reshape(*flat.shape[:-1], self.rows, self.features)
        return self._network(params["encoder"], rows, count, others[0] if others else None)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._forward(params["part"], x, self._encode(params, context))

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        return self.part._inverse(params["part"], y, self._encode(params, context))

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        encoded = self._encode(params, context)
        part, out, log_det = self.part._observe(params["part"], value, encoded, forward, stage)
        return {**params, "part": part}, out, log_det

    def _widen(self, params: Params) -> Params:
        return {**super()._widen({"encoder": params["encoder"]}), "part": self.part._widen(params["part"])}


def with_rows(bijection: Bijection, rows: int) -> Bijection:
    """A bijection given a set, or a chain of such, for sets of another size; its parameters are the same."""
    if isinstance(bijection, GivenSet):
        return dataclasses.replace(bijection, rows=rows)
    if isinstance(bijection, Chain):
        return Chain([with_rows(part, rows) for part in bijection.parts], names=bijection.names)
    return bijection


def given_set_in(bijection: Bijection) -> GivenSet | None:
    """What is given a set, in a bijection or a chain of such; None where nothing is."""
    if isinstance(bijection, Chain):
        return next((found for part in bijection.parts if (found := given_set_in(part)) is not None), None)
    return bijection if isinstance(bijection, GivenSet) else None


def fewer_rows(context: Array, u: Array, rows: int, features: int) -> Array:
    """Contexts of a ``GivenSet`` with the first m of their rows, where u, uniform on [0, 1), draws m from 1, ..., rows.

    Half of the sets have less than a quarter of the rows: the posterior changes with the logarithm of their number.
    """
    xp, at = namespace(context), rows * features
    count = xp.clip(xp.ceil(rows * u * u), 1, rows)[..., None]
    return xp.concat([context[..., :at], count, context[..., at + 1 :]], axis=-1)
