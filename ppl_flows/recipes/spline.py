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
        dim: event size, at least 1.
        wiring: ``"coupling"``, fast both ways, or ``"autoregressive"``, fast to score as in the paper; ``Inverse`` of
            the latter is fast to sample.
        bins: segments of each spline, at least 2, as in ``RationalQuadratic``.
        bound: half-width of the interval outside of which the splines are the identity.
        flow_layers: number of couplings, or of autoregressive layers, at least 1.
        mask: of the couplings, as in ``Coupling``; successive layers exchange the two parts, and ``"random"`` puts a
            permutation and an ``LULinear`` before every two, as the paper does. Not used by the autoregressive wiring.
        conditioner: the network of each layer, without its sizes. None: an ``MLP`` of ``hidden``, ``activation`` and
            ``residual``.
        hidden: widths of the ``MLP``'s hidden layers. None: two of ``2 dim``, kept between 16 and 64, or of dim where
            that is more.
        activation: of the ``MLP``, a name such as ``"silu"``, ``"gelu"``, ``"relu"``, ``"elu"`` or ``"tanh"``.
        residual: whether ``hidden`` are residual blocks in place of plain layers.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number; a conditioner together with hidden, activation or residual, which it
            has itself.
        ValueError: a size below 1, a bound that is not positive, an unknown wiring, mask or activation, or residual
            blocks of unequal widths.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.nsf(3, bins=4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

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
