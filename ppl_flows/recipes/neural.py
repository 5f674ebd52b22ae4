"""Recipes whose scalar maps are networks."""

from __future__ import annotations

from ppl_flows.bijections import BlockNeuralAutoregressive, Reverse
from ppl_flows.combinators import Chain
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner
from ppl_flows.recipes.stacks import Hidden, autoregressive, check_recipe, network_of
from ppl_flows.transformers import DeepSigmoidal, UnconstrainedMonotone


def naf(
    dim: int,
    *,
    units: int = 8,
    flow_layers: int = 2,
    conditioner: AutoregressiveConditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Neural autoregressive flow: mixtures of sigmoids, autoregressive, every second layer in reverse order.

    One network pass per layer to sample, like ``iaf``; scoring other points is sequential in dim and solves for each
    coordinate numerically. Its ``Inverse`` is for density estimation, with the costs exchanged.

    Args:
        dim: event size.
        units: as in ``DeepSigmoidal``.

    Reference: Huang et al. (2018), Neural Autoregressive Flows, arXiv:1804.00779.
    """
    check_recipe("naf", dim, flow_layers)
    network = network_of("naf", dim, conditioner, hidden, activation)
    return autoregressive(dim, DeepSigmoidal(units), flow_layers, network, context_dim)


def umnn(
    dim: int,
    *,
    units: int = 8,
    flow_layers: int = 2,
    conditioner: AutoregressiveConditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Unconstrained monotonic neural networks, autoregressive; directions and costs as in ``naf``.

    Args:
        dim: event size.
        units: width of the integrand's network, ``hidden`` of ``UnconstrainedMonotone``.

    Reference: Wehenkel & Louppe (2019), Unconstrained Monotonic Neural Networks, arXiv:1908.05164.
    """
    check_recipe("umnn", dim, flow_layers)
    network = network_of("umnn", dim, conditioner, hidden, activation)
    return autoregressive(dim, UnconstrainedMonotone(units), flow_layers, network, context_dim)


def bnaf(dim: int, *, hidden_factor: int = 8, layers: int = 2, flow_layers: int = 2, context_dim: int = 0) -> Bijection:
    """Block neural autoregressive flow, with the order reversed in between; directions and costs as in ``naf``.

    Args:
        dim: event size.
        hidden_factor, layers: of each network, as in ``BlockNeuralAutoregressive``, which has no conditioner.

    Reference: De Cao et al. (2019), Block Neural Autoregressive Flow, arXiv:1904.04676.
    """
    check_recipe("bnaf", dim, flow_layers)
    layer = BlockNeuralAutoregressive(dim, hidden_factor=hidden_factor, layers=layers, context_dim=context_dim)
    return Chain([layer, *(part for _ in range(flow_layers - 1) for part in (Reverse(dim), layer))])
