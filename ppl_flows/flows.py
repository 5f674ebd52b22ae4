"""Recipes: the architectures of the literature, each ``recipe(dim, *, ...) -> Bijection``.

``flow_layers``, ``hidden``, ``activation`` and ``context_dim`` mean the same in all of them: the number of
transforming layers, the widths of every conditioner's hidden layers (None: two layers of a width that fits dim), its
activation by name, and the size of the context (0 for none). All start next to the identity. For dim 1 there is
nothing to condition on, and the coupling recipes use the same transformer elementwise.
"""

from __future__ import annotations

from ppl_flows.bijections import Coupling, Elementwise, MaskedAutoregressive, Reverse
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.compose import Chain, Inverse
from ppl_flows.core.transformer import Transformer
from ppl_flows.transformers import Additive, Affine, Multiplicative, RationalQuadratic

Hidden = tuple[int, ...] | None


def nice(
    dim: int,
    *,
    flow_layers: int = 4,
    mask: str = "halves",
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Additive couplings and a diagonal scaling on top.

    Args:
        dim: event size.
        mask: as in ``Coupling``; successive layers exchange the two parts.

    Reference: Dinh et al. (2014), NICE: Non-linear Independent Components Estimation, arXiv:1410.8516.
    """
    layers = _couplings(dim, Additive(), flow_layers, mask, hidden, activation, context_dim)
    return Chain((*layers, Elementwise(dim, Multiplicative(max_log_scale=None))))


def real_nvp(
    dim: int,
    *,
    flow_layers: int = 8,
    mask: str = "alternating",
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Affine couplings with alternating masks.

    Args:
        dim: event size.
        mask: as in ``Coupling``; successive layers exchange the two parts, and ``"random"`` draws a new mask for
            every two layers.

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803.
    """
    return Chain(_couplings(dim, Affine(), flow_layers, mask, hidden, activation, context_dim))


def iaf(
    dim: int,
    *,
    flow_layers: int = 3,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Affine autoregressive layers with the order reversed in between: one network pass per layer to sample.

    The usual posterior: sampling and scoring the sample are fast; scoring other points is sequential in dim, at
    about the arithmetic of one pass.

    Args:
        dim: event size.

    Reference: Kingma et al. (2016), Improving Variational Inference with Inverse Autoregressive Flow,
    arXiv:1606.04934.
    """
    return _autoregressive(dim, Affine(), flow_layers, hidden, activation, context_dim)


def maf(
    dim: int,
    *,
    flow_layers: int = 5,
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """The ``Inverse`` of an IAF: one network pass per layer to score, which is what density estimation wants.

    Args:
        dim: event size.

    Reference: Papamakarios et al. (2017), Masked Autoregressive Flow for Density Estimation, arXiv:1705.07057.
    """
    return Inverse(_autoregressive(dim, Affine(), flow_layers, hidden, activation, context_dim))


def nsf(
    dim: int,
    *,
    wiring: str = "coupling",
    bins: int = 8,
    bound: float = 5.0,
    flow_layers: int = 6,
    mask: str = "random",
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Neural spline flow: rational-quadratic splines, in couplings or autoregressive.

    Args:
        dim: event size.
        wiring: ``"coupling"``, fast both ways, or ``"autoregressive"``, fast to score as in the paper; ``Inverse``
            of the latter is fast to sample.
        bins, bound: as in ``RationalQuadratic``.
        mask: of the couplings, as in ``real_nvp``; not used by the autoregressive wiring.

    Raises:
        ValueError: an unknown wiring.

    Reference: Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032.
    """
    spline = RationalQuadratic(bins=bins, bound=bound)
    if wiring == "coupling":
        return Chain(_couplings(dim, spline, flow_layers, mask, hidden, activation, context_dim))
    if wiring == "autoregressive":
        return Inverse(_autoregressive(dim, spline, flow_layers, hidden, activation, context_dim))
    raise ValueError(f"nsf: unknown wiring {wiring!r}; choose 'coupling' or 'autoregressive'.")


def guide_flow(dim: int, *, context_dim: int = 0) -> Bijection:
    """What ``AutoFlow`` uses by default: ten affine couplings with random masks; splines in one dimension.

    Args:
        dim: event size.
    """
    if dim == 1:
        return nsf(1, context_dim=context_dim)
    return real_nvp(dim, flow_layers=10, mask="random", hidden=(min(max(2 * dim, 16), 32),) * 2, context_dim=context_dim)


def _width(dim: int, hidden: Hidden) -> tuple[int, ...]:
    return (max(dim, min(max(2 * dim, 16), 64)),) * 2 if hidden is None else tuple(hidden)


def _check_layers(flow_layers: int) -> None:
    if flow_layers < 1:
        raise ValueError(f"flow_layers must be at least 1, got {flow_layers}.")


def _couplings(
    dim: int, h: Transformer, flow_layers: int, mask: str, hidden: Hidden, activation: str, context_dim: int
) -> tuple[Bijection, ...]:
    _check_layers(flow_layers)
    net = {"hidden": _width(dim, hidden), "activation": activation, "context_dim": context_dim}
    if dim == 1:
        return tuple(Elementwise(1, h, **net) for _ in range(flow_layers))
    # two successive layers share a mask and exchange its parts, so that every coordinate moves
    return tuple(Coupling(dim, h, mask=mask, flip=i % 2 == 1, seed=i // 2, **net) for i in range(flow_layers))


def _autoregressive(
    dim: int, h: Transformer, flow_layers: int, hidden: Hidden, activation: str, context_dim: int
) -> Bijection:
    _check_layers(flow_layers)
    layer = MaskedAutoregressive(
        dim, h, hidden=_width(dim, hidden), activation=activation, context_dim=context_dim
    )
    return Chain([layer, *(part for _ in range(flow_layers - 1) for part in (Reverse(dim), layer))])
