"""Recipes of mixture CDFs."""

from __future__ import annotations

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.compose import Chain, Inverse
from ppl_flows.flows.stacks import Hidden, couplings
from ppl_flows.transformers import MixtureLogisticCDF


def flowpp(
    dim: int,
    *,
    components: int = 8,
    flow_layers: int = 4,
    mask: str = "alternating",
    hidden: Hidden = None,
    activation: str = "silu",
    context_dim: int = 0,
) -> Bijection:
    """Flow++ for vectors: couplings through the CDF of a mixture of logistics, logit and affine.

    Fast to score, as in the paper; sampling inverts numerically, and ``Inverse`` of it exchanges the two.

    Args:
        dim: event size.
        components: of every mixture.
        mask: as in ``real_nvp``.

    Reference: Ho et al. (2019), Flow++, arXiv:1902.00275.
    """
    mixture = MixtureLogisticCDF(components=components)
    return Inverse(Chain(couplings(dim, mixture, flow_layers, mask, hidden, activation, context_dim)))
