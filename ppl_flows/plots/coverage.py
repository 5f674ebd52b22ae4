"""``plot_coverage``: whether regions of all coordinates at once hold the truth as often as they claim."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppl_flows.inference.calibration import Calibration
from ppl_flows.inference.uniform_ranks import rank_thresholds, simultaneous_band
from ppl_flows.plots.axes import BLUE, GREY, LIGHT, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_coverage(calibration: Calibration, *, ax: Axes | None = None) -> Axes:
    """Expected coverage by TARP: how often the truth lies in the region of each credibility.

    The region of credibility ``a`` holds the share ``a`` of the draws, those that are nearest to a reference point.
    The curve of right posteriors is the diagonal; it is in the band, all of it, with the probability ``level``. Below
    the diagonal truths lie further out than the draws: too narrow, or in the wrong place. Above it draws lie further
    out: too wide, or blind to the data. An S means too narrow or too wide with references all around.

    Args:
        calibration: of ``calibrate``, or of ``Calibration.from_draws``.
        ax: to draw into.

    Returns:
        The Axes.

    Raises:
        TypeError: no Calibration.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> from ppl_flows.plots import plot_coverage
        >>> z, draws = np.random.default_rng(0).normal(size=(100, 1)), np.random.default_rng(1).normal(size=(100, 99))
        >>> ax = plot_coverage(pf.Calibration.from_draws({"z": z[:, 0]}, {"z": draws}))

    Reference: Lemos et al. (2023), Sampling-Based Accuracy Testing of Posterior Estimators for General Inference,
    arXiv:2302.03026.
    """
    if not isinstance(calibration, Calibration):
        raise TypeError(f"plot_coverage: expected a Calibration, as calibrate gives, got {calibration!r}.")
    ax = axes_or_new("plot_coverage", ax, size=(3.4, 3.2))
    thresholds, expected = rank_thresholds(calibration.num_draws)
    low, high = simultaneous_band(expected, len(calibration.coverage_ranks), calibration.level)
    seen = np.mean(calibration.coverage_ranks[:, None] <= thresholds, axis=0)
    ax.fill_between(expected, low, high, color=LIGHT, linewidth=0)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1.0)
    ax.plot(expected, seen, color=BLUE, linewidth=1.6)
    ax.set(xlabel="credibility", ylabel="expected coverage", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return ax
