"""torch namespace."""

import torch
from array_api_compat.torch import *  # noqa: F403  the namespace *is* the array API
from torch import sigmoid as sigmoid
from torch.nn import functional as F
from torch.nn.functional import elu as elu
from torch.nn.functional import relu as relu
from torch.nn.functional import silu as silu

from ppl_flows.core.autoregressive_torch import autoregressive_inverse as autoregressive_inverse

_constants: dict[tuple, tuple] = {}


def constant(array, like):
    """A NumPy constant (made once per hyperparameters) as a tensor; kept, since copying a mask costs as much as using it."""
    key = (id(array), like.dtype, like.device)
    found = _constants.get(key)
    if found is None:
        dtype = like.dtype if array.dtype.kind in "fb" else None
        # the array is stored too: its id stays taken as long as the entry lives
        found = _constants[key] = (array, torch.as_tensor(array, dtype=dtype, device=like.device))
    return found[1]


def softmax(x):
    return torch.softmax(x, dim=-1)


def softplus(x):
    return F.softplus(x, threshold=40.0)  # torch's own threshold of 20 costs half the digits of float64


def gelu(x):
    return F.gelu(x, approximate="tanh")
