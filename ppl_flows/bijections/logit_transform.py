from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_real, checked_shape
from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Support
from ppl_flows.core.types import Array, Params
from ppl_flows.transformers import Sigmoid


@dataclass(frozen=True)
class LogitTransform(Bijection):
    """Real numbers to pixels: ``y = (sigmoid(x) - a) / (1 - 2 a)``; the last layer of a flow of images.

    Its inverse takes pixels between 0 and 1 to ``logit(a + (1 - 2 a) y)``, which stays within ``logit(1 - a)``; the
    range is a little wider than [0, 1]. Exact inverse; beyond the range, density 0, as in ``Sigmoid``.

    Args:
        shape: of an image.
        alpha: a, between 0 and 0.5.

    Raises:
        ValueError: a field outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.LogitTransform((2, 2, 1))
        >>> y, log_det = layer.forward({}, np.array([-3.0, 0.0, 0.5, 3.0]).reshape(2, 2, 1))
        >>> y.ravel().round(3)
        array([-0.003,  0.5  ,  0.636,  1.003])

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, sec. 4.1.
    """

    shape: tuple[int, ...]
    _: KW_ONLY
    alpha: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("LogitTransform", self.shape))
        check_real(self, alpha=(0.0, 0.5))

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.shape

    @property
    def codomain(self) -> Support:
        end = self.alpha / (1 - 2 * self.alpha)
        return ((-end, 1 + end),) * math.prod(self.shape)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        p, log_slopes = Sigmoid().forward(_plain(x), x)
        return (p - self.alpha) / (1 - 2 * self.alpha), self._log_det(log_slopes)

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        x, log_slopes = Sigmoid().inverse(_plain(y), self.alpha + (1 - 2 * self.alpha) * y)
        return x, -self._log_det(-log_slopes)

    def _log_det(self, log_slopes: Array) -> Array:
        return namespace(log_slopes).sum(log_slopes - math.log(1 - 2 * self.alpha), axis=(-3, -2, -1))


def _plain(like: Array) -> Array:
    """theta of the plain sigmoid."""
    return namespace(like).constant(_ZEROS, like)


_ZEROS = np.zeros(2)
