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
        dim: event size, at least 1.
        degree: of the polynomials, at least 1, as in ``BernsteinPolynomial``.
        bound: half-width of the interval on which they are not straight.
        flow_layers: number of couplings, at least 1.
        mask: as in ``real_nvp``.
        conditioner: the network of each coupling, without its sizes. None: an ``MLP`` of ``hidden`` and ``activation``.
        hidden: widths of the ``MLP``'s hidden layers. None: two of ``2 dim``, kept between 16 and 64, or of dim where
            that is more.
        activation: of the ``MLP``, a name such as ``"silu"``, ``"gelu"``, ``"relu"``, ``"elu"`` or ``"tanh"``.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number; a conditioner together with hidden or activation, which it has
            itself.
        ValueError: a size below 1, a bound that is not positive, or an unknown mask or activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.bernstein_flow(3, degree=6)
        >>> params = flow.init(np.random.default_rng(0))
        >>> x, log_det = flow.inverse(params, np.zeros((5, 3)))
        >>> x.shape, log_det.shape
        ((5, 3), (5,))

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
        dim: event size, at least 1.
        polynomials: number of squares, at least 1, as in ``SumOfSquares``.
        degree: of the squared polynomials, at least 0.
        flow_layers: number of autoregressive layers, at least 1.
        conditioner: the network of each layer, without its sizes. None: an ``MLP`` of ``hidden`` and ``activation``;
            one of your own has to be autoregressive.
        hidden: widths of the ``MLP``'s hidden layers. None: two of ``2 dim``, kept between 16 and 64, or of dim where
            that is more.
        activation: of the ``MLP``, a name such as ``"silu"``, ``"gelu"``, ``"relu"``, ``"elu"`` or ``"tanh"``.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number; a conditioner together with hidden or activation, which it has
            itself.
        ValueError: a size below 1 (a degree below 0), or an unknown activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.sos_flow(3)
        >>> params = flow.init(np.random.default_rng(0))
        >>> x, log_det = flow.inverse(params, np.zeros((5, 3)))
        >>> x.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Jaini et al. (2019), Sum-of-Squares Polynomial Flow, arXiv:1905.02325.
    """
    check_recipe("sos_flow", dim, flow_layers)
    network = network_of("sos_flow", dim, conditioner, hidden, activation)
    return Inverse(autoregressive(dim, SumOfSquares(polynomials, degree=degree), flow_layers, network, context_dim))
