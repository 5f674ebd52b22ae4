"""Recipes of residual layers: small bumps, one upon the other. All but residual_flow are fast to sample."""

from __future__ import annotations

from ppl_flows.bijections import ContractiveResidual, Planar, Radial, Sylvester
from ppl_flows.combinators import Chain, Inverse, Repeat
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import Conditioner
from ppl_flows.recipes.stacks import Hidden, check_recipe, network_of


def planar_flow(
    dim: int,
    *,
    flow_layers: int = 16,
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Planar layers: 2 dim + 1 parameters each, so that many are needed. Scoring other points is exact too.

    Args:
        dim: event size.
        hidden: of the networks that read the context; not used without one.

    Reference: Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770.
    """
    check_recipe("planar_flow", dim, flow_layers)
    network = network_of("planar_flow", dim, conditioner, hidden, activation)
    return Repeat(Planar(dim, conditioner=network, context_dim=context_dim), times=flow_layers)


def radial_flow(
    dim: int,
    *,
    flow_layers: int = 16,
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Radial layers: dim + 2 parameters each. Both directions are closed forms.

    Args:
        dim: event size.
        hidden: of the networks that read the context; not used without one.

    Reference: Rezende & Mohamed (2015), Variational Inference with Normalizing Flows, arXiv:1505.05770.
    """
    check_recipe("radial_flow", dim, flow_layers)
    network = network_of("radial_flow", dim, conditioner, hidden, activation)
    return Repeat(Radial(dim, conditioner=network, context_dim=context_dim), times=flow_layers)


def residual_flow(
    dim: int,
    *,
    lipschitz: float = 0.9,
    exact: bool | None = None,
    flow_layers: int = 8,
    hidden: Hidden = None,
    context_dim: int = 0,
) -> Bijection:
    """Contractive residual blocks with free-form networks. Made for density estimation: one pass per layer to score.

    Sampling solves for each layer's input by iteration. The ``Inverse`` exchanges the costs, as variational inference
    wants it.

    Args:
        dim: event size.
        lipschitz, exact: as in ``ContractiveResidual``; exact None estimates log_det above dim 32.

    Reference: Chen et al. (2019), Residual Flows for Invertible Generative Modeling, arXiv:1906.02735.
    """
    check_recipe("residual_flow", dim, flow_layers)
    widths = network_of("residual_flow", dim, None, hidden, "silu").hidden
    layer = ContractiveResidual(dim, hidden=widths, lipschitz=lipschitz, exact=exact, context_dim=context_dim)
    return Inverse(Repeat(layer, times=flow_layers))


def sylvester_flow(
    dim: int,
    *,
    rank: int | None = None,
    variant: str = "orthogonal",
    flow_layers: int = 4,
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Sylvester layers; in the triangular variant every second one takes the coordinates in reverse order.

    Args:
        dim: event size.
        rank: as in ``Sylvester``: scoring other points takes that many steps a layer; None takes dim.
        variant: as in ``Sylvester``.
        hidden: of the networks that read the context; not used without one.

    Reference: van den Berg et al. (2018), Sylvester Normalizing Flows for Variational Inference, arXiv:1803.05649.
    """
    check_recipe("sylvester_flow", dim, flow_layers)
    network = network_of("sylvester_flow", dim, conditioner, hidden, activation)
    return Chain(
        Sylvester(
            dim,
            rank=dim if rank is None else rank,
            variant=variant,
            flip=i % 2 == 1,
            conditioner=network,
            context_dim=context_dim,
        )
        for i in range(flow_layers)
    )
