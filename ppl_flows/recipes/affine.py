"""Additive and affine recipes."""

from __future__ import annotations

from ppl_flows.bijections import Coupling, Elementwise, Shuffle
from ppl_flows.combinators import Chain, Inverse, Repeat
from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.recipes.spline import nsf
from ppl_flows.recipes.stacks import Hidden, autoregressive, check_recipe, couplings, network_of
from ppl_flows.transformers import Additive, Affine, Multiplicative, SinhArcsinh


def nice(
    dim: int,
    *,
    flow_layers: int = 4,
    mask: str = "halves",
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Additive couplings, and a diagonal scaling on the base side, the paper's top layer.

    The paper's base is logistic: ``Flow(..., base=dist.Logistic(zeros, 1).to_event(1))``.

    Args:
        dim: event size, at least 1.
        flow_layers: number of couplings, at least 1.
        mask: what passes, as in ``Coupling``; successive layers exchange the two parts.
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
        ValueError: a size below 1, or an unknown mask or activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.nice(4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 4)))
        >>> log_det  # volumes are kept by the couplings, and at first by the scaling
        array([0., 0., 0., 0., 0.])

    Reference: Dinh et al. (2014), NICE: Non-linear Independent Components Estimation, arXiv:1410.8516.
    """
    check_recipe("nice", dim, flow_layers)
    network = network_of("nice", dim, conditioner, hidden, activation)
    layers = couplings(dim, Additive(), flow_layers, mask, network, context_dim)
    return Chain((Elementwise(dim, Multiplicative(max_log_scale=None)), layers))


def real_nvp(
    dim: int,
    *,
    flow_layers: int = 8,
    mask: str = "alternating",
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    residual: bool = False,
    context_dim: int = 0,
) -> Bijection:
    """Affine couplings with alternating masks.

    Args:
        dim: event size, at least 1.
        flow_layers: number of couplings, at least 1.
        mask: what passes, as in ``Coupling``; successive layers exchange the two parts, and ``"random"`` permutes the
            coordinates before every two layers, by one random permutation.
        conditioner: the network of each coupling, without its sizes. None: an ``MLP`` of ``hidden``, ``activation`` and
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
        ValueError: a size below 1, an unknown mask or activation, or residual blocks of unequal widths.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.real_nvp(4, hidden=(32, 32), residual=True)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 4)))
        >>> y.shape, log_det.shape
        ((5, 4), (5,))

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803.
    """
    check_recipe("real_nvp", dim, flow_layers)
    network = network_of("real_nvp", dim, conditioner, hidden, activation, residual)
    return couplings(dim, Affine(), flow_layers, mask, network, context_dim)


def iaf(
    dim: int,
    *,
    flow_layers: int = 3,
    conditioner: AutoregressiveConditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    residual: bool = False,
    context_dim: int = 0,
) -> Bijection:
    """Affine autoregressive layers with the order reversed in between: one network pass per layer to sample.

    The usual posterior: sampling and scoring the sample are fast; scoring other points is sequential in dim, at
    about the arithmetic of one pass.

    Args:
        dim: event size, at least 1.
        flow_layers: number of autoregressive layers, at least 1.
        conditioner: the network of each layer, without its sizes. None: an ``MLP`` of ``hidden``, ``activation`` and
            ``residual``; one of your own has to be autoregressive.
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
        ValueError: a size below 1, an unknown activation, or residual blocks of unequal widths.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.iaf(3, flow_layers=2)
        >>> params = flow.init(np.random.default_rng(0))
        >>> y, log_det = flow.forward(params, np.zeros((5, 3)))
        >>> y.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
    arXiv:1606.04934.
    """
    check_recipe("iaf", dim, flow_layers)
    network = network_of("iaf", dim, conditioner, hidden, activation, residual)
    return autoregressive(dim, Affine(), flow_layers, network, context_dim)


def maf(
    dim: int,
    *,
    flow_layers: int = 5,
    conditioner: AutoregressiveConditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    residual: bool = False,
    context_dim: int = 0,
) -> Bijection:
    """The ``Inverse`` of an IAF: one network pass per layer to score, which is what density estimation wants.

    Args:
        dim: event size, at least 1.
        flow_layers: number of autoregressive layers, at least 1.
        conditioner: the network of each layer, without its sizes. None: an ``MLP`` of ``hidden``, ``activation`` and
            ``residual``; one of your own has to be autoregressive.
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
        ValueError: a size below 1, an unknown activation, or residual blocks of unequal widths.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.maf(3)
        >>> params = flow.init(np.random.default_rng(0))
        >>> x, log_det = flow.inverse(params, np.zeros((5, 3)))
        >>> x.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Papamakarios et al. (2017), Masked Autoregressive Flow for Density Estimation, arXiv:1705.07057.
    """
    check_recipe("maf", dim, flow_layers)
    network = network_of("maf", dim, conditioner, hidden, activation, residual)
    return Inverse(autoregressive(dim, Affine(), flow_layers, network, context_dim))


def guide_flow(dim: int, *, flow_layers: int = 16, context_dim: int = 0) -> Bijection:
    """What ``AutoFlow`` uses by default: shuffled affine couplings, then a skew and tails for every coordinate; two
    splines in one dimension.

    Args:
        dim: event size, at least 1.
        flow_layers: number of couplings, at least 1, an odd one rounded up; not used in one dimension.
        context_dim: size of the context, 0 for none.

    Returns:
        The flow, a bijection from base to target, of event shape ``(dim,)``.

    Raises:
        TypeError: a size that is no whole number.
        ValueError: a size below 1.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.guide_flow(3)
        >>> params = flow.init(np.random.default_rng(0))
        >>> flow.forward(params, np.zeros(3))[0].shape
        (3,)
    """
    check_recipe("guide_flow", dim, flow_layers)
    if dim == 1:
        return nsf(1, flow_layers=2, context_dim=context_dim)
    network = MLP((min(max(2 * dim, 16), 32),) * 2)
    pair = (Coupling(dim, flip=flip, conditioner=network, context_dim=context_dim) for flip in (False, True))
    couplings = Repeat(Chain((Shuffle(dim), *pair)), times=(flow_layers + 1) // 2)
    return Chain((couplings, Elementwise(dim, SinhArcsinh())))
