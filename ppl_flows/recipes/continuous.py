"""Recipes that solve a differential equation."""

from __future__ import annotations

from ppl_flows.bijections import NeuralODE
from ppl_flows.combinators import Repeat
from ppl_flows.core.bijection import Bijection
from ppl_flows.recipes.stacks import Hidden, check_recipe, network_of


def ffjord(
    dim: int,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    exact: bool | None = None,
    flow_layers: int = 1,
    hidden: Hidden = None,
    activation: str = "tanh",
    context_dim: int = 0,
) -> Bijection:
    """Continuous flow along a free-form vector field. Sampling and scoring cost the same: one solve per layer.

    Needs a solver's library: ``pip install torchdiffeq`` for Pyro, ``diffrax`` for NumPyro.

    Args:
        dim: event size, at least 1.
        rtol: relative tolerance of one step of the solver, as in ``NeuralODE``.
        atol: absolute tolerance of one step, likewise.
        exact: whether the trace is exact; None: up to two hidden layers, or dim up to 32, else Hutchinson's estimate.
        flow_layers: number of equations, one solved after the other, at least 1.
        hidden: widths of the vector field's hidden layers. None: two of ``2 dim``, kept between 16 and 64, or of dim
            where that is more.
        activation: of the vector field, a name such as ``"tanh"``: a bounded one keeps the motion bounded far out.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a size below 1, a tolerance that is not positive, or an unknown activation.
        ImportError: at the first use, the solver's library is missing.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.ffjord(2)
        >>> params = flow.init(np.random.default_rng(0))
        >>> x, log_det = flow.inverse(params, np.zeros((5, 2)))
        >>> x.shape, log_det.shape
        ((5, 2), (5,))

    Reference: Grathwohl et al. (2019), FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative
    Models, arXiv:1810.01367.
    """
    check_recipe("ffjord", dim, flow_layers)
    network = network_of("ffjord", dim, None, hidden, activation)
    layer = NeuralODE(
        dim,
        hidden=network.hidden,
        activation=activation,
        rtol=rtol,
        atol=atol,
        exact=exact,
        context_dim=context_dim,
    )
    return Repeat(layer, times=flow_layers)
