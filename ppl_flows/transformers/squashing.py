"""Changes of support: from the reals onto an interval."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass
from typing import ClassVar

from ppl_flows.core.namespace import namespace
from ppl_flows.core.support import Interval
from ppl_flows.core.transformer import Transformer
from ppl_flows.core.types import Array
from ppl_flows.transformers.affine import Affine, check_max_log_scale


@dataclass(frozen=True)
class Squashing(Transformer):
    """What Tanh, Sigmoid and Softplus share: ``y = g(z)``, ``z = x exp(s) + t``.

    Rounding takes g(z) of a large z onto an end of the interval. ``forward`` stays a few roundings inside, and
    ``inverse`` takes an end for the value there. Beyond the ends the density is 0: its log slope is -inf.
    """

    max_log_scale: float | None = 3.0

    def __post_init__(self) -> None:
        check_max_log_scale(self)

    @property
    def size(self) -> int:
        return 2

    def forward(self, theta: Array, x: Array) -> tuple[Array, Array]:
        z, log_scale = Affine(self.max_log_scale).forward(theta, x)
        y, log_slope = self._squash(z)
        # the gradient goes past the rounding: autoregressive inverses divide by this slope
        return y + namespace(y).stop_gradient(self._inside(y) - y), log_slope + log_scale

    def inverse(self, theta: Array, y: Array) -> tuple[Array, Array]:
        xp, (low, high) = namespace(y), self.codomain
        z, log_slope = self._unsquash(self._inside(y))
        x, log_scale = Affine(self.max_log_scale).inverse(theta, z)
        return x, xp.where((y < low) | (y > high), -math.inf, log_scale - log_slope)

    def _inside(self, y: Array) -> Array:
        """y, or the nearest value that is safely inside: the slope there, and what is divided by it, is in range."""
        xp, (low, high) = namespace(y), self.codomain
        info = xp.finfo(y.dtype)
        shrink = 1 - 4 * float(info.eps)
        lowest = low * shrink if low else float(info.smallest_normal) ** 0.75
        return xp.clip(y, lowest, None if high == math.inf else high * shrink)

    @abc.abstractmethod
    def _squash(self, z: Array) -> tuple[Array, Array]:
        """``(g(z), log g'(z))``."""

    @abc.abstractmethod
    def _unsquash(self, y: Array) -> tuple[Array, Array]:
        """``(z, log g'(z))`` with ``g(z) = y``."""


@dataclass(frozen=True)
class Tanh(Squashing):
    """Onto (-1, 1): ``y = tanh(x exp(s) + t)``.

    At ``theta = 0`` the plain map, not the identity. Exact inverse. Within 4 eps of -1 or 1, a y counts as the
    value 4 eps inside, and ``forward`` goes no further (``atanh(y) = 17.7`` in float64, 7.6 in float32); for a y
    beyond -1 or 1, log_det of the inverse is -inf: density 0.

    Args:
        max_log_scale: bound on \\|s\\|, as in ``Affine``.

    Raises:
        ValueError: max_log_scale is not positive and finite.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> pf.Tanh().forward(np.zeros(2), np.array([-1.0, 0.0, 1.0]))[0].round(3)
        array([-0.762,  0.   ,  0.762])
    """

    codomain: ClassVar[Interval] = (-1.0, 1.0)

    def _squash(self, z: Array) -> tuple[Array, Array]:
        xp = namespace(z)
        a = xp.where(z < 0, -z, z)
        e = xp.exp(-2 * a)
        y = xp.where(z < 0, e - 1, 1 - e) / (1 + e)  # its derivative, unlike 1 - tanh^2, is still exact where tanh is 1
        return y + xp.stop_gradient(xp.tanh(z) - y), 2 * (math.log(2) - a - xp.softplus(-2 * a))

    def _unsquash(self, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        above, below = xp.log1p(y), xp.log1p(-y)
        return 0.5 * (above - below), above + below


@dataclass(frozen=True)
class Sigmoid(Squashing):
    """Onto (0, 1): ``y = sigmoid(x exp(s) + t)``.

    At ``theta = 0`` the plain map, not the identity. Exact inverse. A y of 0 counts as 2e-231 (float32: 4e-29), one of
    1 as 1 - 4 eps, and ``forward`` goes no further; for a y beyond, log_det of the inverse is -inf: density 0.

    Args:
        max_log_scale: bound on \\|s\\|, as in ``Affine``.

    Raises:
        ValueError: max_log_scale is not positive and finite.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> pf.Sigmoid().forward(np.zeros(2), np.array([-1.0, 0.0, 1.0]))[0].round(3)
        array([0.269, 0.5  , 0.731])
    """

    codomain: ClassVar[Interval] = (0.0, 1.0)

    def _squash(self, z: Array) -> tuple[Array, Array]:
        xp = namespace(z)
        e = xp.exp(xp.where(z < 0, z, -z))
        y = xp.where(z < 0, e, 1.0) / (1 + e)  # its derivative, unlike y (1 - y), is still exact where y is 1
        return y, -xp.softplus(z) - xp.softplus(-z)

    def _unsquash(self, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        log_y, log_rest = xp.log(y), xp.log1p(-y)
        return log_y - log_rest, log_y + log_rest


@dataclass(frozen=True)
class Softplus(Squashing):
    """Onto the positive reals: ``y = log(1 + exp(x exp(s) + t))``.

    At ``theta = 0`` the plain map, not the identity; linear far out. Exact inverse. A y of 0 counts as 2e-231 (float32:
    4e-29), and ``forward`` goes no further; for a y below 0, log_det of the inverse is -inf: density 0.

    Args:
        max_log_scale: bound on \\|s\\|, as in ``Affine``.

    Raises:
        ValueError: max_log_scale is not positive and finite.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> pf.Softplus().forward(np.zeros(2), np.array([-1.0, 0.0, 1.0]))[0].round(3)
        array([0.313, 0.693, 1.313])
    """

    codomain: ClassVar[Interval] = (0.0, math.inf)

    def _squash(self, z: Array) -> tuple[Array, Array]:
        xp = namespace(z)
        return xp.softplus(z), -xp.softplus(-z)

    def _unsquash(self, y: Array) -> tuple[Array, Array]:
        xp = namespace(y)
        log_slope = xp.log(-xp.expm1(-y))  # slope sigmoid(z) = 1 - exp(-y), and z = log(exp(y) - 1)
        return y + log_slope, log_slope
