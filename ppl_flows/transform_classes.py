"""What both shells make of a bijection class: a transform class of the same name."""

from __future__ import annotations

import inspect
from typing import Any

import ppl_flows
from ppl_flows.core.bijection import Bijection


def transform_classes(flow_transform: type, module: str) -> dict[str, type]:
    """One subclass of a host's ``FlowTransform`` per public bijection, with the bijection's signature and docstring."""
    public = {name: getattr(ppl_flows, name) for name in ppl_flows.__all__}
    return {
        name: _transform_class(flow_transform, c, module)
        for name, c in public.items()
        if isinstance(c, type) and issubclass(c, Bijection) and not inspect.isabstract(c)
    }


def _transform_class(flow_transform: Any, bijection: type[Bijection], module: str) -> type:
    fields = inspect.signature(bijection).parameters

    def init(self: Any, *args: Any, params: Any = None, context: Any = None, seed: int = 0, **kwargs: Any) -> None:
        if "seed" in fields:  # of a random mask or permutation: one seed serves it and the parameters
            kwargs["seed"] = seed
        flow_transform.__init__(self, bijection(*args, **kwargs), params, context=context, seed=seed)

    own = [p for name, p in inspect.signature(flow_transform).parameters.items() if name not in ("bijection", *fields)]
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    body: dict[str, Any] = {"__init__": init, "__doc__": bijection.__doc__, "__module__": module}
    body["__signature__"] = inspect.Signature([*fields.values(), *keywords])
    return type(bijection.__name__, (flow_transform,), body)
