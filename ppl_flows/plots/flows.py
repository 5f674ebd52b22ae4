"""A flow in NumPy, whatever language it was trained in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection, check_bijection
from ppl_flows.core.initialisation import check_params
from ppl_flows.core.params import map_params
from ppl_flows.core.support import REAL
from ppl_flows.core.types import Params
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.saved_fits import SavedDensity

AnyFlow: TypeAlias = Bijection | DensityFit | SavedDensity


@dataclass(frozen=True, eq=False)
class NumPyFlow:
    """A bijection, its base (None: standard normal), and the parameters of both, in float64."""

    bijection: Bijection
    params: Params
    base: Base | None
    base_params: Params | None
    context: np.ndarray | None

    def reaches(self, y: np.ndarray) -> np.ndarray:
        """Which of ``(n, *event)`` lie where the bijection leads, ``(n,)``."""
        flat = y.reshape(len(y), -1)
        ends = np.array([i or REAL for i in self.bijection.codomain or (REAL,) * flat.shape[1]])
        return np.asarray(np.all((flat > ends[:, 0]) & (flat < ends[:, 1]), axis=-1))

    def log_prob(self, y: np.ndarray) -> np.ndarray:
        """Log density, ``(n,)``, of vectors ``(n, dim)``: minus infinity outside of where the bijection leads."""
        inside = self.reaches(y)
        x, log_det = self.bijection.inverse(self.params, y[inside], self.context)
        if self.base is not None and self.base_params is not None:
            of_x = np.asarray(self.base.log_prob(self.base_params, x))
        else:
            of_x = -0.5 * (x**2).sum(-1) - 0.5 * y.shape[-1] * np.log(2 * np.pi)
        log_prob = np.full(len(y), -np.inf)
        log_prob[inside] = of_x + log_det
        return log_prob


def numpy_flow(
    owner: str,
    flow: Any,
    params: Params | None,
    *,
    base: Base | None = None,
    base_params: Params | None = None,
    context: Any = None,
) -> NumPyFlow:
    """Of a bijection with its params, or of a density that was fitted.

    Raises:
        TypeError: none of these, or a bijection without params, or a base without its own.
        ValueError: params of another bijection, a context that the bijection does not take, or the other way round.
    """
    if isinstance(flow, DensityFit | SavedDensity):
        if params is not None or base is not None or base_params is not None:
            raise TypeError(f"{owner}: a fitted density has params and a base of its own; leave params= and base= out.")
        flow, params, base, base_params = flow.bijection, flow.params, flow.base, flow.base_params
    check_bijection(owner, flow)
    if params is None or (base is None) != (base_params is None):
        raise TypeError(f"{owner}: a {'base' if params is not None else 'bijection'} needs its parameters, too.")
    check_params(flow, params)
    if flow.batch_shape:
        raise ValueError(f"{owner}: a bijection of batch shape {flow.batch_shape} is many flows; choose one of them.")
    if context is not None:
        context = to_numpy(context, f"{owner}: context").astype(float)
    if flow.context_dim if context is None else context.shape != (flow.context_dim,):
        got = "none" if context is None else f"shape {context.shape}"
        raise ValueError(f"{owner}: the context must be one vector of size {flow.context_dim}, got {got}.")
    return NumPyFlow(flow, in_numpy(params), base, None if base_params is None else in_numpy(base_params), context)


def in_numpy(params: Params) -> dict[str, Any]:
    """The same nesting, arrays of float64."""
    return map_params(lambda name, a: to_numpy(a, name).astype(float), params)
