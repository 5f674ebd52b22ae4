"""``random_flow`` of both shells, but for the words of the language: sampled parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_flows.combinators.batched import with_batch
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import initial_params, is_stateful
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params


def sample_params(
    name: str, bijection: Bijection, prior: Any, *, sample: Callable[[str, Any], Any], distribution: Any
) -> tuple[Bijection, Params]:
    """Parameters sampled from ``prior`` at sites ``{name}.…``, and the bijection that they are of.

    In a plate, or under vectorised particles, that is a batch of bijections.

    Args:
        name, bijection, prior: as in ``random_flow``.
        sample: the language's primitive.
        distribution: the language's class of all distributions.

    Raises:
        ValueError: as in ``random_flow``.
    """
    if is_stateful(bijection):
        raise ValueError(f"random_flow: {bijection!r} keeps state, such as running averages, which no prior is for.")

    def sample_leaf(leaf: str, initial: Any) -> Any:
        shape = tuple(initial.shape)
        over = prior.expand(shape).to_event(len(shape)) if isinstance(prior, distribution) else prior(leaf, shape)
        if tuple(over.event_shape) != shape:
            raise ValueError(
                f"random_flow: the prior of {leaf!r} must have event shape {shape}, got {tuple(over.event_shape)}; "
                "use expand(...).to_event(...)."
            )
        return sample(f"{name}.{leaf}", over)

    return with_batch(bijection, map_params(sample_leaf, initial_params(bijection, 0)))
