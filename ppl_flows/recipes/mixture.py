"""Recipes of mixture CDFs: made for density estimation, fast to score."""

from __future__ import annotations

from ppl_flows.bijections import Elementwise, Householder
from ppl_flows.combinators import Chain, Inverse
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.conditioner import Conditioner
from ppl_flows.recipes.stacks import Hidden, check_recipe, couplings, network_of
from ppl_flows.transformers import MixtureGaussianization, MixtureLogisticCDF


def flowpp(
    dim: int,
    *,
    components: int = 8,
    flow_layers: int = 4,
    mask: str = "alternating",
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Flow++ for vectors: couplings through the CDF of a mixture of logistics, logit and affine.

    Fast to score, as in the paper; sampling inverts numerically, and ``Inverse`` of it exchanges the two.

    Args:
        dim: event size, at least 1.
        components: number of logistics in every mixture, at least 1.
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
        ValueError: a size below 1, or an unknown mask or activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.flowpp(3, components=4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> x, log_det = flow.inverse(params, np.zeros((5, 3)))
        >>> x.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Ho et al. (2019), Flow++, arXiv:1902.00275.
    """
    check_recipe("flowpp", dim, flow_layers)
    network = network_of("flowpp", dim, conditioner, hidden, activation)
    return Inverse(couplings(dim, MixtureLogisticCDF(components), flow_layers, mask, network, context_dim))


def gaussianization(
    dim: int,
    *,
    components: int = 8,
    flow_layers: int = 6,
    reflections: int | None = None,
    conditioner: Conditioner | None = None,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Gaussianization flow: every coordinate to a normal by its own mixture CDF, a rotation, and again.

    Scored in one pass without any conditioner network, as in the paper; sampling inverts numerically, coordinate by
    coordinate. The paper places its components on the data; here they start on a standard normal, so standardise.

    Args:
        dim: event size, at least 1.
        components: number of logistics in every mixture, at least 1.
        flow_layers: number of element-wise maps, at least 1, with a rotation between two.
        reflections: of every rotation, an even number, as in ``Householder``; None: dim or dim + 1.
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
        ValueError: a size below 1, reflections that are not even, or an unknown activation.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> flow = pf.gaussianization(3)
        >>> params = flow.init(np.random.default_rng(0))
        >>> x, log_det = flow.inverse(params, np.zeros((5, 3)))
        >>> x.shape, log_det.shape
        ((5, 3), (5,))

    Reference: Meng et al. (2020), Gaussianization Flows, arXiv:2003.01941.
    """
    check_recipe("gaussianization", dim, flow_layers)
    network = network_of("gaussianization", dim, conditioner, hidden, activation)
    marginal = Elementwise(dim, MixtureGaussianization(components), conditioner=network, context_dim=context_dim)
    rotation = (Householder(dim, reflections=reflections),) if dim > 1 else ()  # type: ignore[arg-type]
    return Inverse(Chain((marginal, *(part for _ in range(flow_layers - 1) for part in (*rotation, marginal)))))
