"""Recipes of increasing polynomials: fast to score; sampling inverts numerically, and ``Inverse`` exchanges the two."""

from __future__ import annotations

from ppl_flows.combinators import Inverse
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.recipes.stacks import Hidden, autoregressive, check_recipe, couplings, network_of
from ppl_flows.transformers import BernsteinPolynomial, SumOfSquares


def bernstein_flow(
    dim: int,
    *,
    degree: int = 10,
    bound: float = 5.0,
    flow_layers: int = 4,
    mask: str = "random",
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Couplings of Bernstein polynomials.

    Args:
        dim: event size.
        degree, bound: as in ``BernsteinPolynomial``.
        mask: as in ``real_nvp``.

    Reference: Ramasinghe et al. (2021), Robust normalizing flows using Bernstein-type polynomials, arXiv:2102.03509.
    """
    check_recipe("bernstein_flow", dim, flow_layers)
    network = network_of("bernstein_flow", dim, conditioner, hidden, activation)
    polynomial = BernsteinPolynomial(degree, bound=bound)
    return Inverse(couplings(dim, polynomial, flow_layers, mask, network, context_dim))


def sos_flow(
    dim: int,
    *,
    polynomials: int = 3,
    degree: int = 3,
    flow_layers: int = 3,
    conditioner: AutoregressiveConditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Sum-of-squares polynomial flow: autoregressive, with the order reversed in between.

    Args:
        dim: event size.
        polynomials, degree: as in ``SumOfSquares``.

    Reference: Jaini et al. (2019), Sum-of-Squares Polynomial Flow, arXiv:1905.02325.
    """
    check_recipe("sos_flow", dim, flow_layers)
    network = network_of("sos_flow", dim, conditioner, hidden, activation)
    return Inverse(autoregressive(dim, SumOfSquares(polynomials, degree=degree), flow_layers, network, context_dim))
