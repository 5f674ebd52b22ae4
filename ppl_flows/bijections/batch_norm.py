from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import POSITIVE, check_real, check_whole
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array, Observed, Params
from ppl_flows.numerics.batch_statistics import batch_mean_and_variance


@dataclass(frozen=True)
class BatchNorm(Bijection):
    """Batch normalisation of the data side, on the last axis: ``x = (y - m) / sqrt(v + eps) exp(log_scale) + shift``.

    m and v are running averages below ``params["state"]``, so that ``forward`` and ``inverse`` are exact inverses of
    each other. In training, ``observe`` normalises by the batch's own mean and variance, with gradients through them,
    and moves the averages; log_det is that of the row-wise map. Starts at the identity up to eps. Cost O(dim) both
    ways.

    It learns from data that pass on the way to the base, as in maximum likelihood. A guide's draws never pass that
    way: there use ``ActNorm``.

    Args:
        dim: event size, at least 1.
        momentum: share of a batch in the running averages, in (0, 1].
        eps: added to the variance, positive.

    Raises:
        ValueError: a field outside its range; in training, fewer than 2 rows, or a batch on the base side.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> layer = pf.BatchNorm(1)
        >>> params = layer.init(np.random.default_rng(0))
        >>> params, x, log_det = layer.observe(params, np.array([[1.0], [3.0]]))
        >>> x.round(3).tolist()  # by the statistics of the batch
        [[-1.0], [1.0]]
        >>> params["state"]["mean"]  # a tenth of the way
        array([0.2])

    Reference: Dinh et al. (2017), Density estimation using Real NVP, arXiv:1605.08803, sec. 3.7 and appendix E; the
    learned scale and shift are those of Papamakarios et al. (2017), arXiv:1705.07057.
    """

    dim: int
    _: KW_ONLY
    momentum: float = 0.1
    eps: float = 1e-5
    row_wise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_whole(self, dim=1)
        check_real(self, momentum=POSITIVE, eps=POSITIVE)
        if self.momentum > 1:
            raise ValueError(f"BatchNorm: momentum must be in (0, 1], got {self.momentum}.")

    def init(self, rng: np.random.Generator) -> Params:
        averages = {"mean": np.zeros(self.dim), "var": np.ones(self.dim)}
        return {"log_scale": np.zeros(self.dim), "shift": np.zeros(self.dim), "state": averages}

    def _log_scale(self, params: Params) -> Array:
        """log dx/dy per coordinate."""
        var = params["state"]["var"]
        return params["log_scale"] - 0.5 * namespace(var).log(var + self.eps)

    def _forward(self, params: Params, x: Array, context: Array | None) -> tuple[Array, Array]:
        xp, s = namespace(x), self._log_scale(params)
        return (x - params["shift"]) * xp.exp(-s) + params["state"]["mean"], xp.broadcast_to(-xp.sum(s), x.shape[:-1])

    def _inverse(self, params: Params, y: Array, context: Array | None) -> tuple[Array, Array]:
        xp, s = namespace(y), self._log_scale(params)
        return (y - params["state"]["mean"]) * xp.exp(s) + params["shift"], xp.broadcast_to(xp.sum(s), y.shape[:-1])

    def _observe(self, params: Params, value: Array, context: Array | None, forward: bool, stage: str) -> Observed:
        if forward:
            raise ValueError(
                "BatchNorm normalises data on their way to the base, but this batch comes from the base side; put it "
                "outside Inverse, or use ActNorm."
            )
        xp = namespace(value)
        mean, var = batch_mean_and_variance("BatchNorm", value)
        batch = {"mean": mean, "var": var}
        share = self.momentum if stage == "train" else 1.0
        averages = {k: old + share * (xp.stop_gradient(batch[k]) - old) for k, old in params["state"].items()}
        return {**params, "state": averages}, *self._inverse({**params, "state": batch}, value, context)
