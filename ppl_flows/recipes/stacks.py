"""Stacks of layers that several recipes share."""

from __future__ import annotations

from collections.abc import Callable

from ppl_flows.bijections import Coupling, Elementwise, MaskedAutoregressive, Permute
from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.repeat import Repeat
from ppl_flows.core.bijection import Bijection
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
    mix: Callable[[int], Bijection] = Permute,
) -> Bijection:
    """Couplings whose successive layers exchange the two parts, so that every coordinate moves.

    With ``mask="random"`` there is a ``mix(dim)`` before every two. Elementwise maps for dim 1.
    """
    check_layers(flow_layers)
    hidden = default_hidden(dim, hidden)
    if dim == 1:
        layer = Elementwise(1, h, hidden=hidden, activation=activation, residual=residual, context_dim=context_dim)
        return Repeat(layer, flow_layers)
    # masks that differ would make every pair another bijection, of which there is no Repeat; a permutation, taken again
    # and again, does as well
    mixing = (mix(dim),) if mask == "random" else ()
    first, second = (
        Coupling(
            dim,
            h,
            mask="halves" if mixing else mask,
            flip=flip,
            hidden=hidden,
            activation=activation,
            residual=residual,
            context_dim=context_dim,
        )
        for flip in (False, True)
    )
    return _in_turn((*mixing, first), (second,), flow_layers)


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
    first, second = (
        MaskedAutoregressive(
            dim,
            h,
            flip=flip,
            hidden=hidden,
            activation=activation,
            residual=residual,
            context_dim=context_dim,
        )
        for flip in (False, True)
    )
    return _in_turn((first,), (second,), flow_layers)


def _in_turn(first: tuple[Bijection, ...], second: tuple[Bijection, ...], flow_layers: int) -> Bijection:
    """A Repeat of the two; a Chain for two layers, or an odd number, so that ``remat`` is that of one stack."""
    pairs, odd = divmod(flow_layers, 2)
    if odd or pairs == 1:
        return Chain((*first, *second) * pairs + first * odd)
    return Repeat(Chain((*first, *second)), pairs)
