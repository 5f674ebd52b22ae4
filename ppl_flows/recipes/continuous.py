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
        dim: event size.
        rtol, atol, exact: as in ``NeuralODE``.

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
