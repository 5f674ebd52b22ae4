"""Recipes of increasing polynomials: fast to score; sampling inverts numerically, and ``Inverse`` exchanges the two."""

from __future__ import annotations

from ppl_flows.combinators.inverse import Inverse
from ppl_flows.core.bijection import Bijection
from ppl_flows.recipes.stacks import Hidden, autoregressive, couplings
from ppl_flows.transformers import BernsteinPolynomial, SumOfSquares


def bernstein_flow(
    dim: int,
    *,
    degree: int = 10,
    bound: float = 5.0,
    flow_layers: int = 4,
    mask: str = "random",
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
    h = BernsteinPolynomial(degree=degree, bound=bound)
    return Inverse(couplings(dim, h, flow_layers, mask, hidden, activation, context_dim))


def sos_flow(
    dim: int,
    *,
    polynomials: int = 3,
    degree: int = 3,
    flow_layers: int = 3,
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
    h = SumOfSquares(polynomials=polynomials, degree=degree)
    return Inverse(autoregressive(dim, h, flow_layers, hidden, activation, context_dim))
