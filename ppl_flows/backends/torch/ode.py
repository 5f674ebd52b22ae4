"""Differential equations in torch: torchdiffeq, and what lets it run under ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import debug_unwrap, vmap

try:
    import torchdiffeq
except ImportError as error:
    raise ImportError(
        "continuous flows in torch are solved by torchdiffeq, which is not installed; "
        "pip install torchdiffeq, or 'ppl-flows[ode]' for both languages."
    ) from error

MAX_STEPS = 4096

Field = Callable[..., Tensor]  # f(t, y, *args)


def odeint(
    f: Field, y: Tensor, args: tuple[Tensor, ...], times: tuple[float, float], *, rtol: float, atol: float
) -> Tensor:
    """As in ``Backend``. Outside ``torch.func`` autograd goes through torchdiffeq's steps, as often as wanted."""
    if any(debug_unwrap(a) is not a for a in (y, *args)):  # torchdiffeq cannot look at values that are mapped over
        solved: Tensor = _Solve.apply(f, times, (rtol, atol), y, *args)
        return solved
    return _solve(f, times, (rtol, atol), y, args)


def _solve(
    f: Field, times: tuple[float, float], tolerances: tuple[float, float], y: Tensor, args: Sequence[Tensor]
) -> Tensor:
    rtol, atol = tolerances
    options = {"norm": _norm, "max_num_steps": MAX_STEPS}
    t = torch.tensor(times, dtype=y.dtype, device=y.device)
    try:
        solution = torchdiffeq.odeint(
            lambda t, y: f(t, y, *args), y, t, rtol=rtol, atol=atol, method="dopri5", options=options
        )
    except AssertionError:  # its way of saying that the steps became too many, too short or nan
        return y * float("nan")
    last: Tensor = solution[-1]
    return last


def _norm(v: Tensor) -> Tensor:
    """The worst row's error decides: the mean over a batch would let a hard row hide among easy ones."""
    return v.detach().square().mean(-1).max().sqrt()


class _Solve(torch.autograd.Function):
    """The solution under ``torch.func``: the mapped axis becomes a batch axis, and the solver sees plain tensors."""

    @staticmethod
    def forward(
        f: Field, times: tuple[float, float], tolerances: tuple[float, float], y: Tensor, *args: Tensor
    ) -> Tensor:
        with torch.no_grad():
            return _solve(f, times, tolerances, y, args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.f, ctx.times, ctx.tolerances = inputs[:3]
        ctx.save_for_backward(*inputs[3:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return None, None, None, *_Gradient.apply(ctx.f, ctx.times, ctx.tolerances, *gradients, *ctx.saved_tensors)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        f: Field,
        times: tuple[float, float],
        tolerances: tuple[float, float],
        y: Tensor,
        *args: Tensor,
    ) -> tuple[Tensor, int]:
        y_dim, *dims = in_dims[3:]
        y = y.expand(info.batch_size, *y.shape) if y_dim is None else y.movedim(y_dim, 0)
        return _Solve.apply(_mapped(f, dims), times, tolerances, y, *args), 0


class _Gradient(torch.autograd.Function):
    """The gradients of ``_Solve``: autograd through torchdiffeq's steps, which are done again."""

    @staticmethod
    def forward(
        f: Field,
        times: tuple[float, float],
        tolerances: tuple[float, float],
        gradient: Tensor,
        y: Tensor,
        *args: Tensor,
    ) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            leaves = [a.detach().requires_grad_() for a in (y, *args)]
            out = _solve(f, times, tolerances, leaves[0], leaves[1:])
        return torch.autograd.grad(out, leaves, gradient, materialize_grads=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            "second derivatives of a continuous flow do not exist under torch.func; torch.autograd has them."
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        f: Field,
        times: tuple[float, float],
        tolerances: tuple[float, float],
        gradient: Tensor,
        y: Tensor,
        *args: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        n, leaf_dims = info.batch_size, in_dims[4:]
        gradient = gradient.expand(n, *gradient.shape) if in_dims[3] is None else gradient.movedim(in_dims[3], 0)
        # each mapped element has gradients of its own, also for what it shares with the others
        leaves = [
            a.expand(n, *a.shape) if d is None else a.movedim(d, 0) for a, d in zip((y, *args), leaf_dims, strict=True)
        ]
        out = _Gradient.apply(_mapped(f, [0] * len(args)), times, tolerances, gradient, *leaves)
        return out, (0,) * len(leaves)


def _mapped(f: Field, dims: Sequence[int | None]) -> Field:
    return lambda t, y, *args: vmap(lambda y, *args: f(t, y, *args), (0, *dims))(y, *args)
