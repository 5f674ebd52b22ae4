"""``plot_density``: the density of a flow in one or two dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import whole_number
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.saved_fits import SavedDensity
from ppl_flows.plots.axes import BLUE, LIGHT, VERMILION, axes_or_new
from ppl_flows.plots.flows import numpy_flow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 3_000  # of the data that are shown
MARGIN = 0.1  # of the range of the data, at each side, where there are no bounds


def plot_density(
    density: Bijection | DensityFit | SavedDensity | Callable[[np.ndarray], Array],
    bounds: Sequence[Any] | None = None,
    *,
    params: Params | None = None,
    base: Base | None = None,
    base_params: Params | None = None,
    context: Array | None = None,
    data: Array | None = None,
    resolution: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """A density in one dimension, as a curve, or in two, as shades; the data, as a histogram or as points.

    Data where there is no shade are what the flow does not know; shade between clusters of data, such as threads from
    one to the other, is mass that a smooth map from one Gaussian cannot avoid.

    Args:
        density: a result of ``fit_density``, or what ``pf.load`` gives of it; a bijection with its ``params``; or a
            function from points ``(n, dim)``, a NumPy array of float64, to log densities ``(n,)`` in nats.
        bounds: of the picture: ``(low, high)``, or ``((low, high), (low, high))``. None: those of the data.
        params: of a bijection, arrays of any library.
        base, base_params: of a bijection, unless it is the standard normal.
        context: ``(context_dim,)``, of a conditional flow: the picture is of the density given it.
        data: ``(n, dim)``, or ``(n,)`` in one dimension, to draw over the density.
        resolution: points along an axis, at least 10; in two dimensions its square is scored.
        ax: to draw into.

    Returns:
        The Axes: in one dimension x the value and y the density; in two x and y the coordinates.

    Raises:
        ValueError: a fitted density with a base of the language's own; neither bounds nor data; bounds that are not low
            < high; more than two dimensions, or data of others; log densities that are nan, or of another shape; a
            context that does not fit.
        TypeError: a density that is none, a bijection without params, or params of another density.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> from ppl_flows.plots import plot_density
        >>> flow = pf.TriangularAffine(2)
        >>> ax = plot_density(flow, ((-3, 3), (-3, 3)), params=flow.init(np.random.default_rng(0)), resolution=20)
        >>> ax.get_xlim() == (-3, 3)
        True
    """
    owner = "plot_density"
    whole_number(owner, "resolution", resolution, 10)
    log_prob: Callable[[np.ndarray], Any]
    dim = None
    if hasattr(density, "log_prob"):  # also some that can be called, which draws
        raise TypeError(
            f"{owner}: of a distribution give the log density, as a function of a NumPy array: "
            f"lambda y: distribution.log_prob(torch.as_tensor(y)), in NumPyro distribution.log_prob; got {density!r}."
        )
    if callable(density) and not isinstance(density, type):
        if any(given is not None for given in (params, base, base_params, context)):
            raise TypeError(f"{owner}: params=, base= and context= go with a bijection; a function has its own.")
        log_prob = density
    else:
        flow = numpy_flow(owner, density, params, base=base, base_params=base_params, context=context)
        if flow.bijection.output_shape not in ((1,), (2,)):
            raise ValueError(
                f"{owner} draws densities of vectors of size 1 or 2, got one of shape {flow.bijection.output_shape}; "
                "draw pairs of coordinates of its samples by plot_posterior."
            )
        if isinstance(density, DensityFit) and density._write is None:  # which a base of the language's own has not
            raise ValueError(
                f"{owner}: this density has a base of the language's own, which NumPy does not know; give its log "
                "density as a function: lambda y: fit.flow.log_prob(torch.as_tensor(y)), in NumPyro fit.flow.log_prob."
            )
        log_prob, dim = flow.log_prob, flow.bijection.output_shape[0]
    points = None if data is None else _points(data)
    ends = _ends(bounds, points)
    dims = {"the density": dim, "bounds": len(ends), "data": None if points is None else points.shape[1]}
    if len(set(dims.values()) - {None}) > 1:
        of = ", ".join(f"{what} {n}" for what, n in dims.items() if n)
        raise ValueError(f"{owner}: all must be of one size; got dimensions of {of}.")
    ax = axes_or_new(owner, ax, size=(5.0, 3.2) if len(ends) == 1 else (4.2, 4.0))
    along = [np.linspace(low, high, resolution) for low, high in ends]
    at = np.stack(np.meshgrid(*along), axis=-1).reshape(-1, len(ends))
    values = np.exp(_scores(log_prob, at))
    shown = None if points is None else points[np.linspace(0, len(points) - 1, min(len(points), POINTS)).astype(int)]
    if len(ends) == 1:
        if points is not None:
            ax.hist(points[:, 0], bins=40, range=ends[0], density=True, color=LIGHT, label="data")
        ax.plot(along[0], values, color=BLUE, linewidth=1.8, label="density")
        ax.set(xlim=ends[0], ylim=(0, None), ylabel="density")
        if points is not None:
            ax.legend(fontsize=8, frameon=False)
        return ax
    shades = values.reshape(resolution, resolution)
    ax.pcolormesh(*along, shades, cmap="Blues", shading="gouraud", rasterized=True)
    if shown is not None:
        ax.scatter(shown[:, 0], shown[:, 1], s=3, color=VERMILION, alpha=0.5, linewidths=0, rasterized=True)
    ax.set(xlim=ends[0], ylim=ends[1])
    return ax


def _points(data: Any) -> np.ndarray:
    points = to_numpy(data, "plot_density: data").astype(float)
    points = points[:, None] if points.ndim == 1 else points
    if points.ndim != 2 or points.shape[1] not in (1, 2) or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"plot_density: data must be finite and of shape (n, 1) or (n, 2), got {np.shape(data)}.")
    return points


def _ends(bounds: Any, points: np.ndarray | None) -> list[tuple[float, float]]:
    """``(low, high)`` of every dimension."""
    if bounds is None:
        if points is None:
            raise ValueError("plot_density needs bounds such as (-3, 3) or ((-3, 3), (-3, 3)), or data.")
        low, high = points.min(0), points.max(0)
        margin = MARGIN * np.where(high > low, high - low, 1.0)
        return [*zip((low - margin).tolist(), (high + margin).tolist(), strict=True)]
    ends = to_numpy(bounds, "plot_density: bounds").astype(float)
    if ends.shape not in ((2,), (1, 2), (2, 2)):
        raise ValueError(f"plot_density: bounds must be (low, high), once or twice, got {bounds!r}.")
    ends = ends.reshape(-1, 2)
    if not np.isfinite(ends).all() or np.any(ends[:, 0] >= ends[:, 1]):
        raise ValueError(f"plot_density: bounds must be finite, and low below high, got {bounds!r}.")
    return [(float(low), float(high)) for low, high in ends]


def _scores(log_prob: Callable[[np.ndarray], Any], at: np.ndarray) -> np.ndarray:
    scores = to_numpy(log_prob(at), "plot_density: what the log density gives").astype(float)
    if scores.shape != at.shape[:1]:
        raise ValueError(
            f"plot_density: the log density must give shape ({len(at)},) for points {at.shape}, got {scores.shape}; "
            "of a distribution of numbers make one of vectors, by to_event(1)."
        )
    if np.isnan(scores).any():
        first = at[np.isnan(scores).argmax()].tolist()
        raise ValueError(
            f"plot_density: the log density is nan at {np.isnan(scores).sum()} of {len(at)} points, the first of them "
            f"{first}; choose bounds within its support, or give minus infinity outside."
        )
    return scores
