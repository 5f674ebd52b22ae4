from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Observed, Params
from ppl_flows.numerics.batch_statistics import batch_mean_and_variance


@dataclass(frozen=True)
class ActNorm(Bijection):
    """Scale and shift per coordinate, started from data: ``y = x exp(log_scale) + shift``, on the last axis.

    ``observe(..., stage="start")`` sets both so that what leaves the layer has mean 0 and variance 1 over that batch
    (``flow(..., start=batch)`` and ``fit_density`` do so); from then on they are ordinary weights. Without a start it
    begins at the identity. Exact inverse; cost O(dim) both ways.

    Args:
        dim: event size, at least 1.

    Raises:
        ValueError: dim below 1; at a start, fewer than 2 rows.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.ActNorm(2)
        >>> params = layer.init(np.random.default_rng(0))
        >>> batch = np.array([[0.0, 1.0], [2.0, 5.0]])
        >>> params, x, log_det = layer.observe(params, batch, stage="start")
        >>> x  # mean 0 and variance 1
        array([[-1., -1.],
               [ 1.,  1.]])

    Reference: Kingma & Dhariwal (2018), Glow, arXiv:1807.03039, sec. 3.1.
    """

    dim: int

    def __post_init__(self) -> None:
        check_whole(self, dim=1)

    def init(self, rng: np.random.Generator) -> Params:
        return {"log_scale": np.zeros(self.dim), "shift": np.zeros(self.dim)}

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        xp, s = namespace(x), params["log_scale"]
        return x * xp.exp(s) + params["shift"], xp.broadcast_to(xp.sum(s), x.shape[:-1])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp, s = namespace(y), params["log_scale"]
        return (y - params["shift"]) * xp.exp(-s), xp.broadcast_to(-xp.sum(s), y.shape[:-1])

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        if stage == "start":
            xp = namespace(value)
            mean, var = batch_mean_and_variance("ActNorm", value)
            # a column that is constant up to rounding has no scale to take; it is only centred
            constant = var <= float(xp.finfo(var.dtype).eps) ** 2 * mean**2
            s = 0.5 * xp.log(xp.where(constant, 1.0, var))
            params = {"log_scale": -s, "shift": -mean * xp.exp(-s)} if forward else {"log_scale": s, "shift": mean}
        return super()._observe(params, value, context, forward, stage)
