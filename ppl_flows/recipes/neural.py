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
        dim: event size, at least 1.
        units: sigmoids of each coordinate's map, at least 1, as in ``DeepSigmoidal``.
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
        ValueError: a size below 1, or an unknown activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.naf(3, units=4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

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
        dim: event size, at least 1.
        units: width of the integrand's network, at least 1: ``hidden`` of ``UnconstrainedMonotone``.
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
        ValueError: a size below 1, or an unknown activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.umnn(3, units=4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Wehenkel & Louppe (2019), Unconstrained Monotonic Neural Networks, arXiv:1908.05164.
    """
    check_recipe("umnn", dim, flow_layers)
    network = network_of("umnn", dim, conditioner, hidden, activation)
    return autoregressive(dim, UnconstrainedMonotone(units), flow_layers, network, context_dim)


def bnaf(dim: int, *, hidden_factor: int = 8, layers: int = 2, flow_layers: int = 2, context_dim: int = 0) -> Bijection:
    """Block neural autoregressive flow, with the order reversed in between; directions and costs as in ``naf``.

    Args:
        dim: event size, at least 1.
        hidden_factor: units per coordinate in each hidden layer, at least 1, as in ``BlockNeuralAutoregressive``, which
            has no conditioner.
        layers: hidden layers of each network, at least 1.
        flow_layers: number of networks, at least 1.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a size below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.bnaf(3, hidden_factor=4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: De Cao et al. (2019), Block Neural Autoregressive Flow, arXiv:1904.04676.
    """
    check_recipe("bnaf", dim, flow_layers)
    layer = BlockNeuralAutoregressive(dim, hidden_factor=hidden_factor, layers=layers, context_dim=context_dim)
    return Chain([layer, *(part for _ in range(flow_layers - 1) for part in (Reverse(dim), layer))])
