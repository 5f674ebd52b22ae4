from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import numpy as np

from ppl_flows.core.base_distribution import Base, Random
from ppl_flows.core.checks import POSITIVE, check_real, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Params

LARGE = 20.0  # from here on the series below has all digits of float64


@dataclass(frozen=True)
class StudentT(Base):
    """Independent Student-t variables, each with a learnable tail: its degrees of freedom ``df = exp(log_df)``.

    ``p(x_i) ~ (1 + z_i^2 / df_i)^(-(df_i + 1) / 2)`` with ``z = (x - loc) exp(-log_scale)``, all three learnable. A
    flow that is Lipschitz both ways (affine coupling with bounded scales, splines) keeps the tails of its base, so
    that a normal base can never fit heavy tails; with this one each coordinate learns its own.

    Samples are reparameterised, in df too. Below df = 0.5 draws leave the range of float32.

    Args:
        dim: event size, at least 1.
        df: where the degrees of freedom start, positive. 1 is a Cauchy, infinity a normal distribution.

    Raises:
        ValueError: dim below 1, or df not positive.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> base = pf.StudentT(2, df=1.0)
        >>> params = base.init(np.random.default_rng(0))
        >>> np.exp(base.log_prob(params, np.zeros(2))).round(4)  # 1 / pi^2
        np.float64(0.1013)

    Reference: Jaini et al. (2020), Tails of Lipschitz Triangular Flows, arXiv:1907.04481; Laszkiewicz et al. (2022),
    Marginal Tail-Adaptive Normalizing Flows, arXiv:2206.10311.
    """

    dim: int
    _: KW_ONLY
    df: float = 5.0

    def __post_init__(self) -> None:
        check_whole(self, dim=1)
        check_real(self, df=POSITIVE)

    def init(self, rng: np.random.Generator) -> Params:
        zeros = np.zeros(self.dim)
        return {"loc": zeros, "log_scale": zeros.copy(), "log_df": zeros + math.log(self.df)}

    def _log_prob(self, params: Params, x: Array) -> Array:
        xp, log_scale = namespace(x), params["log_scale"]
        df = xp.exp(params["log_df"])
        z = (x - params["loc"]) * xp.exp(-log_scale)
        log_norm = _log_gamma_ratio(0.5 * df) - 0.5 * (params["log_df"] + math.log(math.pi)) - log_scale
        return xp.sum(log_norm - 0.5 * (df + 1) * xp.log1p(z * z / df), axis=-1)

    def _sample(self, params: Params, random: Random, shape: tuple[int, ...]) -> Array:
        z = random.normal((*shape, self.dim))
        xp = namespace(z)
        half = xp.broadcast_to(0.5 * xp.exp(params["log_df"]), z.shape)
        gamma = xp.maximum(random.gamma(half), xp.full_like(z, float(xp.finfo(z.dtype).smallest_normal)))
        return params["loc"] + xp.exp(params["log_scale"]) * z * xp.sqrt(half / gamma)


def _log_gamma_ratio(a: Array) -> Array:
    """``log Gamma(a + 1/2) - log Gamma(a)``, for large a from its series, as the difference loses all digits there."""
    xp = namespace(a)
    small = xp.where(a < LARGE, a, LARGE)
    u = 1 / xp.where(a < LARGE, LARGE, a)  # both branches are differentiated
    series = -0.5 * xp.log(u) - u / 8 + u**3 / 192 - u**5 / 640 + 17 * u**7 / 14336
    return xp.where(a < LARGE, xp.lgamma(small + 0.5) - xp.lgamma(small), series)
