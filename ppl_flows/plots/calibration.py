"""``plot_calibration``: whether posteriors are as wide as they claim, by the ranks of the truth among their draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppl_flows.core.checks import real_number, whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.calibration import Calibration
from ppl_flows.inference.coordinates import columns_of
from ppl_flows.inference.uniform_ranks import rank_thresholds, simultaneous_band, thinned
from ppl_flows.plots.axes import BLUE, GREY, LIGHT, grid_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST, LEAST = 12, 10  # rows; data sets
BINS, PER_BIN = 20, 15  # most bins, and the data sets that one should have


def plot_calibration(
    ranks: Array | dict[str, Array] | Calibration,
    num_draws: int | None = None,
    *,
    bins: int | None = None,
    level: float | None = None,
    axes: Any = None,
) -> np.ndarray:
    """Simulation-based calibration: three views of the ranks of true parameters among posterior draws.

    Ranks are uniform if every posterior is right. Left, their histogram: a hump in the middle means posteriors that are
    too wide, a valley too narrow ones, a slope a bias; each bar is in the band with probability ``level``, so of
    20 bars one is outside. Middle, the distribution function of the ranks minus that of uniform ones: an S that first
    falls means too wide, one that first rises too narrow, an arc a bias. Right, the share of the data sets whose truth
    lies in the central interval of each nominal mass: below the diagonal posteriors are overconfident. In these two
    the whole curve is in the band with probability ``level``.

    Args:
        ranks: of each data set, how many of the draws lie below the truth: whole numbers from 0 to ``num_draws``,
            ``(num_data_sets,)``, or ``{site: (num_data_sets, *site shape)}``, whose coordinates get a row each. Or what
            ``calibrate`` gives: of more than 12 coordinates the 12 with the smallest p-values.
        num_draws: posterior draws of each data set, at least 2; of a ``Calibration`` its own.
        bins: of the histogram. None: at most 20, with 15 data sets each.
        level: of the bands. None: 0.95, or that of the ``Calibration``.
        axes: three Axes for each row, to draw into.

    Returns:
        The Axes, ``(rows, 3)``.

    Raises:
        ValueError: ranks that are not whole or not from 0 to ``num_draws``, fewer than 10 data sets, more than 12
            rows, more bins than ranks.
        TypeError: ranks that are no numbers, or come without ``num_draws``; axes that are no Axes.

    Example:
        >>> import numpy as np
        >>> from ppl_flows.plots import plot_calibration
        >>> ranks = np.random.default_rng(0).integers(0, 100, size=200)  # of a calibrated posterior
        >>> axes = plot_calibration(ranks, num_draws=99)
        >>> axes.shape
        (1, 3)

    Reference: Talts et al. (2018), Validating Bayesian Inference Algorithms with Simulation-Based Calibration,
    arXiv:1804.06788; the bands of curves are those of Säilynoja, Bürkner & Vehtari (2022), Graphical test for discrete
    uniformity, arXiv:2103.10522.
    """
    owner = "plot_calibration"
    if isinstance(ranks, Calibration):
        num_draws, level, p = ranks.num_draws, ranks.level if level is None else level, ranks.p_values
        worst = sorted(p, key=lambda name: p[name])[:MOST]
        ranks = {name: column for name, column in ranks.ranks.items() if name in worst}
    level = 0.95 if level is None else level
    num_draws = whole_number(owner, "num_draws", num_draws, 2)
    level = real_number(owner, "level", level, 0.0, 1.0)
    columns = _columns(ranks, num_draws)
    size = len(next(iter(columns.values())))
    if bins is None:
        bins = max(2, min(BINS, size // PER_BIN, num_draws + 1))
    if whole_number(owner, "bins", bins, 2) > num_draws + 1:
        raise ValueError(f"{owner}: {num_draws} draws have {num_draws + 1} ranks, fewer than bins={bins}.")
    panels = grid_or_new(owner, axes, len(columns), 3, size=(3.0, 2.4))
    below, central = _shares_below(num_draws, size, level), _central_shares(num_draws, size, level)
    for row, (name, column) in zip(panels, columns.items(), strict=True):
        _draw_histogram(row[0], column, num_draws, bins, level)
        _draw_difference(row[1], column, below)
        _draw_coverage(row[2], np.abs(2 * column - num_draws), central)
        if isinstance(ranks, Mapping):
            row[0].set_ylabel(f"{name}\ndata sets", fontsize=9)
    return panels


def _columns(ranks: Any, num_draws: int) -> dict[str, np.ndarray]:
    columns = columns_of("plot_calibration", ranks, "ranks")
    if not isinstance(ranks, Mapping) and len(columns) > 1:
        raise ValueError(
            f"plot_calibration: ranks of one number are a vector, (num_data_sets,), got shape {np.shape(ranks)}; give "
            "those of several as a dict, {'theta': ranks}."
        )
    if len(columns) > MOST:
        raise ValueError(
            f"plot_calibration: at most {MOST} rows fit into one picture, got {len(columns)}; give fewer sites."
        )
    for name, column in columns.items():
        if len(column) < LEAST:
            raise ValueError(f"plot_calibration: at least {LEAST} data sets have a calibration, got {len(column)}.")
        if not np.all((column == np.round(column)) & (column >= 0) & (column <= num_draws)):
            raise ValueError(
                f"plot_calibration: ranks must be whole numbers from 0 to num_draws={num_draws}, but those of {name!r} "
                f"run from {column.min():g} to {column.max():g}; a rank is (draws < truth).sum(), not its share."
            )
    return {name: column.astype(int) for name, column in columns.items()}


def _draw_histogram(ax: Axes, ranks: np.ndarray, num_draws: int, bins: int, level: float) -> None:
    from scipy.stats import binom

    edges = np.array([part[0] for part in np.array_split(np.arange(num_draws + 1), bins)] + [num_draws + 1])
    width = np.diff(edges)  # they may differ by one rank
    p = width / (num_draws + 1)
    low, high = (binom.ppf(q, len(ranks), p) for q in ((1 - level) / 2, (1 + level) / 2))
    counts = np.histogram(ranks, edges - 0.5)[0]
    ax.stairs(high, edges - 0.5, baseline=low, fill=True, color=LIGHT, linewidth=0, label="band")
    ax.bar(edges[:-1] - 0.5, counts, width, align="edge", color=BLUE, alpha=0.7, edgecolor="white", linewidth=0.6)
    for edge in (low, high):
        ax.stairs(edge, edges - 0.5, baseline=None, color="0.25", linewidth=0.8, linestyle="--", zorder=3)
    ax.set(xlabel=f"rank among {num_draws:,} draws", ylabel="data sets", xlim=(-0.5, num_draws + 0.5))


class _Uniform(NamedTuple):
    """Of uniform ranks: the share that is at most each threshold, and the band of a sample's."""

    thresholds: np.ndarray
    expected: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _shares_below(num_draws: int, size: int, level: float) -> _Uniform:
    """Of the ranks; but for the last threshold, below which all are."""
    thresholds, expected = rank_thresholds(num_draws)
    return _Uniform(thresholds, expected, *simultaneous_band(expected, size, level))


def _central_shares(num_draws: int, size: int, level: float) -> _Uniform:
    """Of ``|2 rank - num_draws|``, which has the parity of the number of draws: how far from the middle a rank is."""
    thresholds = thinned(np.arange(num_draws % 2, num_draws, 2))
    expected = (thresholds + 1) / (num_draws + 1)
    return _Uniform(thresholds, expected, *simultaneous_band(expected, size, level))


def _draw_difference(ax: Axes, ranks: np.ndarray, uniform: _Uniform) -> None:
    thresholds, expected, low, high = uniform
    seen = np.mean(ranks[:, None] <= thresholds, axis=0)
    ax.fill_between(expected, low - expected, high - expected, color=LIGHT, linewidth=0)
    ax.axhline(0.0, color=GREY, linewidth=1.0)
    ax.plot(expected, seen - expected, color=BLUE, linewidth=1.6, drawstyle="steps-post")
    ax.set(xlabel="rank, as a share", ylabel="share below − expected", xlim=(0, 1))


def _draw_coverage(ax: Axes, off_centre: np.ndarray, uniform: _Uniform) -> None:
    thresholds, nominal, low, high = uniform
    seen = np.mean(off_centre[:, None] <= thresholds, axis=0)
    ax.fill_between(nominal, low, high, color=LIGHT, linewidth=0)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1.0)
    ax.plot(nominal, seen, color=BLUE, linewidth=1.6)
    ax.set(xlabel="nominal coverage", ylabel="empirical coverage", xlim=(0, 1), ylim=(0, 1))
