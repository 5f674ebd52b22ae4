from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.numerics.root_finding import numerical_inverse
from ppl_flows.transformers.deep_sigmoidal import check_min_slope, logit_of_mixture, slope_and_shift


@dataclass(frozen=True)
class DeepDenseSigmoidal(Transformer):
    """A deep network of sigmoidal units: layers of ``h' = logit(w sigmoid(a (u h) + b))``, from x to a scalar h.

    Rows of the matrices u and w are positive and sum to 1, ``a > 0``. As in ``DeepSigmoidal``, which this is with one
    layer, ``y = e x + (1 - e) h`` with e = ``min_slope``. Numerical inverse; cost O(layers units^2) a coordinate,
    some tens of times that for the inverse.

    Args:
        units: sigmoids in each layer, and values between two layers; at least 1.
        layers: at least 1; theta grows by ``2 units (units + 1)`` numbers with each.
        min_slope: e, and the smallest a; between 0 and 1.

    Raises:
        ValueError: a field is outside its range.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> h = pf.DeepDenseSigmoidal(units=4)
        >>> theta = np.random.default_rng(0).normal(size=(1, h.size))
        >>> y, log_slope = h.forward(theta, np.array([0.3]))
        >>> h.inverse(theta, y)[0].round(6)
        array([0.3])

    Reference: Huang et al. (2018), Neural Autoregressive Flows, arXiv:1804.00779, eqs. 10-13 (DDSF).
    """

    units: int = 4
    _: KW_ONLY
    layers: int = 2
    min_slope: float = 1e-3

    def __post_init__(self) -> None:
        check_whole(self, units=1, layers=1)
        check_min_slope(self)

    @property
    def size(self) -> int:
        k, layers = self.units, self.layers
        return k * (2 * layers + 1) + 2 * k**2 * (layers - 1)  # the sum of all _sizes

    def _sizes(self, layer: int) -> tuple[int, ...]:
        """How many numbers a, b, w and u take."""
        outputs = 1 if layer == self.layers - 1 else self.units
        return self.units, self.units, outputs * self.units, 0 if layer == 0 else self.units**2

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        xp, e, stop = namespace(x), self.min_slope, 0
        h = x[..., None]
        slope = xp.ones_like(h)
        for layer in range(self.layers):
            parts = []
            for size in self._sizes(layer):
                parts.append(theta[..., stop : stop + size])
                stop += size
            a, b = slope_and_shift(parts[0], parts[1], self.units, e)
            if layer > 0:  # the first layer has one input, and all its u are 1
                u = xp.softmax(self._rows(parts[3]))
                h, slope = xp.sum(u * h[..., None, :], axis=-1), xp.sum(u * slope[..., None, :], axis=-1)
            z, dz = a * h + b, a * slope
            h, slope = logit_of_mixture(self._rows(parts[2]), z[..., None, :], dz[..., None, :])
        return e * x + (1 - e) * h[..., 0], xp.log(e + (1 - e) * slope[..., 0])

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        return numerical_inverse(lambda x, theta: self.forward(theta, x), y, theta)

    def _rows(self, flat: Array) -> Array:
        return namespace(flat).reshape(flat, (*flat.shape[:-1], -1, self.units))
