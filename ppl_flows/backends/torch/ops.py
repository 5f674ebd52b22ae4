"""torch namespace."""

import builtins  # the star import below hides some

import torch
from array_api_compat.torch import *  # the namespace *is* the array API
from torch import erfc, lgamma, sigmoid
from torch.nn import functional as F
from torch.nn.functional import elu, relu, silu
from torch.special import ndtri

from ppl_flows.backends.eager_scan import scan
from ppl_flows.backends.torch.autoregressive import autoregressive_inverse
from ppl_flows.backends.torch.remat import checkpoint, reversible
from ppl_flows.backends.torch.spline import rational_quadratic

_constants: dict[tuple, tuple] = {}


def constant(array, like):
    """A NumPy constant, made once per hyperparameters, as a tensor; kept, as making it costs as much as using it."""
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


def take(x, indices, axis):
    return torch.index_select(x, axis, indices)  # the array API's own spends more on negative indices than on the work


def take_along_axis(x, indices, axis):
    return torch.gather(x, axis, indices)


def moveaxis(x, source, destination):
    return torch.movedim(x, source, destination)  # the same, with a rule for torch.func.vmap


def unstack(x, axis):
    return torch.unbind(x, dim=axis)


def conv2d(x, kernel):
    image = x.reshape(-1, *x.shape[-3:]).permute(0, 3, 1, 2)  # a view: channels last is a memory format of torch
    out = F.conv2d(image, kernel.permute(3, 2, 0, 1), padding="same").permute(0, 2, 3, 1)
    return out.reshape(*x.shape[:-1], out.shape[-1])


def linear(x, w, b):
    if b.ndim == 1:  # one kernel; that of matrices gives a gradient of w that is contiguous
        return torch.addmm(b, x, w) if x.ndim == 2 else F.linear(x, w.T, b)
    return x @ w + b


def keeping_products(f):
    return f  # autograd keeps no more than it needs


def masked_sum(x, mask, axis):
    return torch.sum(x * mask.to(x.dtype), dim=axis)  # torch.where takes several times as long


def pieces(x, sizes, axis):
    return torch.split(x, sizes, dim=axis)


def transposed(x):
    """``x.T`` with its own rows contiguous."""
    return x.T.contiguous()


def softmax(x):
    return torch.softmax(x, dim=-1)


def logsumexp(x):
    return torch.logsumexp(x, dim=-1)


def softplus(x):
    return F.softplus(x, threshold=40.0)  # torch's own threshold of 20 costs half the digits of float64


def gelu(x):
    return F.gelu(x, approximate="tanh")


def solve_triangular(a, b, *, lower):
    rows = b.reshape(-1, b.shape[-1])
    return torch.linalg.solve_triangular(a.T, rows, upper=lower, left=False).reshape(b.shape)


def odeint(f, y, args, times, *, rtol, atol):
    from ppl_flows.backends.torch import ode  # torchdiffeq is an extra

    return ode.odeint(f, y, args, times, rtol=rtol, atol=atol)


def vmap(f):
    """f on every element along the first axis of all its arguments, which may be dicts."""
    return torch.func.vmap(f)


def stop_gradient(x):
    return x.detach()


@torch.no_grad()
def while_loop(go_on, body, state, limit):
    """``state = body(state)`` while ``go_on(state)``, at most ``limit`` times; no gradient."""
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


class _Any(torch.autograd.Function):
    """Whether any element is true, also of those that ``torch.func.vmap`` maps over."""

    @staticmethod
    def forward(x):
        return x.any()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def vmap(info, in_dims, x):
        return _Any.apply(x), None
