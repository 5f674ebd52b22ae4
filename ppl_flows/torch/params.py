"""``ParamTree``: a nested dict of parameters as modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ppl_flows.core.params import flatten, split
from ppl_flows.core.types import Params
from ppl_flows.inference.arrays import to_numpy


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


def set_state(params: Params, new: Params) -> None:
    """Gives the state in ``params``, in place, the values in ``new``."""
    values = dict(flatten(split(new)[1]))
    with torch.no_grad():
        for name, tensor in flatten(split(params)[1]):
            tensor.copy_(values[name])
