"""Stacks of layers that several recipes share, and the checks of what all recipes take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ppl_flows.bijections import Coupling, Elementwise, MaskedAutoregressive, Permute
from ppl_flows.bijections.coupling import MASKS
from ppl_flows.combinators import Chain, Repeat
from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_choice, whole_number
from ppl_flows.core.conditioner import AutoregressiveConditioner, Conditioner
from ppl_flows.core.transformer import Transformer

Hidden = tuple[int, ...] | None
AnyConditioner = TypeVar("AnyConditioner")


def check_recipe(recipe: str, dim: object, flow_layers: object) -> None:
    """Raises TypeError or ValueError, in the recipe's name, unless both are whole numbers of at least 1."""
    if isinstance(dim, tuple | list):
        raise TypeError(
            f"{recipe}: dim must be a whole number, the size of a vector, got {dim!r}; recipes of images are pf.glow, "
            "pf.real_nvp_image and pf.tarflow."
        )
    whole_number(recipe, "dim", dim)
    whole_number(recipe, "flow_layers", flow_layers)


def network_of(
    recipe: str,
    dim: int,
    conditioner: AnyConditioner | None,
    hidden: Hidden,
    activation: str,
    residual: bool = False,
) -> AnyConditioner | MLP:
    """The conditioner, or where it is None an MLP; hidden None: two layers of a width that fits dim.

    Raises:
        TypeError: hidden is no tuple of whole numbers; or both a conditioner and hidden are given.
        ValueError: as in ``MLP``.
    """
    if conditioner is not None:
        check_alone(
            recipe, conditioner, hidden=(hidden, None), activation=(activation, "silu"), residual=(residual, False)
        )
        return conditioner
    if not (hidden is None or isinstance(hidden, tuple | list)):
        raise TypeError(f"{recipe}: hidden must be a tuple of widths such as ({hidden}, {hidden}), got {hidden!r}.")
    widths = (max(dim, min(max(2 * dim, 16), 64)),) * 2 if hidden is None else tuple(hidden)
    return MLP(widths, activation=activation, residual=residual)


def check_alone(recipe: str, conditioner: object, **options: tuple[object, object]) -> None:
    """Raises TypeError for options, ``name=(value, default)``, that a conditioner, where there is one, has itself."""
    given = [name for name, (value, default) in options.items() if value != default]
    if conditioner is not None and given:
        raise TypeError(f"{recipe}: give conditioner or {given[0]}, not both; the conditioner has its own.")


def couplings(
    dim: int,
    transformer: Transformer,
    flow_layers: int,
    mask: str,
    conditioner: Conditioner,
    context_dim: int,
    *,
    mix: Callable[[int], Bijection] = Permute,
) -> Bijection:
    """Couplings whose successive layers exchange the two parts, so that every coordinate moves.

    With ``mask="random"`` there is a ``mix(dim)`` before every two. Elementwise maps for dim 1.
    """
    if dim == 1:
        check_choice("Coupling", "mask", mask, MASKS[:-1])
        layer = Elementwise(1, transformer, conditioner=conditioner, context_dim=context_dim)
        return Repeat(layer, times=flow_layers)
    # masks that differ would make every pair another bijection, of which there is no Repeat; a permutation, taken again
    # and again, does as well
    mixing = (mix(dim),) if mask == "random" else ()
    mask = "halves" if mixing else mask
    first, second = (
        Coupling(dim, transformer, mask=mask, flip=flip, conditioner=conditioner, context_dim=context_dim)
        for flip in (False, True)
    )
    return _in_turn((*mixing, first), (second,), flow_layers)


def autoregressive(
    dim: int, transformer: Transformer, flow_layers: int, conditioner: AutoregressiveConditioner, context_dim: int
) -> Bijection:
    """Autoregressive layers, every second one in reverse order; ``forward`` is one pass per layer."""
    first, second = (
        MaskedAutoregressive(dim, transformer, flip=flip, conditioner=conditioner, context_dim=context_dim)
        for flip in (False, True)
    )
    return _in_turn((first,), (second,), flow_layers)


def _in_turn(first: tuple[Bijection, ...], second: tuple[Bijection, ...], flow_layers: int) -> Bijection:
    """A Repeat of the two; a Chain for two layers, or an odd number, so that ``remat`` is that of one stack."""
    pairs, odd = divmod(flow_layers, 2)
    if odd or pairs == 1:
        return Chain((*first, *second) * pairs + first * odd)
    return Repeat(Chain((*first, *second)), times=pairs)
