"""``plot_posterior``: the draws of a guide, pair by pair, on those of a reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import solve_triangular

from ppl_flows.core.checks import check_choice, checked_seed, whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.coordinates import columns_of
from ppl_flows.inference.results import FitResult
from ppl_flows.plots.axes import BLUE, GREY, LIGHT, grid_or_new
from ppl_flows.plots.coordinates import chosen

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST, LEAST = 8, 25  # coordinates; draws
MASS = (0.9, 0.5)  # of the regions that contours enclose
SHOWN = 0.005  # of the draws lie beyond each side of an axis
ON_A_LINE = 1 - 1e-9  # correlation
WIDTHS = 1.0, 4.0  # of single kernels, beside that of all
QUARTER = 0.637  # width of the middle quarter of a standard normal
KERNELS, SCATTERED, GRID = 1_500, 2_000, 50  # draws and points of density estimates, which cost their product


def plot_posterior(
    draws: dict[str, Array] | Array | FitResult,
    reference: dict[str, Array] | Array | None = None,
    *,
    coordinates: Sequence[str] | None = None,
    kind: str = "contour",
    labels: tuple[str, str] = ("guide", "reference"),
    num_samples: int = 4_000,
    seed: int = 1,
    axes: Any = None,
) -> np.ndarray:
    """Draws of a guide in pairs of coordinates, over reference draws such as those of MCMC.

    Below the diagonal are the smallest regions with 50 % and 90 % of the draws, on the diagonal densities: the guide in
    blue lines, the reference in grey. Lines inside the grey are a guide that is too narrow, and a grey island without
    lines is a mode that it misses. All are kernel estimates, which round off hard edges and sharp ridges:
    ``kind="scatter"`` shows the draws themselves.

    Args:
        draws: ``{site: (n, *site shape)}``, or ``(n, dim)``, which is the site ``x``, or a result of ``fit``.
        reference: likewise; what it has beside the coordinates of ``draws`` is not used.
        coordinates: such as ``["mu", "theta[0]"]``; a site stands for all of its numbers. None: all, of at most 8.
        kind: ``"contour"`` or ``"scatter"``.
        labels: of the two, in the legend.
        num_samples, seed: of the draws that are made of a result.
        axes: ``(k, k)`` Axes for k coordinates, to draw into.

    Returns:
        The Axes, ``(k, k)``; those above the diagonal are empty.

    Raises:
        ValueError: more than 8 coordinates, one that is not there, that the reference lacks, that is not finite or
            constant; fewer than 25 draws; an unknown kind; labels that are not two different ones.
        TypeError: draws that are no numbers; coordinates that are no names; axes that are no Axes.

    Example:
        >>> import numpy as np
        >>> from ppl_flows.plots import plot_posterior
        >>> draws = np.random.default_rng(0).normal(size=(2, 200, 2))
        >>> axes = plot_posterior({"mu": draws[0]}, reference={"mu": draws[1]}, kind="scatter")
        >>> axes.shape
        (2, 2)
    """
    owner = "plot_posterior"
    _check_labels(owner, labels)
    check_choice(owner, "kind", kind, ("contour", "scatter"))
    if isinstance(draws, FitResult):
        whole_number(owner, "num_samples", num_samples, LEAST)
        draws = draws.sample(num_samples, seed=checked_seed(owner, seed))
    of_guide = columns_of(owner, draws, "draws")
    names = chosen(owner, list(of_guide), coordinates, MOST)
    both = {labels[0]: _table(of_guide, names, "draws")}
    if reference is not None:
        both[labels[1]] = _table(columns_of(owner, reference, "reference"), names, "reference")
    panels = grid_or_new(owner, axes, len(names), len(names), size=(max(1.6, 3.2 / len(names)),) * 2)
    limits = _limits([*both.values()])
    for (i, j), ax in np.ndenumerate(panels):
        if j > i:
            ax.set_axis_off()
        elif i == j:
            _draw_densities(ax, [t[:, i] for t in both.values()], limits[i], list(both))
        else:
            for table, is_guide in _behind_first(both, labels[0]):
                draw = _draw_region if kind == "contour" else _draw_points
                draw(ax, table[:, [j, i]], (limits[j], limits[i]), is_guide=is_guide, alone=len(both) == 1)
            ax.set_ylim(limits[i])
        ax.set_xlim(limits[j])
    _label(panels, names)
    if reference is not None:
        handles, words = panels[0, 0].get_legend_handles_labels()
        panels[0, -1].legend(handles, words, fontsize=9, frameon=False, loc="upper right")
    return panels


def _check_labels(owner: str, labels: tuple[str, str]) -> None:
    """Raises ValueError unless there are two, which differ."""
    if isinstance(labels, str) or len(labels) != 2 or labels[0] == labels[1]:
        raise ValueError(f"{owner}: labels must be two different ones, such as ('guide', 'NUTS'), got {labels!r}.")


def _table(columns: dict[str, np.ndarray], names: list[str], what: str) -> np.ndarray:
    """``(n, k)``; raises ValueError for columns that have no density."""
    if missing := [name for name in names if name not in columns]:
        raise ValueError(
            f"plot_posterior: the {what} has no {missing[0]!r}, which the draws have; its coordinates are "
            f"{', '.join(list(columns)[:10])}. Rename or reshape them, or choose others by coordinates=."
        )
    table = np.stack([columns[name] for name in names], axis=-1)
    if len(table) < LEAST:
        raise ValueError(f"plot_posterior: the {what} must hold at least {LEAST} draws, got {len(table)}.")
    if bad := [name for name, column in zip(names, table.T, strict=True) if not np.isfinite(column).all()]:
        raise ValueError(f"plot_posterior: the {what} of {bad[0]!r} are not all finite; leave such draws out.")
    if points := [name for name, column in zip(names, table.T, strict=True) if np.all(column == column[0])]:
        raise ValueError(f"plot_posterior: the {what} of {points[0]!r} are all equal; choose others by coordinates=.")
    return table


def _behind_first(both: dict[str, np.ndarray], guide: str) -> list[tuple[np.ndarray, bool]]:
    return [(table, name == guide) for name, table in reversed(both.items())]


def _limits(tables: list[np.ndarray]) -> np.ndarray:
    """``(k, 2)``: ends of the axes, which all of the tables fit into, but for their tails."""
    quantiles = np.array([np.quantile(t, [SHOWN, 1 - SHOWN], axis=0) for t in tables])
    low, high = quantiles[:, 0].min(0), quantiles[:, 1].max(0)
    width = np.where(high > low, high - low, 1.0)
    return np.stack([low - 0.08 * width, high + 0.08 * width], axis=-1)


def _kernel_density(points: np.ndarray, limits: Sequence[np.ndarray], at: np.ndarray) -> np.ndarray:
    """Of points ``(n, d)`` within these limits, whose tails would widen the kernels, at ``(m, d)``."""
    ends = np.asarray(limits)
    inside = points[np.all((points >= ends[:, 0]) & (points <= ends[:, 1]), axis=1)]
    kernels = inside[np.linspace(0, len(inside) - 1, min(len(inside), KERNELS)).astype(int)]
    n, dim = kernels.shape
    correlation = np.corrcoef(kernels.T) if dim > 1 and np.all(kernels.std(0) > 0) else np.eye(dim)
    if np.any(kernels.std(0) == 0) or np.any(np.abs(correlation[np.triu_indices(dim, 1)]) > ON_A_LINE):
        raise ValueError(
            "plot_posterior: draws lie on a line, or most of them at a point, so that they have no density; choose "
            "other coordinates=, or of a pair kind='scatter'."
        )
    scales = np.array([_scale(column) for column in kernels.T]) * n ** (-1 / (dim + 4))  # Scott's rule
    half = np.linalg.cholesky(np.outer(scales, scales) * correlation)
    a, b = (solve_triangular(half, (v - kernels.mean(0)).T, lower=True).T for v in (at, kernels))
    pilot = np.exp(-0.5 * _squares(b, b)).mean(1)
    # wider in the tails, or each draw there would be an island: Abramson (1982), On bandwidth variation
    width = np.clip((pilot / np.exp(np.log(pilot).mean())) ** -0.5, *WIDTHS)
    density = (np.exp(-0.5 * _squares(a, b) / width**2) / width**dim).mean(1)
    density /= (2 * np.pi) ** (dim / 2) * np.diag(half).prod()
    return np.asarray(density) * len(inside) / len(points)


def _squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances, ``(m, n)``."""
    return np.asarray((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T)


def _scale(column: np.ndarray) -> float:
    """The standard deviation, or of the densest quarter that of a normal: where there are several modes it is of one.

    SciPy's kernels are as wide as all modes together, so that each would look wider than it is.
    """
    ordered, m = np.sort(column), len(column) // 4
    densest = (ordered[m:] - ordered[: len(column) - m]).min() / QUARTER
    return float(min(column.std(), densest) if densest > 0 else column.std())


def _draw_densities(ax: Axes, columns: list[np.ndarray], limits: np.ndarray, labels: list[str]) -> None:
    x = np.linspace(limits[0], limits[1], 200)
    densities = [_kernel_density(c[:, None], [limits], x[:, None]) for c in columns]
    ax.plot(x, densities[0], color=BLUE, linewidth=1.6, label=labels[0])
    if len(columns) > 1:
        ax.fill_between(x, densities[1], color=LIGHT, linewidth=0, label=labels[1])
        ax.plot(x, densities[1], color=GREY, linewidth=0.8, zorder=1)
    ax.set_ylim(0, 1.08 * max(d.max() for d in densities))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)


def _draw_region(ax: Axes, points: np.ndarray, limits: tuple[Any, Any], *, is_guide: bool, alone: bool) -> None:
    x, y = (np.linspace(ends[0], ends[1], GRID) for ends in limits)
    at = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    density = _kernel_density(points, limits, at).reshape(GRID, GRID)
    order = np.sort(density.ravel())[::-1]
    levels = [order[np.searchsorted(np.cumsum(order) / order.sum(), mass)] for mass in MASS]
    if alone or not is_guide:
        colors = [f"{BLUE}30", f"{BLUE}80"] if is_guide else [LIGHT, "0.70"]
        ax.contourf(x, y, density, levels=[*levels, 1.01 * density.max()], colors=colors)
    if is_guide:
        ax.contour(x, y, density, levels=levels, colors=BLUE, linewidths=1.2)


def _draw_points(ax: Axes, points: np.ndarray, limits: tuple[Any, Any], *, is_guide: bool, alone: bool) -> None:
    rows = points[np.linspace(0, len(points) - 1, min(len(points), SCATTERED)).astype(int)]
    color, size = (BLUE, 3) if is_guide else ("0.65", 6)
    ax.scatter(rows[:, 0], rows[:, 1], s=size, color=color, alpha=0.5, linewidths=0, rasterized=True)


def _label(panels: np.ndarray, names: list[str]) -> None:
    """Names and numbers at the left and the bottom only."""
    for (i, j), ax in np.ndenumerate(panels):
        ax.tick_params(labelbottom=i == len(names) - 1, labelleft=j == 0 and i > 0)
        ax.locator_params(axis="x", nbins=4)
        if i != j:
            ax.locator_params(axis="y", nbins=4)
        if i == len(names) - 1:
            ax.set_xlabel(names[j], fontsize=9)
        if j == 0 and i > 0:
            ax.set_ylabel(names[i], fontsize=9)
