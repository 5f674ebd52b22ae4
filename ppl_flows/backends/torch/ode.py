"""Differential equations in torch: torchdiffeq, and what lets it run under ``torch.func``."""

import torch
from torch.func import debug_unwrap, vmap

try:
    import torchdiffeq
except ImportError as error:
    raise ImportError(
        "continuous flows in torch are solved by torchdiffeq, which is not installed; "
        "pip install torchdiffeq, or 'ppl-flows[ode]' for both languages."
    ) from error

MAX_STEPS = 4096


def odeint(f, y, args, times, *, rtol, atol):
    """As in ``ops``. Outside ``torch.func`` autograd goes through torchdiffeq's steps, as often as wanted."""
    if any(debug_unwrap(a) is not a for a in (y, *args)):  # torchdiffeq cannot look at values that are mapped over
        return _Solve.apply(f, times, (rtol, atol), y, *args)
    return _solve(f, times, (rtol, atol), y, args)


def _solve(f, times, tolerances, y, args):
    rtol, atol = tolerances
    options = {"norm": _norm, "max_num_steps": MAX_STEPS}
    t = torch.tensor(times, dtype=y.dtype, device=y.device)
    try:
        solution = torchdiffeq.odeint(
            lambda t, y: f(t, y, *args), y, t, rtol=rtol, atol=atol, method="dopri5", options=options
        )
    except AssertionError:  # its way of saying that the steps became too many, too short or nan
        return y * float("nan")
    return solution[-1]


def _norm(v):
    """The worst row's error decides: the mean over a batch would let a hard row hide among easy ones."""
    return v.detach().square().mean(-1).max().sqrt()


class _Solve(torch.autograd.Function):
    """The solution under ``torch.func``: the mapped axis becomes a batch axis, and the solver sees plain tensors."""

    @staticmethod
    def forward(f, times, tolerances, y, *args):
        with torch.no_grad():
            return _solve(f, times, tolerances, y, args)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.f, ctx.times, ctx.tolerances = inputs[:3]
        ctx.save_for_backward(*inputs[3:])

    @staticmethod
    def backward(ctx, gradient):
        return None, None, None, *_Gradient.apply(ctx.f, ctx.times, ctx.tolerances, gradient, *ctx.saved_tensors)

    @staticmethod
    def vmap(info, in_dims, f, times, tolerances, y, *args):
        y_dim, *dims = in_dims[3:]
        y = y.expand(info.batch_size, *y.shape) if y_dim is None else y.movedim(y_dim, 0)
        return _Solve.apply(_mapped(f, dims), times, tolerances, y, *args), 0


class _Gradient(torch.autograd.Function):
    """The gradients of ``_Solve``: autograd through torchdiffeq's steps, which are done again."""

    @staticmethod
    def forward(f, times, tolerances, gradient, y, *args):
        with torch.enable_grad():
            leaves = [a.detach().requires_grad_() for a in (y, *args)]
            out = _solve(f, times, tolerances, leaves[0], leaves[1:])
        return torch.autograd.grad(out, leaves, gradient, materialize_grads=True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            "second derivatives of a continuous flow do not exist under torch.func; torch.autograd has them."
        )

    @staticmethod
    def vmap(info, in_dims, f, times, tolerances, gradient, y, *args):
        n, leaf_dims = info.batch_size, in_dims[4:]
        gradient = gradient.expand(n, *gradient.shape) if in_dims[3] is None else gradient.movedim(in_dims[3], 0)
        # each mapped element has gradients of its own, also for what it shares with the others
        leaves = [
            a.expand(n, *a.shape) if d is None else a.movedim(d, 0) for a, d in zip((y, *args), leaf_dims, strict=True)
        ]
        out = _Gradient.apply(_mapped(f, [0] * len(args)), times, tolerances, gradient, *leaves)
        return out, (0,) * len(leaves)


def _mapped(f, dims):
    return lambda t, y, *args: vmap(lambda y, *args: f(t, y, *args), (0, *dims))(y, *args)
