"""torch driver: inverse of a masked autoregressive map, with an exact gradient from the implicit function theorem."""

import torch
from torch.autograd import Function

from ppl_flows.core import sweep
from ppl_flows.core.ops import namespace


def autoregressive_inverse(network, transformer, params, y, context):
    """x with ``transformer.forward(network(x), x) = y``, and the log_det of the inverse map, ``y.shape[:-1]``."""
    weights, biases = network.layers(params, y, context)
    x, log_det = _Sweep.apply(network, transformer, len(weights), y, *biases, *weights)
    inputs = (y, *biases, *weights)
    if not (torch.is_grad_enabled() and any(a.requires_grad for a in inputs)):
        return x, log_det
    # One ordinary pass at the solution carries the gradient to weights and context; _Attach closes the loop to x.
    x = x.detach()
    seen, theta = network.trace(params, x, context)
    y_again, slopes = transformer.forward(theta, x)
    fixed = (x, theta.detach(), *(a.detach() for a in seen), *(w.detach() for w in weights))
    return _Attach.apply(network, transformer, y, y_again, torch.sum(slopes, -1), *fixed)


class _Sweep(Function):
    """The solution alone, without a gradient."""

    @staticmethod
    def forward(network, transformer, n, y, *arrays):
        return sweep.forward(network, transformer, arrays[n:], arrays[:n], y)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx, *_):
        raise AssertionError("unreachable: the outputs are marked as not differentiable")

    @staticmethod
    def vmap(info, in_dims, network, transformer, n, *arrays):
        return _vmap(_Sweep, info, in_dims, (network, transformer, n), arrays, rows=1 + n)


class _Attach(Function):
    """(x, -log_det), as functions of y and of what ``transformer.forward`` gave at x.

    With F(x) = y and L the log_det of F, cotangents (g, l) of the two outputs give v = J^-T (g - l dL/dx) for y,
    -v for F and -l for L; autograd takes them on through the pass that made F and L.
    """

    @staticmethod
    def forward(network, transformer, y, y_again, log_det, x, *fixed):
        return x.clone(), -log_det

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.network, ctx.transformer = inputs[:2]
        ctx.save_for_backward(*inputs[5:])

    @staticmethod
    def backward(ctx, g, l):
        x, theta, *rest = ctx.saved_tensors
        hidden = len(ctx.network.widths)
        seen, weights = rest[:hidden], rest[hidden:]
        ones = torch.ones_like(x)
        pull = torch.func.vjp(ctx.transformer.forward, theta, x)[1]
        y_theta, y_x = pull((ones, torch.zeros_like(x)))
        l_theta, l_x = pull((torch.zeros_like(x), ones))
        acts = ctx.network.activations(namespace(x))
        bends = [torch.func.vjp(act, a)[1](torch.ones_like(a))[0] for act, a in zip(acts, seen, strict=True)]
        l_ = l[..., None]
        rows = (g - l_ * l_x, y_x, y_theta, -l_[..., None] * l_theta, *bends)
        v = _Reverse.apply(ctx.network, *rows, *weights)
        return None, None, v, -v, -l, None, *(None for _ in (theta, *rest))


class _Reverse(Function):
    @staticmethod
    def forward(network, direct, slope, theta, push, *rest):
        hidden, batch = len(network.widths), direct.shape[:-1]
        flat = [a.reshape(-1, *a.shape[len(batch) :]) for a in (*rest[:hidden], direct, slope, theta, push)]
        return sweep.reverse(network, rest[hidden:], flat[:hidden], *flat[hidden:]).reshape(direct.shape)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError(
            "second derivatives through the inverse of a MaskedAutoregressive are not available in torch; "
            "use the direction that runs forward (pf.Inverse turns a flow round)."
        )

    @staticmethod
    def vmap(info, in_dims, network, *arrays):
        return _vmap(_Reverse, info, in_dims, (network,), arrays, rows=4 + len(network.widths))


def _vmap(function, info, in_dims, static, arrays, rows):
    """Fold the mapped axis into the batch when only row-like arrays carry it; else run slice by slice."""
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
    moved = [
        a.expand(info.batch_size, *a.shape) if d is None else a.movedim(d, 0)
        for a, d in zip(arrays[:rows], dims[:rows], strict=True)
    ]
    out = function.apply(*static, *moved, *arrays[rows:])
    return out, (0,) * len(out) if isinstance(out, tuple) else 0
