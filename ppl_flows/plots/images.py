"""``plot_images`` and ``plot_interpolation``: images in rows, and the way of a flow from one to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import whole_number
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.saved_fits import SavedDensity
from ppl_flows.plots.axes import axes_or_new
from ppl_flows.plots.flows import numpy_flow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = 0.7  # of an image in a new figure


def plot_images(
    images: Array,
    *,
    columns: int | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images side by side in one Axes, row by row, such as samples of a flow.

    Args:
        images: ``(n, height, width)``, grey, or ``(n, height, width, channels)`` with 1 or 3 channels.
        columns: images in a row. None: as many as make a square.
        limits: the numbers that are black and white, or no and full colour; what is beyond is as these. None: the
            smallest and largest in the images.
        ax: to draw into.

    Returns:
        The Axes, without ticks: x and y count pixels, with one white pixel between images.

    Raises:
        ValueError: images of another shape, none, or not finite; limits that are not low < high; columns below 1.
        TypeError: images that are no numbers.

    Example:
        >>> import numpy as np
        >>> from ppl_flows.plots import plot_images
        >>> ax = plot_images(np.random.default_rng(0).random((4, 8, 8)))
        >>> ax.get_images()[0].get_array().shape  # two by two, and a pixel between
        (17, 17, 3)
    """
    array = to_numpy(images, "plot_images: images").astype(float)
    if array.ndim not in (3, 4) or array.size == 0 or array.shape[3:] not in ((), (1,), (3,)):
        way_out = "; one image is images[None]" if array.ndim == 2 else ""
        raise ValueError(
            "plot_images: images must be of shape (n, height, width) or (n, height, width, channels) with 1 or 3 "
            f"channels, the channels last, got {array.shape}{way_out}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"plot_images: {np.sum(~np.isfinite(array))} of the {array.size} pixels are not finite.")
    low, high = (array.min(), array.max()) if limits is None else limits
    if limits is not None and not low < high:
        raise ValueError(f"plot_images: limits must be two numbers, the smaller one first, got {limits!r}.")
    n, h, w = array.shape[:3]
    columns = min(n, int(np.ceil(n**0.5)) if columns is None else whole_number("plot_images", "columns", columns))
    rows = -(-n // columns)
    shades = np.clip((array - low) / (high - low if high > low else 1.0), 0.0, 1.0).reshape(n, h, w, -1)
    mosaic = np.ones((rows * (h + 1) - 1, columns * (w + 1) - 1, 3))
    for i, image in enumerate(shades):
        top, left = i // columns * (h + 1), i % columns * (w + 1)
        mosaic[top : top + h, left : left + w] = image
    ax = axes_or_new("plot_images", ax, size=(INCHES * columns, INCHES * rows * h / w))
    ax.imshow(mosaic, interpolation="nearest")
    ax.set_axis_off()
    return ax


def plot_interpolation(
    flow: Bijection | DensityFit | SavedDensity,
    params: Params | None = None,
    *,
    start: Array,
    end: Array,
    steps: int = 8,
    context: Array | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images on the straight line between two, drawn in the base of a flow of images.

    A flow that has learned what images look like shows images all the way; one that blends the two, as pixels would,
    has not.

    Args:
        flow: a bijection of images with its ``params``, or a result of ``fit_density``, or what ``pf.load`` gives of
            it.
        params: of a bijection, arrays of any library.
        start, end: one image each, of the flow's shape, ``(height, width, channels)``, or ``(n, ...)`` for n rows. They
            lie where the flow's images lie: of a density with ``levels``, ``(image + 0.5) / levels``.
        steps: images in a row, both ends among them, at least 2.
        context: ``(context_dim,)``, of a conditional flow.
        limits, ax: as of ``plot_images``.

    Returns:
        The Axes of ``plot_images``, with a row for each pair.

    Raises:
        ValueError: a flow of anything but images, or images of another shape; images that the flow does not reach;
            fewer than 2 steps.
        TypeError: no flow, or one without params.

    Example:
        >>> import numpy as np, ppl_flows as pf
        >>> from ppl_flows.plots import plot_interpolation
        >>> flow = pf.real_nvp_image((4, 4, 1), hidden=4)
        >>> params = flow.init(np.random.default_rng(0))
        >>> ax = plot_interpolation(flow, params, start=np.zeros((4, 4, 1)), end=np.ones((4, 4, 1)), steps=3)
    """
    owner = "plot_interpolation"
    whole_number(owner, "steps", steps, 2)
    whole = numpy_flow(owner, flow, params, context=context)
    shape = whole.bijection.output_shape
    if len(shape) not in (2, 3):
        raise ValueError(f"{owner} takes flows of images, (height, width, channels), got one of shape {shape}.")
    pair = [to_numpy(image, f"{owner}: {name}").astype(float) for name, image in (("start", start), ("end", end))]
    if pair[0].shape != pair[1].shape or pair[0].shape[-len(shape) :] != shape or pair[0].ndim > len(shape) + 1:
        raise ValueError(
            f"{owner}: start and end must be images of shape {shape}, or as many of them, with one more axis in front, "
            f"got {pair[0].shape} and {pair[1].shape}."
        )
    rows = [image.reshape(-1, *shape) for image in pair]
    if not all(whole.reaches(image).all() for image in rows):
        low, high = min(v.min() for v in rows), max(v.max() for v in rows)
        raise ValueError(
            f"{owner}: start and end have pixels from {low:g} to {high:g}, which is outside of where the flow's images "
            "lie; a density that was fitted with levels= takes (image + 0.5) / levels."
        )
    latent = [np.asarray(whole.bijection.inverse(whole.params, image, whole.context)[0]) for image in rows]
    between = [(1 - t) * latent[0] + t * latent[1] for t in np.linspace(0.0, 1.0, steps)]
    images: Any = whole.bijection.forward(whole.params, np.stack(between, axis=1), whole.context)[0]
    return plot_images(images.reshape(-1, *shape), columns=steps, limits=limits, ax=ax)
