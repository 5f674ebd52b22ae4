"""Stacks of layers that several recipes share."""

from __future__ import annotations

from ppl_flows.bijections import Coupling, Elementwise, MaskedAutoregressive
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.compose import Chain
from ppl_flows.core.transformer import Transformer

Hidden = tuple[int, ...] | None


def default_hidden(dim: int, hidden: Hidden) -> tuple[int, ...]:
    """hidden, or where it is None two layers of a width that fits dim."""
    return (max(dim, min(max(2 * dim, 16), 64)),) * 2 if hidden is None else tuple(hidden)


def check_layers(flow_layers: int) -> None:
    """Raises ValueError for a flow without layers."""
    if flow_layers < 1:
        raise ValueError(f"flow_layers must be at least 1, got {flow_layers}.")


def couplings(
    dim: int,
    h: Transformer,
    flow_layers: int,
    mask: str,
    hidden: Hidden,
    activation: str,
    context_dim: int,
    *,
    residual: bool = False,
) -> tuple[Bijection, ...]:
    """Couplings whose successive layers exchange the two parts; elementwise maps for dim 1."""
    check_layers(flow_layers)
    hidden = default_hidden(dim, hidden)
    if dim == 1:
        layer = Elementwise(1, h, hidden=hidden, activation=activation, residual=residual, context_dim=context_dim)
        return (layer,) * flow_layers
    # two successive layers share a mask and exchange its parts, so that every coordinate moves
    return tuple(
        Coupling(
            dim,
            h,
            mask=mask,
            flip=i % 2 == 1,
            seed=i // 2,
            hidden=hidden,
            activation=activation,
            residual=residual,
            context_dim=context_dim,
        )
        for i in range(flow_layers)
    )


def autoregressive(
    dim: int,
    h: Transformer,
    flow_layers: int,
    hidden: Hidden,
    activation: str,
    context_dim: int,
    *,
    residual: bool = False,
) -> Bijection:
    """Autoregressive layers, every second one in reverse order; ``forward`` is one pass per layer."""
    check_layers(flow_layers)
    hidden = default_hidden(dim, hidden)
    return Chain(
        MaskedAutoregressive(
            dim,
            h,
            flip=i % 2 == 1,
            hidden=hidden,
            activation=activation,
            residual=residual,
            context_dim=context_dim,
        )
        for i in range(flow_layers)
    )
