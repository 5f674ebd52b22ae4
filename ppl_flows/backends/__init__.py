"""The only code that names an array library: one folder each, whose ``ops`` is its namespace."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the type checker compares the three with the protocol
    from ppl_flows.backends.jax import ops as jax_ops
    from ppl_flows.backends.numpy import ops as numpy_ops
    from ppl_flows.backends.torch import ops as torch_ops
    from ppl_flows.core.backend import Hooks

    _namespaces: tuple[Hooks, Hooks, Hooks] = (numpy_ops, torch_ops, jax_ops)
