"""``plot_warped_grid``: what every layer of a flow does to the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import real_number, whole_number
from ppl_flows.core.support import is_real
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.saved_fits import SavedDensity
from ppl_flows.plots.axes import grid_or_new, load_pyplot
from ppl_flows.plots.flows import numpy_flow
from ppl_flows.plots.layers import layers_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES, POINTS = 19, 200  # of the grid, each way, and of a line
COLUMNS = 4
SHOWN = 0.005  # share of the draws beyond each side of a panel


def plot_warped_grid(
    flow: Bijection | DensityFit | SavedDensity,
    params: Params | None = None,
    *,
    context: Array | None = None,
    panels: int = 8,
    extent: float = 3.0,
    num_draws: int = 1_500,
    seed: int = 0,
    axes: Any = None,
) -> np.ndarray:
    """A grid on the base of a flow of the plane, and where each layer takes it, with draws of a standard normal.

    A draw keeps the colour of the direction in which it lies from the centre of the base, so that one sees which part
    of the base goes where. Cells that widen are where the density falls, cells that shrink where it rises; a layer that
    changes nothing was not needed, and lines that are torn far apart are the necks between modes. Grid and draws are
    the same for a flow that has a base of its own.

    Args:
        flow: a bijection of vectors of size 2 with its ``params``, or a result of ``fit_density``, or what ``pf.load``
            gives of it. ``Chain``, ``Repeat``, ``Inverse`` and ``Frozen`` are taken apart into their layers.
        params: of a bijection, arrays of any library.
        context: ``(context_dim,)``, of a conditional flow.
        panels: at most so many, at least 2: the base and the last layer always, of those between evenly spaced ones.
        extent: half the side of the square that the grid covers on the base.
        num_draws, seed: of the draws, which give every panel its limits.
        axes: as many Axes as there are panels, to draw into.

    Returns:
        The Axes of the panels, in order, ``(number of panels,)``.

    Raises:
        ValueError: a flow of another size, or whose base side is not the whole plane; fewer than 2 panels; a context
            that does not fit; layers that lead to numbers that are not finite.
        TypeError: no flow, or one without params.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> from ppl_flows.plots import plot_warped_grid
        >>> flow = pf.Inverse(pf.TriangularAffine(2))
        >>> axes = plot_warped_grid(flow, flow.init(np.random.default_rng(0)), num_draws=100)
        >>> axes.shape  # the base, and where the layer takes it
        (2,)
    """
    owner = "plot_warped_grid"
    whole_number(owner, "panels", panels, 2)
    whole_number(owner, "num_draws", num_draws, 10)
    extent = real_number(owner, "extent", extent, 0.0, np.inf)
    whole = numpy_flow(owner, flow, params, context=context)
    bijection = whole.bijection
    if bijection.event_shape != (2,) or bijection.output_shape != (2,) or not is_real(bijection.domain):
        raise ValueError(
            f"{owner} draws flows from the plane, of vectors of size 2, got one from shape {bijection.event_shape} to "
            f"{bijection.output_shape}."
        )
    layers = layers_of(bijection, whole.params)
    shown = np.unique(np.linspace(0, len(layers), min(panels, len(layers) + 1)).round().astype(int))
    columns = min(len(shown), COLUMNS)
    rows = -(-len(shown) // columns)
    if axes is None:
        array = grid_or_new(owner, None, rows, columns, size=(2.3, 2.5)).ravel()
        for ax in array[len(shown) :]:
            ax.remove()
        array = array[: len(shown)]
    else:
        array = grid_or_new(owner, axes, 1, len(shown), size=(2.3, 2.5)).ravel()

    ticks = np.linspace(-extent, extent, LINES)
    along = np.linspace(-extent, extent, POINTS)
    upright = np.stack(np.broadcast_arrays(ticks[:, None], along), axis=-1)
    grid = np.concatenate([upright, upright[..., ::-1]])  # (2 * LINES, POINTS, 2)
    draws = np.random.default_rng(seed).standard_normal((num_draws, 2))
    share = (np.arctan2(draws[:, 1], draws[:, 0]) + np.pi) / (2 * np.pi)
    colours = 0.82 * load_pyplot().get_cmap("twilight")(share)[:, :3]  # cyclic; its palest is white, as the paper is
    panel = iter(array)
    for i in range(len(layers) + 1):
        if i:
            layer = layers[i - 1]
            given = whole.context if layer.bijection.context_dim else None
            grid, draws = (np.asarray(layer.bijection.forward(layer.params, v, given)[0]) for v in (grid, draws))
        if i in shown:
            _draw_panel(next(panel), grid, draws, colours, f"{i} {layers[i - 1].name}" if i else "base")
    return array


def _draw_panel(ax: Axes, grid: np.ndarray, draws: np.ndarray, colours: np.ndarray, title: str) -> None:
    from matplotlib.collections import LineCollection

    if not np.isfinite(draws).all():
        raise ValueError(f"plot_warped_grid: after layer {title!r} draws are not finite; look at the parameters.")
    ax.add_collection(LineCollection(list(grid), colors="0.6", linewidths=0.5))
    ax.scatter(draws[:, 0], draws[:, 1], color=colours, s=4, linewidths=0, zorder=2, rasterized=True)
    low, high = np.quantile(draws, [SHOWN, 1 - SHOWN], axis=0)
    centre, half = (low + high) / 2, 0.58 * (high - low).max()  # one unit is as long on both axes
    ax.set(xlim=(centre[0] - half, centre[0] + half), ylim=(centre[1] - half, centre[1] + half))
    ax.set_aspect("equal")
    ax.set_title(title, fontsize=9)
    ax.tick_params(labelsize=7)
    ax.locator_params(nbins=4)
