"""Where parameters live in Pyro's store."""

from __future__ import annotations

from typing import Any

import pyro
import torch

from ppl_flows.core.params import flatten, map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.torch.params import to_tensor

MARK = "$state."  # in the names of what is state in Pyro's store


def stored_params(name: str, initial: Params) -> Params:
    """Parameters in Pyro's store, started at ``initial`` at the first call.

    Weights are ``pyro.param`` sites ``{name}.{dotted name}``. State is ``{name}$state.{dotted name}`` in the store
    alone, where no optimiser sees it but a saved store has it; the tensors returned for it are those of the store, to
    be changed in place.

    Raises:
        ValueError: a parameter of that name is there with another shape.
    """

    def param(leaf: str, start: Any) -> torch.Tensor:
        full = _stored_name(name, leaf)
        make = lambda: to_tensor(start).detach().clone()  # noqa: E731
        store = pyro.get_param_store()
        value = store.setdefault(full, make).detach() if _is_state(leaf) else pyro.param(full, make)
        if tuple(value.shape) != tuple(start.shape):
            raise ValueError(
                f"Pyro's parameter store holds {full!r} with shape {tuple(value.shape)}, but this flow needs "
                f"{tuple(start.shape)}: another flow has the name {name!r}. Choose another name, or call "
                "pyro.clear_param_store() to start over."
            )
        return value

    return map_params(param, initial)


def is_stored(name: str, params: Params) -> bool:
    """Whether Pyro's store already has parameters of that name."""
    store = pyro.get_param_store()
    return any(_stored_name(name, leaf) in store for leaf, _ in flatten(params))


def stored_state() -> dict[str, torch.Tensor]:
    """All state in Pyro's store."""
    store = pyro.get_param_store()
    return {name: store[name].detach() for name in store if MARK in name}


def _stored_name(name: str, leaf: str) -> str:
    return f"{name}{MARK}{leaf}" if _is_state(leaf) else f"{name}.{leaf}"


def _is_state(leaf: str) -> bool:
    return "state" in leaf.split(".")


def trained_flow(guide: Any, trained: dict[str, torch.Tensor]) -> tuple[Params, dict[str, torch.Tensor]]:
    """Of an ``AutoFlow`` and trained parameters, as the store names them: the flow's, in NumPy, and all others."""
    others = {name: value for name, value in trained.items() if guide.num_modes == 1 or name != guide.weights_name}
    names = {id(p): guide.parameter_name(leaf) for leaf, p in guide.transform.named_parameters()}
    # state is the guide's, as no store has it
    return map_params(lambda _, a: to_numpy(others.pop(names.get(id(a), ""), a)), guide.transform.params), others
