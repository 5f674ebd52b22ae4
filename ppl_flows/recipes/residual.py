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
        dim: event size, at least 1.
        flow_layers: number of layers, at least 1.
        conditioner: the network that reads the context, without its sizes; not used where there is none. None: an
            ``MLP`` of ``hidden`` and ``activation``.
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
        >>> flow = pf.planar_flow(3)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

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
        dim: event size, at least 1.
        flow_layers: number of layers, at least 1.
        conditioner: the network that reads the context, without its sizes; not used where there is none. None: an
            ``MLP`` of ``hidden`` and ``activation``.
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
        >>> flow = pf.radial_flow(3)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

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
        dim: event size, at least 1.
        lipschitz: bound on each block's Lipschitz constant, between 0 and 1, as in ``ContractiveResidual``.
        exact: whether log_det is exact; None: for dim up to 32, else the paper's unbiased estimate.
        flow_layers: number of blocks, at least 1.
        hidden: widths of each block's hidden layers. None: two of ``2 dim``, kept between 16 and 64, or of dim where
            that is more.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a size below 1, or lipschitz outside (0, 1).

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.residual_flow(3, flow_layers=4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> x, log_det = flow.inverse(params, np.zeros((5, 3)))
        >>> x.shape, log_det.shape
        ((5, 3), (5,))

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
        dim: event size, at least 1.
        rank: as in ``Sylvester``, from 1 to dim: scoring other points takes that many steps a layer; None takes dim.
        variant: where the orthogonal matrices come from: ``"orthogonal"``, ``"householder"`` or ``"triangular"``, as in
            ``Sylvester``.
        flow_layers: number of layers, at least 1.
        conditioner: the network that reads the context, without its sizes; not used where there is none. None: an
            ``MLP`` of ``hidden`` and ``activation``.
        hidden: widths of the ``MLP``'s hidden layers. None: two of ``2 dim``, kept between 16 and 64, or of dim where
            that is more.
        activation: of the ``MLP``, a name such as ``"silu"``, ``"gelu"``, ``"relu"``, ``"elu"`` or ``"tanh"``.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number; a conditioner together with hidden or activation, which it has
            itself.
        ValueError: a size below 1, a rank above dim, or an unknown variant or activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.sylvester_flow(3, rank=2)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

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
