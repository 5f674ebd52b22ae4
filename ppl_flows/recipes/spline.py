"""Spline recipes."""

from __future__ import annotations

from functools import partial
from typing import Any

from ppl_flows.bijections import LULinear
from ppl_flows.combinators import Inverse
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.recipes.stacks import Hidden, autoregressive, check_recipe, couplings, network_of
from ppl_flows.transformers import RationalQuadratic


def nsf(
    dim: int,
    *,
    wiring: str = "coupling",
    bins: int = 8,
    bound: float = 5.0,
    flow_layers: int = 6,
    mask: str = "random",
    conditioner: Conditioner | AutoregressiveConditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    residual: bool = False,
    context_dim: int = 0,
) -> Bijection:
    """Neural spline flow: rational-quadratic splines, in couplings or autoregressive.

    As a density of a table the second is often the better one for its size.

    Args:
        dim: event size.
        wiring: ``"coupling"``, fast both ways, or ``"autoregressive"``, fast to score as in the paper; ``Inverse``
            of the latter is fast to sample.
        bins, bound: as in ``RationalQuadratic``.
        mask: of the couplings, as in ``Coupling``; successive layers exchange the two parts, and ``"random"`` puts a
            permutation and an ``LULinear`` before every two, as the paper does. Not used by the autoregressive wiring.

    Raises:
        ValueError: an unknown wiring.

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032.
    """
    check_recipe("nsf", dim, flow_layers)
    network: Any = network_of(
        "nsf", dim, conditioner, hidden, activation, residual
    )  # the wiring looks which kind it is
    spline = RationalQuadratic(bins, bound=bound)
    if wiring == "coupling":
        return couplings(dim, spline, flow_layers, mask, network, context_dim, mix=partial(LULinear, order="random"))
    if wiring == "autoregressive":
        return Inverse(autoregressive(dim, spline, flow_layers, network, context_dim))
    raise ValueError(f"nsf: unknown wiring {wiring!r}; choose 'coupling' or 'autoregressive'.")
