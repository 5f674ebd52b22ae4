"""``capture``: what a function of tensors computes, as a static graph in which parameters are inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten


class CompileError(RuntimeError):
    """A fit is not compiled, or no longer.

    Attributes:
        reason: why.
        lost: the number of last steps that count for nothing and are to be taken again.
    """

    def __init__(self, reason: str, lost: int = 0) -> None:
        super().__init__(
            f"the training step cannot be compiled: {reason}. Use compile=False, or 'auto', which then goes on in "
            "Python."
        )
        self.reason, self.lost = reason, lost

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.lost)


@contextmanager
def as_compile_error(what: str) -> Iterator[None]:
    """Any error of torch's own machinery is a reason, and no end of the fit."""
    try:
        yield
    except CompileError:
        raise
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise CompileError(f"{what} failed with {type(error).__name__}: {text}") from error


def capture(f: Callable[..., Any], inputs: Sequence[torch.Tensor], lifted: Sequence[torch.Tensor]) -> GraphModule:
    """The graph ``(*lifted, *inputs) -> (*f(*inputs), *lifted)``, the lifted tensors as f leaves them.

    f is run once, without Pyro's checks, and reads the lifted tensors by reference; they and torch's generator are left
    as they were. Its random numbers are part of the graph: each replay draws new ones. Everything else that f reads is
    kept as it is now.

    Raises:
        CompileError: a Python branch on a tensor, a shape that depends on values, or a tensor that f changes in place
            and that is not among the lifted.
    """
    before = [tensor.detach().clone() for tensor in lifted]
    try:
        # one fake mode for all values: left to itself make_fx makes one for each, which is two fifths of its time
        context = TracingContext(FakeTensorMode(allow_fallback_kernels=True))
        with pyro.validation_enabled(False), torch.random.fork_rng(), tracing(context):
            module = make_fx(f)(*inputs)
    except RuntimeError as error:
        if "_local_scalar_dense" not in str(error):
            raise
        raise CompileError(
            "Python code reads the value of a tensor: an `if`, `.item()`, or a loop until something has converged, as "
            "in the inverses that have no closed form"
        ) from error
    finally:
        with torch.no_grad():
            torch._foreach_copy_([tensor.detach() for tensor in lifted], before)
    _lift(module, lifted)
    module.recompile()
    return module


def _lift(module: GraphModule, lifted: Sequence[torch.Tensor]) -> None:
    graph = module.graph
    with graph.inserting_before(next(iter(graph.nodes))):
        now = [graph.placeholder(f"lifted{i}") for i in range(len(lifted))]
    first = list(now)  # now: the node that holds the present value of each lifted tensor

    def value(node: Any) -> Any:
        return now[first.index(node)] if isinstance(node, Node) and node in first else node

    for node in list(graph.nodes):
        if node.op == "get_attr":
            i = _index(getattr(module, node.target), lifted)
            if i is not None:
                node.replace_all_uses_with(first[i])
                graph.erase_node(node)
        elif node.op == "output":
            node.args = ((*node.args[0], *now),)
        elif isinstance(node.target, torch._ops.OpOverload):
            node.args = torch.fx.map_arg(node.args, value)
            if node.target in (aten.detach.default, aten.lift_fresh_copy.default):
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
            elif node.target is aten.copy_.default and node.args[0] in now:
                i = now.index(node.args[0])
                new = node.args[1]
                node.replace_all_uses_with(new)
                graph.erase_node(node)
                now[i] = new
            else:
                _check(node)
    graph.eliminate_dead_code()
    graph.lint()


def _index(tensor: Any, lifted: Sequence[torch.Tensor]) -> int | None:
    """Which of the lifted tensors this is: the same numbers at the same place."""
    for i, other in enumerate(lifted):
        if _place(tensor) == _place(other) and tensor.numel():
            return i
        if tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0:
            raise CompileError("a view of a parameter was made outside of model and guide")
    return None


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _check(node: Any) -> None:
    op = node.target
    if op._schema.is_mutable and _root(node.args[0]).op in ("get_attr", "placeholder"):
        raise CompileError(f"{op} changes a tensor in place that outlives the step (a buffer, data or a counter)")
    boolean = op is aten.index.Tensor and any(i is not None and i.meta["val"].dtype == torch.bool for i in node.args[1])
    if boolean or (torch.Tag.dynamic_output_shape in op.tags and op is not aten.index.Tensor):
        raise CompileError(f"the shape of {op} depends on values: use torch.where in place of a boolean index")


def _root(node: Any) -> Node:
    """Where a chain of views, or of pieces of a split, begins."""
    while node.op == "call_function" and (
        node.target is operator.getitem or any(r.alias_info is not None for r in node.target._schema.returns)
    ):
        node = node.args[0]
    return node
