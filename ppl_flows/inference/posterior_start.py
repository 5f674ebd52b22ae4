"""Where the flow of an amortised posterior starts: at the normal around a linear regression of the latents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppl_flows.bijections import Elementwise, TriangularAffine
from ppl_flows.combinators.chain import Chain
from ppl_flows.conditioners import MLP
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.types import Params
from ppl_flows.inference.density import START_ROWS, check_varies, random_rows
from ppl_flows.inference.gaussian_start import FULL_RANK_DIM
from ppl_flows.transformers import Additive, Affine

RIDGES = 10.0 ** np.arange(-6, 5)  # of the regression, in units of the largest eigenvalue


class Regression(NamedTuple):
    """``z = weights^T c + offset + residual``, and the covariance of the residuals."""

    weights: np.ndarray
    offset: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, z: np.ndarray, context: np.ndarray) -> Regression:
        """By least squares with a ridge, which generalised cross-validation chooses."""
        mean, centre = z.mean(0), context.mean(0)
        n, u, s, v = len(z), *np.linalg.svd(context - centre, full_matrices=False)
        projected = u.T @ (z - mean)
        total = ((z - mean) ** 2).sum(0)
        best, chosen = np.inf, s * 0
        for ridge in RIDGES * max(float(s.max(initial=0.0)) ** 2, 1e-300):
            shrink = s**2 / (s**2 + ridge)
            left = total - ((2 - shrink)[:, None] * shrink[:, None] * projected**2).sum(0)
            freedom = n - 1 - shrink.sum()
            if freedom < n / 20:
                continue
            score = float(np.log(np.maximum(left, 1e-300)).mean() - 2 * np.log(freedom / n))
            if score < best:
                best, chosen = score, s / (s**2 + ridge)
        weights = v.T @ (chosen[:, None] * projected)
        residual = z - mean - (context - centre) @ weights
        covariance = residual.T @ residual / max(n - 1 - (chosen * s).sum(), 1)
        return cls(weights, mean - centre @ weights, np.atleast_2d(covariance))


def posterior_start(
    flow: Bijection, z: np.ndarray, context: np.ndarray | None, *, regression: bool, seed: int
) -> tuple[Bijection, Params]:
    """The flow, after it a normal's factor and, with contexts, a linear map of them; and their first parameters.

    Args:
        flow: conditional.
        z: ``(n, dim)``, of some simulations.
        context: ``(n, context_dim)``, as the flow takes it.
        regression: whether there is a linear map of the context; without it the flow alone reads it.

    Raises:
        ValueError: a latent number that is constant.
    """
    z = z.astype(float)
    check_varies(z)
    dim = z.shape[1]
    if context is None or not regression:
        regression = False
        found = Regression(np.zeros((0, dim)), z.mean(0), np.atleast_2d(np.cov(z, rowvar=False)))
    else:
        found = Regression.of(z, context.astype(float))
    variances = np.diag(found.covariance)
    floor = 1e-10 * z.var(0)  # of latents that the data determine: a factor that is no number would be a dead start
    parts: dict[str, Bijection] = {"flow": flow}
    params = {"flow": initial_params(flow, seed)}
    offset = found.offset
    if dim <= FULL_RANK_DIM:
        parts["residual"] = TriangularAffine(dim)
        factor = np.linalg.cholesky(found.covariance + np.diag(floor + 1e-9 * variances))
        params["residual"] = {
            "l": np.tril(factor, -1) + np.diag(np.log(np.diag(factor))),
            "b": np.zeros(dim) if regression else offset,
        }
    else:
        parts["residual"] = Elementwise(dim, Affine(max_log_scale=None))
        log_scale = 0.5 * np.log(variances + floor)
        loc = np.zeros(dim) if regression else offset
        params["residual"] = {"theta": np.stack([loc, log_scale], -1)}
    if regression and context is not None:
        parts["regression"] = Elementwise(dim, Additive(), conditioner=MLP(()), context_dim=context.shape[1])
        params["regression"] = {"net": {"w0": found.weights, "b0": offset}}
    bijection = Chain(parts)
    rows = random_rows(len(z), START_ROWS, seed)
    return bijection, bijection.observe(params, z[rows], None if context is None else context[rows], stage="start")[0]
