"""``plot_weights``: whether importance weights can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.results import FitResult
from ppl_flows.numerics.pareto_smoothing import smoothed_log_weights
from ppl_flows.plots.axes import BLUE, GREY, VERMILION, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST = 25  # weights below which there is no tail to speak of


def plot_weights(
    result_or_log_weights: Any, *, num_samples: int = 10_000, seed: int = 1, ax: Axes | None = None
) -> Axes:
    """Importance weights of a guide's draws, the largest first: each one's share of all, raw and Pareto-smoothed.

    All draws on the dotted line, ``1 / n``, would be exact draws of the posterior. A flat curve is a good guide; a
    steep left end says that a few draws carry the estimates, and its topmost point, how much of them one draw carries.
    Where raw and smoothed part, the tail was too heavy to be taken as it came. The title has Pareto k-hat, above 0.7 of
    which neither is reliable, and the effective sample size, both of these very draws.

    Args:
        result_or_log_weights: a result of ``fit``, or log weights ``log p(z, data) - log q(z)``, ``(n,)``, in nats, up
            to a constant; minus infinity for a draw that is impossible.
        num_samples, seed: of the draws that are made of a result.
        ax: to draw into.

    Returns:
        The Axes, both of them logarithmic: x rank, y share of the weight.

    Raises:
        TypeError, ValueError: log weights that are no vector of numbers, fewer than 25, nan or infinite; a result
            whose likelihood is sub-sampled, or of a file, loaded without its model's arguments.

    Example:
        >>> import numpy as np
        >>> from ppl_flows.plots import plot_weights
        >>> ax = plot_weights(np.random.default_rng(0).normal(size=200))
        >>> ax.get_xscale(), ax.get_yscale()
        ('log', 'log')
    """
    log_weights = _log_weights(result_or_log_weights, num_samples, seed)
    smooth, khat = smoothed_log_weights(log_weights)
    raw, smooth = np.sort(softmax(log_weights))[::-1], np.sort(softmax(smooth))[::-1]
    ess = 1 / np.sum(smooth**2) / len(smooth)
    ax = axes_or_new("plot_weights", ax)
    rank = np.arange(1, len(raw) + 1)
    ax.plot(rank, raw, ".", color=VERMILION, markersize=4, label="raw")
    ax.plot(rank, smooth, color=BLUE, linewidth=1.6, label="Pareto-smoothed")
    ax.axhline(1 / len(raw), color=GREY, linestyle=":", linewidth=1.2, label="all equal")
    # the smallest are many orders below, and say nothing
    ax.set(xscale="log", yscale="log", ylim=(0.01 / len(raw), 2 * max(raw[0], smooth[0])), xlim=(0.8, 1.2 * len(raw)))
    ax.set(xlabel="rank of the draw", ylabel="share of the weight")
    ax.set_title(f"k-hat {khat:.2f}, effective sample size {ess:.1%} of {len(raw):,} draws", fontsize=10)
    ax.legend(fontsize=8, frameon=False, loc="lower left")
    return ax


def _log_weights(given: Any, num_samples: int, seed: int) -> np.ndarray:
    if isinstance(given, FitResult):
        if np.isnan(given.kl.mean):
            raise ValueError("plot_weights: the likelihood is sub-sampled, so the weights carry its noise.")
        whole_number("plot_weights", "num_samples", num_samples, LEAST)
        weigh = one_at_a_time(given._fitted.weigh)
        log_weights = weigh(num_samples, checked_seed("plot_weights", seed)).log_weights
        log_weights = np.where(
            np.isnan(log_weights), -np.inf, log_weights
        )  # of draws that the model has no density for
    else:
        log_weights = to_numpy(given, "plot_weights: log weights").astype(float)
    if log_weights.ndim != 1 or len(log_weights) < LEAST:
        raise ValueError(
            f"plot_weights: log weights must be a vector of at least {LEAST}, one of each draw, got shape "
            f"{log_weights.shape}."
        )
    if not np.all(log_weights < np.inf) or not np.any(log_weights > -np.inf):
        raise ValueError(
            "plot_weights: log weights must be finite, or minus infinity for some of the draws, but "
            f"{np.sum(~np.isfinite(log_weights))} of {len(log_weights)} are not; look at log p and log q of "
            "these draws."
        )
    return log_weights
