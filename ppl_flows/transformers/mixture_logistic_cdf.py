from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np

from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.numerics.root_finding import numerical_inverse
from ppl_flows.transformers.affine import bounded_log_scale, check_max_log_scale
from ppl_flows.transformers.deep_sigmoidal import check_min_slope, logit_of_mixture

SPREAD = 0.25  # of the centres at theta = 0: equal components would get equal gradients and stay equal


@dataclass(frozen=True)
class MixtureLogisticCDF(Transformer):
    """CDF of a mixture of logistics, then logit and affine: ``y = (e x + (1 - e) h) exp(a) + b`` with
    ``h = logit(sum_k pi_k sigmoid((x - mu_k) exp(-s_k)))`` and e = ``min_slope``.

    theta holds, per coordinate, b, a, and for every component the logit of pi, mu and s. ``theta = 0`` is within 0.02
    of the identity. Linear far out, and computed from the logs of the CDF and of its complement, so that nothing
    saturates. The paper's map is that of e = 0: between narrow components its slope falls below what any arithmetic
    can invert, so here a share e of the identity stays. Numerical inverse; cost O(components) a coordinate, about ten
    times that for the inverse.

    Args:
        components: number of logistics, at least 1.
        max_log_scale: bound c on each \\|s_k\\| and on \\|a\\|, through ``c tanh(theta / c)``. None: no bound.
        min_slope: e, between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.MixtureLogisticCDF(components=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Ho et al. (2019), Flow++: Improving Flow-Based Generative Models with Variational Dequantization and
    Architecture Design, arXiv:1902.00275, sec. 3.2.
    """

    components: int = 8
    _: KW_ONLY
    max_log_scale: float | None = 3.0
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_whole(self, components=1)
        check_max_log_scale(self)
        check_min_slope(self)

    @property
    def size(self) -> int:
        return 2 + 3 * self.components

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        a = bounded_log_scale(theta[..., 1], self.max_log_scale)
        y, log_slope = self._mixture(x, *self._components(theta))
        return y * namespace(x).exp(a) + theta[..., 0], log_slope + a

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        a = bounded_log_scale(theta[..., 1], self.max_log_scale)
        h = (y - theta[..., 0]) * namespace(y).exp(-a)
        x, log_slope = numerical_inverse(self._mixture, h, *self._components(theta))
        return x, log_slope - a

    def _components(self, theta: Array) -> tuple[Array, Array, Array]:
        """The logit of pi, mu and ``exp(-s)`` of every component."""
        xp, k = namespace(theta), self.components
        mu = theta[..., 2 + k : 2 + 2 * k] + xp.constant(_centres(k), theta)
        s = bounded_log_scale(theta[..., 2 + 2 * k :], self.max_log_scale)
        return theta[..., 2 : 2 + k], mu, xp.exp(-s)

    def _mixture(self, x: Array, logits: Array, mu: Array, steepness: Array) -> tuple[Array, Array]:
        e = self.min_slope
        h, slope = logit_of_mixture(logits, (x[..., None] - mu) * steepness, steepness)
        return e * x + (1 - e) * h, namespace(x).log(e + (1 - e) * slope)


@cache
def _centres(components: int) -> np.ndarray:
    k = np.arange(components)
    return SPREAD * (2 * k - (components - 1)) / max(components - 1, 1)
