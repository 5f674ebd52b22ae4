"""Where parameters live in Pyro: in a module (``ParamTree``) or in the parameter store (``stored_params``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import torch

from ppl_flows.core.bijection import Params
from ppl_flows.core.params import map_params


def to_tensor(array: Any) -> torch.Tensor:
    """A tensor as it is; a NumPy or JAX array as a new tensor, floats in torch's default dtype."""
    if isinstance(array, torch.Tensor):
        return array
    array = np.asarray(array)
    return torch.tensor(array, dtype=torch.get_default_dtype() if array.dtype.kind == "f" else None)


class ParamTree(torch.nn.Module):
    """A nested dict of parameters as nested modules.

    Parameters are registered, NumPy and JAX arrays become new ones; other tensors, such as sampled or computed
    weights, are used as they are and do not register.
    """

    def __init__(self, params: Params) -> None:
        super().__init__()
        self._keys = tuple(params)
        for key, value in params.items():
            if isinstance(value, Mapping):
                self.add_module(key, ParamTree(value))
            elif isinstance(value, torch.nn.Parameter):
                self.register_parameter(key, value)
            elif isinstance(value, torch.Tensor):
                self.register_buffer(key, value, persistent=False)
            else:
                self.register_parameter(key, torch.nn.Parameter(to_tensor(value)))

    def tree(self) -> Params:
        """The nested dict, read anew at every call so that ``torch.func.functional_call`` sees its own."""
        return {
            key: self._modules[key].tree()
            if key in self._modules
            else self._parameters[key]
            if key in self._parameters
            else self._buffers[key]
            for key in self._keys
        }


def stored_params(name: str, initial: Params) -> Params:
    """Parameters as ``pyro.param`` sites ``{name}.{dotted name}``, started at ``initial`` at the first call.

    Raises:
        ValueError: a parameter of that name is there with another shape.
    """

    def param(leaf: str, start: Any) -> torch.Tensor:
        full = f"{name}.{leaf}"
        value = pyro.param(full, lambda: to_tensor(start).detach().clone())
        if tuple(value.shape) != tuple(start.shape):
            raise ValueError(
                f"Pyro's parameter store holds {full!r} with shape {tuple(value.shape)}, but this flow needs "
                f"{tuple(start.shape)}: another flow has the name {name!r}. Choose another name, or call "
                "pyro.clear_param_store() to start over."
            )
        return value

    return map_params(param, initial)
