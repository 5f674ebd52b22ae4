"""``simplify``: a captured graph without what is computed twice, or moved to and fro."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

aten = torch.ops.aten

KEPT_NUMBERS = 2**16  # of a constant that is computed once, and not in every replay
ELEMENTWISE = (
    *(aten.silu.default, aten.silu_backward.default, aten.tanh.default, aten.tanh_backward.default, aten.relu.default),
    *(aten.elu.default, aten.gelu.default, aten.exp.default, aten.neg.default, aten.sigmoid.default),
)
FILLED = (aten.zeros_like.default, aten.ones_like.default, aten.new_zeros.default, aten.new_ones.default)


def root_of(node: Any) -> Node:
    """Where a chain of views, or of pieces of a split, begins."""
    while node.op == "call_function" and (
        node.target is operator.getitem or any(r.alias_info is not None for r in node.target._schema.returns)
    ):
        node = node.args[0]
    return node


def simplify(graph: Graph, owner: torch.nn.Module) -> None:
    """Makes a graph of small operations smaller, since between these a replay spends its time; its results stay.

    What depends on nothing that changes is computed now, and what is computed twice, once; shapes that are there
    already, two transpositions, sums with zero and splits of what has just been joined go. Tensors that are changed in
    place are left alone. To be called when nodes have their ``meta["tensor"]``: shape, dtype and device.

    Args:
        owner: of the tensors that the graph reads, to which it adds constants.
    """
    _Walk(graph, owner).run()
    for node in graph.find_nodes(op="call_function", target=aten.view.default):
        node.target = _view  # what it is a view of may lie in memory in another way now
    graph.eliminate_dead_code()
    graph.lint()


class _Walk:
    """Once over all nodes, in the order of the graph."""

    def __init__(self, graph: Graph, owner: torch.nn.Module) -> None:
        self._graph, self._owner = graph, owner
        calls = [n for n in graph.nodes if n.op == "call_function" and n.target is not operator.getitem]
        self._changed = {root_of(n.args[0]) for n in calls if n.target._schema.is_mutable}
        self._seen: dict[Any, Node] = {}
        self._values: dict[Node, torch.Tensor] = {}  # of constants

    def run(self) -> None:
        for node in list(self._graph.nodes):
            if node.op == "get_attr":
                self._share(node, node.target)
                value = getattr(self._owner, node.target)
                if value.numel() <= KEPT_NUMBERS:
                    self._values[node] = value
            elif node.op == "call_function" and root_of(node) not in self._changed and not self._is_drawn(node):
                rule: Any = RULES.get(node.target, lambda *_: None)
                new = rule(self, node) or self._folded(node)
                if new is None:
                    self._share(node, (node.target, _key(node.args), _key(node.kwargs)))
                else:
                    node.replace_all_uses_with(new)
                    self._graph.erase_node(node)

    @staticmethod
    def _is_drawn(node: Node) -> bool:
        target: Any = node.target
        return target is not operator.getitem and (
            target._schema.is_mutable or torch.Tag.nondeterministic_seeded in target.tags
        )

    def _share(self, node: Node, key: Any) -> None:
        """The first node that computes the same takes its place."""
        first = self._seen.setdefault(key, node)
        if first is not node and root_of(node) not in self._changed:
            node.replace_all_uses_with(first)
            self._graph.erase_node(node)

    def _folded(self, node: Any) -> Node | None:
        """What depends on constants alone, as a constant."""
        if node.target is operator.getitem or "tensor" not in node.meta:
            return None
        shape, dtype, device = node.meta["tensor"]
        if shape.numel() > KEPT_NUMBERS:
            return None
        if node.target in FILLED:
            make = torch.zeros if "zeros" in str(node.target) else torch.ones
            value = make(shape, dtype=dtype, device=device)
        elif node.all_input_nodes and all(n in self._values for n in node.all_input_nodes):
            value = node.target(*map_arg(node.args, self._values.get), **map_arg(node.kwargs, self._values.get))
        else:
            return None
        return self._constant(node, value)

    def _constant(self, node: Node, value: torch.Tensor) -> Node:
        """A node of this value, before another."""
        name = f"constant{len(self._values)}"
        setattr(self._owner, name, value)
        with self._graph.inserting_before(node):
            constant = self._graph.create_node("get_attr", name)
        constant.meta["tensor"] = value.shape, value.dtype, value.device
        self._values[constant] = value
        return constant

    def piece(self, node: Any) -> Node | None:
        """A piece of a split of what was joined of just these; or one of the unbound rows of a constant."""
        split, i = node.args
        if split.target is aten.unbind.int and split.args[0] in self._values:
            dim = split.args[1] if len(split.args) > 1 else 0
            return self._constant(node, self._values[split.args[0]].unbind(dim)[i])
        if split.target is not aten.split_with_sizes.default or split.args[0].target is not aten.cat.default:
            return None
        parts, dim = _cat(split.args[0])
        at = split.args[2] if len(split.args) > 2 else 0
        sizes = [_shape(p)[dim] for p in parts]
        same = at % len(_shape(parts[0])) == dim and list(split.args[1]) == sizes
        return parts[i] if same else None

    def slice(self, node: Any) -> Node | None:
        """All of it, or what was joined there."""
        x: Any = node.args[0]
        given: list[Any] = list(node.args[1:])
        dim, start, end, step = given + [0, None, None, 1][len(given) :]
        if step != 1:
            return None
        if _shape(node) == _shape(x):
            return x
        if x.target is not aten.cat.default or start is None:
            return None
        parts, at = _cat(x)
        first = 0
        for part in parts:
            last = first + _shape(part)[at]
            if dim % len(_shape(x)) == at and start == first and end == last:
                return part
            first = last
        return None

    def same_shape(self, node: Any) -> Node | None:
        """A view of the shape that is there already."""
        x = node.args[0]
        return x if _shape(x) == _shape(node) else None

    def view(self, node: Any) -> Node | None:
        """Of a view: of what that is a view of."""
        node.target, x = aten.view.default, node.args[0]
        while x.target is aten.view.default:
            x = x.args[0]
        if _shape(x) == _shape(node):
            return x
        node.args = (x, *node.args[1:])
        return None

    def elementwise(self, node: Any) -> Node | None:
        """Of views: a view of the result, since one view after another is one."""
        from_, shape = [x.args[0] for x in node.args if _is_view(x)], _shape(node)
        alike = len(from_) == len(node.args) and all(_shape(x) == shape for x in node.args)
        if not alike or len({_shape(x) for x in from_}) > 1:
            return None
        with self._graph.inserting_before(node):
            made = self._graph.call_function(node.target, tuple(from_), node.kwargs)
            new = self._graph.call_function(aten.view.default, (made, [*shape]))
        _, dtype, device = node.meta["tensor"]
        made.meta["tensor"], new.meta["tensor"] = (_shape(from_[0]), dtype, device), node.meta["tensor"]
        return new

    def transposed(self, node: Any) -> Node | None:
        """Twice: as it was."""
        x, *dims = node.args
        if len(_shape(x)) != 2:
            return None
        flat = [d % 2 for d in (dims[0] if dims and isinstance(dims[0], list | tuple) else dims)]
        if flat in ([0, 1], [0, 0], [1, 1]) and node.target is aten.permute.default:
            return x
        if node.target is aten.transpose.int and flat[0] == flat[1]:
            return x
        if x.target is aten.t.default and x.op == "call_function":
            return x.args[0]
        node.target, node.args = aten.t.default, (x,)
        return None

    def with_number(self, node: Any) -> Node | None:
        """A number becomes a tensor of the result's dtype, which torch would else make it in every replay."""
        x, other = node.args
        _, dtype, device = node.meta["tensor"]
        plain = isinstance(other, int | float) and isinstance(x, Node)
        # with one axis, as TorchScript makes numbers of those with none
        if plain and len(_shape(x)) and dtype.is_floating_point and x.meta["tensor"][1] == dtype:
            node.args = (x, self._constant(node, torch.tensor([other], dtype=dtype, device=device)))
        return None

    def added(self, node: Any) -> Node | None:
        """Zero."""
        if node.kwargs:
            return None
        for x, other in (node.args, node.args[::-1])[: 1 + (node.target is aten.add.Tensor)]:
            value = self._values.get(other, other)
            zero = not value.any() if isinstance(value, torch.Tensor) else isinstance(value, int | float) and value == 0
            if zero and isinstance(x, Node) and x.meta.get("tensor") == node.meta["tensor"]:
                return x
        return self.with_number(node)

    def placed(self, node: Any) -> Node | None:
        """Rows of a gradient, added to zeros at places that are a permutation: a selection of these rows."""
        zeros, dim, index, source, *_ = node.args
        if zeros not in self._values or index not in self._values or self._values[zeros].any() or node.kwargs:
            return None
        places = self._values[index]
        order = torch.argsort(places)
        if not torch.equal(places[order].long(), torch.arange(_shape(node)[dim], device=places.device)):
            return None
        at = self._constant(node, order)
        with self._graph.inserting_before(node):
            new = self._graph.call_function(aten.index_select.default, (source, dim, at))
        new.meta["tensor"] = node.meta["tensor"]
        return new


def _view(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Decided when the graph is compiled: in TorchScript the former takes less time."""
    return x.view(shape) if x.is_contiguous() else x.reshape(shape)


RULES: dict[Any, Callable[[_Walk, Any], Node | None]] = {
    operator.getitem: _Walk.piece,
    aten.slice.Tensor: _Walk.slice,
    aten.expand.default: _Walk.same_shape,
    aten.view.default: _Walk.view,
    aten._unsafe_view.default: _Walk.view,
    aten.t.default: _Walk.transposed,
    aten.transpose.int: _Walk.transposed,
    aten.permute.default: _Walk.transposed,
    aten.add.Tensor: _Walk.added,
    aten.sub.Tensor: _Walk.added,
    aten.mul.Tensor: _Walk.with_number,
    aten.div.Tensor: _Walk.with_number,
    aten.index_add.default: _Walk.placed,
    **dict.fromkeys(ELEMENTWISE, _Walk.elementwise),
}


def _is_view(node: Any) -> bool:
    return isinstance(node, Node) and node.target is aten.view.default


def _shape(node: Any) -> torch.Size:
    shape: torch.Size = node.meta["tensor"][0]
    return shape


def _cat(node: Any) -> tuple[list[Any], int]:
    """What is joined, and along which axis, counted from the front."""
    parts, *dim = node.args
    return parts, (dim[0] if dim else 0) % len(_shape(node))


def _key(value: Any) -> Any:
    """Of arguments, to be looked up by; numbers of different kinds differ."""
    if isinstance(value, list | tuple):
        return tuple(_key(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _key(v)) for k, v in sorted(value.items()))
    return (type(value), value) if isinstance(value, bool | int | float) else value
