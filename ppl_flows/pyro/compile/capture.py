"""``capture``: what a function of tensors computes, as a static graph in which parameters are inputs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any

import pyro
import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from ppl_flows.pyro.compile.simplify import root_of, simplify

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
    except CompileError as error:
        cause = error.__cause__  # Pyro raises the error of a model anew, with the shapes of its sites
        raise cause if isinstance(cause, CompileError) else error from None
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise CompileError(f"{what} failed with {type(error).__name__}: {text}") from error


class Recorder(TorchDispatchMode):
    """Writes down the operations that torch runs, as nodes of a graph, with real tensors: what ``make_fx`` does, which
    takes five times as long, as it also infers the shapes of every result.

    Args:
        placeholders: nodes of the graph, each with its tensor.
    """

    def __init__(self, graph: Graph, placeholders: Sequence[tuple[Node, torch.Tensor]]) -> None:
        super().__init__()
        self.owner = torch.nn.Module()  # of the tensors that the graph reads and that are no placeholders
        self._graph, self._placeholders = graph, placeholders
        self._nodes: Any = WeakTensorKeyDictionary()
        self._numbers = count()
        self._changing = {node for node, _ in placeholders}  # what differs from replay to replay
        for node, tensor in placeholders:
            self._nodes[tensor] = _described(node, tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for a second

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        given = torch.fx.node.map_aggregate((args, kwargs), self._node_or_value)
        read = [node for node in _nodes_in(given) if node in self._changing or root_of(node) in self._changing]
        if read and torch.Tag.data_dependent_output in func.tags:
            raise CompileError(
                "Python code reads the value of a tensor: an `if`, `.item()`, or a loop until something has "
                "converged, as in the inverses that have no closed form"
            )
        out = func(*args, **kwargs)
        node = self._graph.call_function(func, *given)
        if read or torch.Tag.nondeterministic_seeded in func.tags:
            self._changing.add(node)
            if func._schema.is_mutable:
                self._changing.add(root_of(node))
        self._bind(out, node)
        return out

    def node(self, tensor: torch.Tensor) -> Node:
        """Where a tensor came from."""
        found = self._nodes.get(tensor)
        if found is None:
            found = self._nodes[tensor] = self._outer(tensor)
        return found

    def _node_or_value(self, value: Any) -> Any:
        return self.node(value) if isinstance(value, torch.Tensor) else value

    def _outer(self, tensor: torch.Tensor) -> Node:
        """Of a tensor that was there before."""
        for node, other in self._placeholders:
            if _place(tensor) == _place(other) and tensor.numel():
                return node
            if tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0:
                raise CompileError("a view of a parameter was made outside of model and guide")
        name = f"tensor{next(self._numbers)}"
        setattr(self.owner, name, tensor.detach())  # a parameter of nobody here is a number like others
        return _described(self._graph.create_node("get_attr", name), tensor)

    def _bind(self, out: Any, node: Node) -> None:
        if isinstance(out, torch.Tensor):
            self._nodes[out] = _described(node, out)
        elif isinstance(out, tuple | list):
            for i, part in enumerate(out):
                if isinstance(part, torch.Tensor):
                    piece = self._graph.call_function(operator.getitem, (node, i))
                    if node in self._changing:
                        self._changing.add(piece)
                    self._bind(part, piece)


def _described(node: Node, tensor: torch.Tensor) -> Node:
    node.meta["tensor"] = tensor.shape, tensor.dtype, tensor.device
    return node


def _nodes_in(given: Any) -> list[Node]:
    found: list[Node] = []

    def add(node: Node) -> Node:
        found.append(node)
        return node

    torch.fx.node.map_arg(given, add)
    return found


@cache
def _is_composite(func: Any) -> bool:
    """Whether torch makes it of other operations, and has no kernel of its own."""
    composite, own = torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.CPU
    return bool(func.has_kernel_for_dispatch_key(composite) and not func.has_kernel_for_dispatch_key(own))


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
    graph = Graph()
    first = [graph.placeholder(f"lifted{i}") for i in range(len(lifted))]
    rest = [graph.placeholder(f"input{i}") for i in range(len(inputs))]
    recorder = Recorder(graph, [*zip([*first, *rest], [*lifted, *inputs], strict=True)])
    try:
        with pyro.validation_enabled(False), torch.random.fork_rng(), recorder:
            out = [recorder.node(tensor) for tensor in f(*inputs)]
    finally:
        with torch.no_grad():
            torch._foreach_copy_([tensor.detach() for tensor in lifted], before)
    graph.output(tuple(out))
    _lift(graph, first)
    simplify(graph, recorder.owner)
    return GraphModule(recorder.owner, graph)


def _lift(graph: Graph, first: Sequence[Node]) -> None:
    """The output has the lifted tensors too, as copies into them leave them, in place of the copies."""
    now = list(first)  # the node that holds the present value of each lifted tensor

    def value(node: Node) -> Node:
        return now[first.index(node)] if node in first else node

    for node in list(graph.nodes):
        if node.op == "output":
            node.args = ((*torch.fx.map_arg(node.args[0], value), *now),)
        elif isinstance(node.target, torch._ops.OpOverload):
            node.args = torch.fx.map_arg(node.args, value)
            if node.target in (aten.detach.default, aten.lift_fresh.default, aten.lift_fresh_copy.default):
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


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _check(node: Any) -> None:
    op = node.target
    if op._schema.is_mutable and root_of(node.args[0]).op in ("get_attr", "placeholder"):
        raise CompileError(f"{op} changes a tensor in place that outlives the step (a buffer, data or a counter)")
    boolean = op is aten.index.Tensor and any(i is not None and i.meta["tensor"][1] == torch.bool for i in node.args[1])
    if boolean or (torch.Tag.dynamic_output_shape in op.tags and op is not aten.index.Tensor):
        raise CompileError(f"the shape of {op} depends on values: use torch.where in place of a boolean index")
