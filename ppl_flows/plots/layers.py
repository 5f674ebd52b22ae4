"""The layers of a flow, one by one, whatever it is composed of."""

from __future__ import annotations

from typing import NamedTuple

from ppl_flows.combinators import Chain, Frozen, Inverse, Repeat
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import unstack
from ppl_flows.core.types import Params


class Layer(NamedTuple):
    """A bijection that is composed of no others in turn, its parameters, and its name."""

    bijection: Bijection
    params: Params
    name: str


def layers_of(bijection: Bijection, params: Params) -> list[Layer]:
    """In the order of ``forward``: of a ``Chain`` its parts, of a ``Repeat`` its repetitions, of an ``Inverse`` the
    inverses of the layers within, the last of them first; all else is one layer.
    """
    if isinstance(bijection, Chain):
        names = bijection.names or tuple(map(str, range(len(bijection.parts))))
        parts = zip(names, bijection.parts, strict=True)
        return [layer for name, part in parts for layer in layers_of(part, params[name])]
    if isinstance(bijection, Repeat):
        rows = unstack(params, bijection.times) if params else [{}] * bijection.times
        return [layer for row in rows for layer in layers_of(bijection.part, row)]
    if isinstance(bijection, Frozen):
        return layers_of(bijection.part, params["state"])
    if isinstance(bijection, Inverse):
        within = layers_of(bijection.part, params)
        return [Layer(_turned(b), p, _turned_name(b)) for b, p, _ in reversed(within)]
    return [Layer(bijection, params, type(bijection).__name__)]


def _turned(bijection: Bijection) -> Bijection:
    return bijection.part if isinstance(bijection, Inverse) else Inverse(bijection)


def _turned_name(bijection: Bijection) -> str:
    return type(bijection.part).__name__ if isinstance(bijection, Inverse) else f"{type(bijection).__name__}⁻¹"
