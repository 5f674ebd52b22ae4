"""Coordinates in which a uniform prior on an interval is a standard normal."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers.mixture_gaussianization import logit_of_normal_cdf, normal_quantile_of_logit


@dataclass(frozen=True)
class NormalToLogistic(Bijection):
    """Normal to logistic, each coordinate: ``y = logit(Phi(x))``, without parameters.

    Languages map an interval to the reals by the logit. A density that does not vanish at an end of the interval has
    there the tail ``exp(-|y|)``, and in x that of the normal, which is the tail of a flow's base.

    Args:
        dim: event size.
    """

    dim: int

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        xp = namespace(x)
        left = x < 0
        y, log_slope = logit_of_normal_cdf(xp.where(left, -x, x))
        return xp.where(left, -y, y), xp.sum(log_slope, axis=-1)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        x, log_slope = normal_quantile_of_logit(y)
        return x, namespace(y).sum(log_slope, axis=-1)
