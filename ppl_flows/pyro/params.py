"""Where parameters live in Pyro: in a module (``ParamTree``) or in the parameter store (``stored_params``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch

from ppl_flows.core.params import flatten, map_params, split
from ppl_flows.core.types import Params
from ppl_flows.inference.arrays import to_numpy

MARK = "$state."  # in the names of what is state in Pyro's store


def to_tensor(array: Any) -> torch.Tensor:
    """A tensor as it is; a NumPy or JAX array as a new tensor, floats in torch's default dtype."""
    if isinstance(array, torch.Tensor):
        return array
    array = to_numpy(array)
    return torch.as_tensor(array, dtype=torch.get_default_dtype() if array.dtype.kind == "f" else None)


class ParamTree(torch.nn.Module):
    """A nested dict of parameters as nested modules.

    Parameters are registered, NumPy and JAX arrays become new ones; other tensors, such as sampled or computed
    weights, are used as they are and do not register. State becomes buffers, kept in the ``state_dict``.
    """

    def __init__(self, params: Params, state: bool = False) -> None:
        super().__init__()
        self._keys: dict[str, str] = {}  # of params, and what they are called here
        for name, value in params.items():
            key = self._keys[name] = name + "_" * hasattr(self, name)  # such as "train", which is a module's own
            if isinstance(value, Mapping):
                self.add_module(key, ParamTree(value, state or name == "state"))
            elif state:
                self.register_buffer(key, to_tensor(value))
            elif isinstance(value, torch.nn.Parameter):
                self.register_parameter(key, value)
            elif isinstance(value, torch.Tensor):
                self.register_buffer(key, value, persistent=False)
            else:
                weight = to_tensor(value)
                weight = weight if weight.is_floating_point() else weight.to(torch.get_default_dtype())
                self.register_parameter(key, torch.nn.Parameter(weight))

    def tree(self) -> Params:
        """The nested dict, read anew at every call so that ``torch.func.functional_call`` sees its own."""
        modules: dict[str, Any] = self._modules
        return {
            name: modules[key].tree()
            if key in modules
            else self._parameters[key]
            if key in self._parameters
            else self._buffers[key]
            for name, key in self._keys.items()
        }

    def leaves(self) -> list[torch.Tensor]:
        """The tensors of ``tree()``, in its order."""
        modules: dict[str, Any] = self._modules
        tensors: dict[str, Any] = {**self._parameters, **self._buffers}
        found: list[torch.Tensor] = []
        for key in self._keys.values():
            if key in modules:
                found += modules[key].leaves()
            else:
                found.append(tensors[key])
        return found


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


def set_state(params: Params, new: Params) -> None:
    """Gives the state in ``params``, in place, the values in ``new``."""
    values = dict(flatten(split(new)[1]))
    with torch.no_grad():
        for name, tensor in flatten(split(params)[1]):
            tensor.copy_(values[name])


def _stored_name(name: str, leaf: str) -> str:
    return f"{name}{MARK}{leaf}" if _is_state(leaf) else f"{name}.{leaf}"


def _is_state(leaf: str) -> bool:
    return "state" in leaf.split(".")
