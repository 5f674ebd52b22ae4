"""torch driver: inverse of a masked autoregressive map, with exact gradients from the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Params
from ppl_flows.numerics import triangular_sweep
from ppl_flows.numerics.triangular_sweep import Order, Rules

if TYPE_CHECKING:
    from ppl_flows.conditioners.masked_mlp import MaskedMLP
    from ppl_flows.core.transformer import Transformer

Arrays = Sequence[Tensor]
System = tuple[Order, Rules, Arrays, Arrays, Arrays, Arrays]  # what ``triangular_sweep.substitute`` takes


def autoregressive_inverse(
    network: MaskedMLP, transformer: Transformer, method: str, params: Params, y: Tensor, context: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As in ``Backend``."""
    weights, biases = network.layers(params, y, context)
    if torch._C._get_tracing_state():  # a trace with a gradient of ours in it could not be saved
        return _Inverse.forward(network, transformer, method, y, *biases, *weights)
    x, log_det = _Inverse.apply(network, transformer, method, y, *biases, *weights)
    return x, log_det


class _Inverse(Function):
    """x and log_det, as functions of y and of the network's layers."""

    @staticmethod
    def forward(
        network: MaskedMLP, transformer: Transformer, method: str, y: Tensor, *layers: Tensor
    ) -> tuple[Tensor, Tensor]:
        biases, weights = _halves(layers)
        batch, dim = y.shape[:-1], y.shape[-1]
        biases = [a.expand(*batch, a.shape[-1]) if a.ndim > 1 else a[None] for a in biases]
        system = (
            triangular_sweep.order(network),
            triangular_sweep.inversion(network, transformer, y),
            [w.T.contiguous() for w in weights],
            [a.reshape(-1, a.shape[-1]).T for a in biases],
            (),
            (y.reshape(-1, dim).T.contiguous(),),
        )
        x, slopes = _solve(method, system)
        return x.T.reshape(y.shape), slopes.sum(0).reshape(batch)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.static = inputs[:3]
        ctx.save_for_backward(output[0], *inputs[4:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """With F(x) = y and L the log_det of F: v = J^-T (g - l dL/dx) for y, and -v for F and -l for L at fixed x."""
        network, transformer, method = ctx.static
        (g, l), (x, *layers) = gradients, ctx.saved_tensors

        def one_pass(*layers: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
            biases, weights = _halves(layers)
            seen, theta = network.trace(weights, biases, x)
            return transformer.forward(theta, x), (theta, *seen)

        pull_layers, (theta, *seen) = _vjp(one_pass, *layers, has_aux=True)
        pull, zeros, l = _vjp(transformer.forward, theta, x), torch.zeros_like(x), l[..., None].expand(x.shape)
        (y_theta, y_x), (l_theta, l_x) = pull((torch.ones_like(x), zeros)), pull((zeros, l))
        acts = network.mlp.activations(namespace(x))
        unit_slopes = [_vjp(act, a)(torch.ones_like(a))[0] for act, a in zip(acts, seen, strict=True)]
        v = _Linear.apply(network, method, g - l_x, y_x, y_theta, -l_theta, *unit_slopes, *_halves(layers)[1])
        return None, None, None, v, *pull_layers((-v, -l))

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        network: MaskedMLP,
        transformer: Transformer,
        method: str,
        *arrays: Tensor,
    ) -> tuple[Any, Any]:
        rows = 1 + len(arrays) // 2
        axes = arrays[0].ndim - (in_dims[3] is not None)  # of one y; a bias may have fewer, to broadcast against it
        return _vmap(_Inverse, info, in_dims, (network, transformer, method), arrays, rows, axes)


class _Linear(Function):
    """Solves ``J u = b`` for data (b, dy/dx, dy/dtheta), or ``J^T v = g`` for (direct, dy/dx, dy/dtheta, push)."""

    @staticmethod
    def forward(network: MaskedMLP, method: str, *arrays: Tensor) -> Tensor:
        data = _split(network, arrays)[0]
        return _from_rows(_solve(method, _system(network, arrays))[1], len(data) == 4).reshape(data[0].shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.static = inputs[:2]
        ctx.save_for_backward(output, *inputs[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        # the solution u is a fixed point of a whole pass P, and I - dP/du is J, or J^T, divided by the slopes
        u, *arrays = ctx.saved_tensors
        network, method = ctx.static
        data, unit_slopes, weights = _split(network, arrays)
        slope, by_theta = data[1:3]
        push = () if len(data) == 4 else (torch.zeros_like(by_theta),)
        transposed = _Linear.apply(network, method, *gradients, slope, by_theta, *push, *unit_slopes, *weights)

        def whole_pass(*arrays: Tensor) -> Tensor:
            return _whole_pass(network, u, arrays)

        return None, None, *_vjp(whole_pass, *arrays)(slope * transposed)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], network: MaskedMLP, method: str, *arrays: Tensor
    ) -> tuple[Any, Any]:
        rows = len(arrays) - len(network.mlp.widths) - 1
        return _vmap(_Linear, info, in_dims, (network, method), arrays, rows)


def _split(network: MaskedMLP, arrays: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    """data, unit_slopes and weights."""
    n = len(arrays) - 2 * len(network.mlp.widths) - 1
    return arrays[:n], arrays[n : n + len(network.mlp.widths)], arrays[n + len(network.mlp.widths) :]


def _system(network: MaskedMLP, arrays: Arrays) -> System:
    """Either linear system."""
    data, unit_slopes, weights = _split(network, arrays)
    batch = data[0].ndim - 1
    data, unit_slopes = ([_to_rows(a, batch) for a in group] for group in (data, unit_slopes))
    if len(data) == 4:
        # the transposed network, all axes flipped
        order, rules = triangular_sweep.reverse_order(network), triangular_sweep.cotangent(network)
        data, unit_slopes = (
            [_flipped(a, min(a.ndim - 1, 2)) for a in data],
            [_flipped(a, 1) for a in reversed(unit_slopes)],
        )
        weights = [_flipped(w, 2) for w in reversed(weights)]
    else:
        order, rules, weights = (
            triangular_sweep.order(network),
            triangular_sweep.tangent(network),
            [w.T.contiguous() for w in weights],
        )
    biases = [w.new_zeros(len(w), 1) for w in weights]
    return order, rules, weights, biases, unit_slopes, data


def _whole_pass(network: MaskedMLP, u: Tensor, arrays: Arrays) -> Tensor:
    """The solution u of a linear system once more, as a function of the system."""
    _, rules, weights, biases, unit_slopes, data = _system(network, arrays)
    rows, reverse = _to_rows(u, u.ndim - 1), len(data) == 4
    if reverse:
        _, _, by_theta, push = data
        rows = (push - _flipped(rows, 1)[:, None] * by_theta).reshape(-1, rows.shape[-1])
    again = triangular_sweep.whole_pass(rules, weights, biases, unit_slopes, data, rows)[1]
    return _from_rows(again, reverse).reshape(u.shape)


def _to_rows(a: Tensor, batch: int) -> Tensor:
    """``(*batch, features, ...)`` to ``(features, ..., n)``."""
    return a.reshape(-1, *a.shape[batch:]).movedim(0, -1).contiguous()


def _from_rows(a: Tensor, flipped: bool) -> Tensor:
    return (_flipped(a, 1) if flipped else a).T


def _flipped(a: Tensor, axes: int) -> Tensor:
    return a.flip(tuple(range(axes)))


def _views(a: Tensor, order: Sequence[int]) -> tuple[Tensor, ...]:
    return a[order[0] : order[-1]].split_with_sizes([stop - start for start, stop in pairwise(order)])


EAGER = triangular_sweep.InPlace(_views, torch.Tensor.addmm_, torch.Tensor.copy_)


def _solve(method: str, system: System) -> tuple[Tensor, Tensor]:
    if torch._C._get_tracing_state():
        return triangular_sweep.unroll(*system)
    if torch._C._len_torch_dispatch_stack() or torch.compiler.is_compiling():  # a capture, ours or of ``make_fx``
        return triangular_sweep.substitute(EAGER, *system)  # a graph cannot stop when the data say so
    dim, n = system[-1][0].shape[0], system[-1][0].shape[-1]
    # inference mode makes each of the many small operations cheaper; but nothing made in it can be saved for a gradient
    with torch.inference_mode():
        if method == "jacobi" or (method == "auto" and dim >= 32 and 4 * n <= dim):
            inputs, results = triangular_sweep.iterate(*system)
        else:
            inputs, results = triangular_sweep.substitute(EAGER, *system)
    return inputs.clone(), results.clone()


def _halves(layers: Arrays) -> tuple[Arrays, Arrays]:
    return layers[: len(layers) // 2], layers[len(layers) // 2 :]


def _vjp(f: Callable[..., Any], *primals: Tensor, has_aux: bool = False) -> Any:
    """The last result of ``torch.func.vjp``, but at the cost of plain autograd where it need not be differentiable."""
    if torch.is_grad_enabled():
        return torch.func.vjp(f, *primals, has_aux=has_aux)[1:] if has_aux else torch.func.vjp(f, *primals)[1]
    with torch.enable_grad():
        leaves = [a.detach().requires_grad_() for a in primals]
        out = f(*leaves)
    out, aux = out if has_aux else (out, ())
    outs = out if isinstance(out, tuple) else (out,)
    moving = [i for i, a in enumerate(outs) if a.requires_grad]  # the log slopes of Additive do not

    def pull(cotangents: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        cotangents = cotangents if isinstance(cotangents, tuple) else (cotangents,)
        pulled: tuple[Tensor, ...] = torch.autograd.grad(
            [outs[i] for i in moving],
            leaves,
            [cotangents[i] for i in moving],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return pulled

    return (pull, tuple(a.detach() for a in aux)) if has_aux else pull


def _vmap(
    function: type[Function],
    info: Any,
    in_dims: tuple[int | None, ...],
    static: tuple[Any, ...],
    arrays: Arrays,
    rows: int,
    axes: int = 0,
) -> tuple[Any, Any]:
    """Fold the mapped axis into the batch when only row-like arrays carry it; else run slice by slice.

    Args:
        rows: how many of the arrays are row-like.
        axes: of a row-like array without the mapped axis, at least; missing ones are put in front.
    """
    dims = in_dims[len(static) :]
    if any(d is not None for d in dims[rows:]):
        slices = (
            [a if d is None else a.select(d, i) for a, d in zip(arrays, dims, strict=True)]
            for i in range(info.batch_size)
        )
        outs = [function.apply(*static, *s) for s in slices]
        if isinstance(outs[0], tuple):
            return tuple(torch.stack(o) for o in zip(*outs, strict=True)), (0,) * len(outs[0])
        return torch.stack(outs), 0

    def with_batch(a: Tensor, d: int | None) -> Tensor:
        a = a.expand(info.batch_size, *a.shape) if d is None else a.movedim(d, 0)
        return a.reshape(len(a), *(1,) * (axes + 1 - a.ndim), *a.shape[1:])

    moved = [with_batch(a, d) for a, d in zip(arrays[:rows], dims[:rows], strict=True)]
    out = function.apply(*static, *moved, *arrays[rows:])
    return out, (0,) * len(out) if isinstance(out, tuple) else 0
