"""Axes as all pictures have them, and colours that the colour-blind tell apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's; grey is what one compares with
BLUE, ORANGE, VERMILION, GREY, LIGHT = "#0072B2", "#E69F00", "#D55E00", "0.45", "0.85"


def load_pyplot() -> Any:
    """``matplotlib.pyplot``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(
            "ppl_flows.plots draws with matplotlib, which is not installed: pip install ppl_flows[arviz]"
        ) from error
    return plt


def axes_or_new(owner: str, ax: Axes | None, *, size: tuple[float, float] = (5.0, 3.2)) -> Axes:
    """ax, or one in a new figure of this size in inches.

    Raises:
        TypeError: ax is no Axes.
    """
    plt = load_pyplot()
    if ax is None:
        ax = plt.subplots(figsize=size, layout="constrained")[1]
    if not isinstance(ax, plt.Axes):
        raise TypeError(
            f"{owner}: ax must be one Axes of matplotlib, got {type(ax).__name__}; leave it out for a new one."
        )
    return without_frame(ax)


def grid_or_new(owner: str, axes: Any, rows: int, columns: int, *, size: tuple[float, float]) -> np.ndarray:
    """axes as an array ``(rows, columns)``, or those of a new figure with panels of this size in inches.

    Raises:
        TypeError: axes that are no Axes.
        ValueError: another number of them.
    """
    plt = load_pyplot()
    if axes is None:
        figsize = (size[0] * columns, size[1] * rows)
        axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained")[1]
    array = np.asarray(axes, dtype=object)
    if not all(isinstance(ax, plt.Axes) for ax in array.flat):
        raise TypeError(
            f"{owner}: axes must be an array of Axes, as plt.subplots({rows}, {columns}) gives, got {axes!r}."
        )
    if array.size != rows * columns:
        raise ValueError(
            f"{owner}: axes must be {rows} x {columns} Axes, as plt.subplots({rows}, {columns}) gives, got "
            f"{array.size}; leave it out for new ones."
        )
    for ax in array.flat:
        without_frame(ax)
    return array.reshape(rows, columns)


def without_frame(ax: Axes) -> Axes:
    """ax, with the two lines that carry numbers alone."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    return ax
