"""Pictures of fits, flows and draws, by matplotlib: results or arrays of any library in, Axes out.

Each function makes a figure of its own, or draws into ``ax=`` or ``axes=``; what it returns can be changed further,
and ``ax.figure.savefig(path)`` keeps it. matplotlib is loaded by the first call: ``pip install ppl_flows[arviz]``.
"""

from ppl_flows.plots.calibration import plot_calibration
from ppl_flows.plots.coverage import plot_coverage
from ppl_flows.plots.density import plot_density
from ppl_flows.plots.images import plot_images, plot_interpolation
from ppl_flows.plots.loss import plot_loss
from ppl_flows.plots.posterior import plot_posterior
from ppl_flows.plots.warped_grid import plot_warped_grid
from ppl_flows.plots.weights import plot_weights

__all__ = [
    "plot_calibration",
    "plot_coverage",
    "plot_density",
    "plot_images",
    "plot_interpolation",
    "plot_loss",
    "plot_posterior",
    "plot_warped_grid",
    "plot_weights",
]
