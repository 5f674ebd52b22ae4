"""torch namespace."""

from __future__ import annotations

import builtins  # the star import below hides some
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from array_api_compat.torch import *  # the namespace *is* the array API
from torch import Tensor, erfc, lgamma, sigmoid, tanh
from torch.nn import functional as F
from torch.nn.functional import elu, relu, silu
from torch.special import ndtri

from ppl_flows.backends.eager_recurrence import fractions, recurrence
from ppl_flows.backends.eager_scan import repeat_passes, scan
from ppl_flows.backends.torch.autoregressive import autoregressive_inverse
from ppl_flows.backends.torch.remat import checkpoint, reversible
from ppl_flows.backends.torch.spline import rational_quadratic

State = TypeVar("State")
Function = TypeVar("Function", bound=Callable[..., Any])

_constants: dict[tuple[Any, ...], tuple[np.ndarray, Tensor]] = {}


def constant(array: np.ndarray, like: Tensor) -> Tensor:
    """Made once per hyperparameters and kept, as making it costs as much as using it."""
    if torch.compiler.is_compiling():  # torch.compile traces NumPy too; its graph keeps the constant
        made = torch.as_tensor(array, device=like.device)
        return made.to(like.dtype) if made.is_floating_point() or made.dtype == torch.bool else made
    key = (id(array), like.dtype, like.device)
    found = _constants.get(key)
    if found is None:
        dtype = like.dtype if array.dtype.kind in "fb" else None
        with torch.inference_mode(False):  # an inference tensor would break every later backward
            found = (array, torch.tensor(array, dtype=dtype, device=like.device))
        if type(found[1]) is torch.Tensor:  # not a fake one of a tracer
            _constants[key] = found  # with the array: its id stays taken as long as the entry lives
    return found[1]


def take(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    return torch.index_select(x, axis, indices)  # the array API's own spends more on negative indices than on the work


def take_along_axis(x: Tensor, indices: Tensor, axis: int) -> Tensor:
    return torch.gather(x, axis, indices)


def moveaxis(x: Tensor, source: int, destination: int) -> Tensor:
    return torch.movedim(x, source, destination)  # the same, with a rule for torch.func.vmap


def unstack(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    return torch.unbind(x, dim=axis)


def conv2d(x: Tensor, kernel: Tensor) -> Tensor:
    image = x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2)  # a view: channels last is a memory format of torch
    out = F.conv2d(image, kernel.permute(3, 2, 0, 1), padding="same").permute(0, 2, 3, 1)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def linear(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    if torch._C._get_tracing_state():  # TorchScript mistakes the sizes of ``addmm`` and ``@ +`` of constants
        return F.linear(x, w.T) + b
    if b.ndim == 1:  # one kernel; that of matrices gives a gradient of w that is contiguous
        return torch.addmm(b, x, w) if x.ndim == 2 else F.linear(x, w.T, b)
    return x @ w + b


def keeping_products(f: Function) -> Function:
    return f  # autograd keeps no more than it needs


def masked_sum(x: Tensor, mask: Tensor, axis: int) -> Tensor:
    return torch.sum(x * mask.to(x.dtype), dim=axis)  # torch.where takes several times as long


def pieces(x: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
    return x.split_with_sizes(sizes, axis)


def transposed(x: Tensor) -> Tensor:
    return x.T.contiguous()


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=-1)


def logsumexp(x: Tensor) -> Tensor:
    return torch.logsumexp(x, dim=-1)


def softplus(x: Tensor, /) -> Tensor:
    return F.softplus(x, threshold=40.0)  # torch's own threshold of 20 costs half the digits of float64


def gelu(x: Tensor, /) -> Tensor:
    return F.gelu(x, approximate="tanh")


def solve_triangular(a: Tensor, b: Tensor, *, lower: builtins.bool) -> Tensor:
    rows: Tensor = torch.linalg.solve_triangular(a.T, b.reshape(-1, b.shape[-1]), upper=lower, left=False)
    return rows.reshape(b.shape)


def cholesky(x: Tensor) -> tuple[Tensor, Tensor]:
    factor, wrong = torch.linalg.cholesky_ex(x)
    factor = torch.where((wrong == 0)[..., None, None], factor, torch.nan)
    return factor, torch.linalg.solve_triangular(factor, torch.eye(x.shape[-1]).to(x), upper=False)


def odeint(
    f: Callable[..., Tensor],
    y: Tensor,
    args: tuple[Tensor, ...],
    times: tuple[builtins.float, builtins.float],
    *,
    rtol: builtins.float,
    atol: builtins.float,
) -> Tensor:
    from ppl_flows.backends.torch import ode  # torchdiffeq is an extra

    _refuse_to_trace("an equation solved in as many steps as it needs")
    return ode.odeint(f, y, args, times, rtol=rtol, atol=atol)


def vmap(f: Callable[..., Any]) -> Callable[..., Any]:
    return torch.func.vmap(f)


def reads_code() -> bool:
    return torch.compiler.is_compiling()


def stop_gradient(x: Tensor) -> Tensor:
    return x.detach()


@torch.no_grad()
def while_loop(go_on: Callable[[State], Any], body: Callable[[State], State], state: State, limit: int) -> State:
    _refuse_to_trace("an iteration that stops when it is precise enough")
    for _ in builtins.range(limit):
        going = go_on(state)
        try:
            going = builtins.bool(going)
        except RuntimeError:  # under torch.func.vmap a tensor has no truth value
            going = builtins.bool(_Any.apply(going))
        if not going:
            break
        state = body(state)
    return state


def _refuse_to_trace(what: str) -> None:
    """Raises NotImplementedError under ``torch.jit.trace`` for what runs as long as the numbers say."""
    if torch._C._get_tracing_state():
        raise NotImplementedError(
            f"torch.jit.trace records one run, and this direction of the flow is {what}: for other numbers the trace "
            "would be wrong. Trace the other direction, or choose a layer with a closed form in both (docs/layers.md)."
        )


class _Any(torch.autograd.Function):
    """Whether any element is true, also of those that ``torch.func.vmap`` maps over."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.any()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor) -> tuple[Tensor, None]:
        return _Any.apply(x), None
