"""``plot_loss``: how a training went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ppl_flows.core.checks import whole_number
from ppl_flows.inference.density_results import AmortizedFit, DensityFit
from ppl_flows.inference.fit_error import FitError
from ppl_flows.inference.kl_estimate import Estimate
from ppl_flows.inference.learned_likelihood import LikelihoodFit
from ppl_flows.inference.results import FitResult
from ppl_flows.inference.saved_fits import SavedAmortized, SavedDensity, SavedFit
from ppl_flows.inference.saved_likelihoods import SavedLikelihood
from ppl_flows.inference.schedule import BLOCKS
from ppl_flows.plots.axes import BLUE, GREY, VERMILION, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OfDensity: TypeAlias = AmortizedFit | SavedAmortized | LikelihoodFit | SavedLikelihood
Trained: TypeAlias = FitResult | SavedFit | FitError | DensityFit | SavedDensity | OfDensity

POINTS = 400  # of the smoothed curve


def plot_loss(result: Trained, *, steps: int | None = None, ax: Axes | None = None) -> Axes:
    """The training of a guide or a density, step by step.

    Of a guide the ELBO is drawn, which goes up: of every step (light), smoothed (dark), and of the trained guide from
    fresh draws (dashed). The two should meet: a dashed line below the curve's end says that the last steps were lucky,
    one above it that averaging the parameters over them helped. A curve that still climbs at its end wants more steps.
    With ``anneal`` the first half is of a weaker model.

    Of a density the loss is drawn, which goes down, and the loss of the held-out rows, with the parameters that were
    kept: where that rises again, the flow overfits.

    The y-axis leaves out the huge losses that trainings begin with: ``ax.set_ylim`` shows them.

    Args:
        result: of ``fit``, ``fit_density``, ``fit_amortized`` or ``fit_likelihood``, what ``pf.load`` gives of it, or a
            ``FitError``.
        steps: as they were asked for. With them the x-axis is as long, and the picture says whether the fit had
            converged before.
        ax: to draw into.

    Returns:
        The Axes: x steps, y nats (a density: nats per row).

    Raises:
        TypeError: no result; steps that are no whole number.
        ValueError: fewer steps than were taken; none at all; no loss is finite.

    Example:
        >>> import numpy as np
        >>> from ppl_flows.plots import plot_loss
        >>> from ppl_flows.pyro import FitError
        >>> error = FitError(80, np.linspace(9.0, 2.0, 100), {})  # or a result of ``fit``
        >>> ax = plot_loss(error)
    """
    if not isinstance(result, Trained):
        raise TypeError(f"plot_loss takes a result of fit, fit_density or fit_amortized, got {type(result).__name__}.")
    elbo = isinstance(result, FitResult | SavedFit | FitError)
    training: Any = result.density if isinstance(result, OfDensity) else result
    losses = np.asarray(training.losses, dtype=float)
    taken = len(losses)
    if steps is not None and whole_number("plot_loss", "steps", steps) < taken:
        raise ValueError(
            f"plot_loss: {taken} steps were taken, more than steps={steps}; give those that fit was given."
        )
    if not taken:
        raise ValueError("plot_loss: nothing was trained, as correct(data) without steps does; plot one with steps.")
    if not np.isfinite(losses).any():
        raise ValueError(f"plot_loss: none of the {taken} losses is finite, so there is nothing to draw.")
    values, name = (-losses, "ELBO") if elbo else (losses, "loss")
    ax = axes_or_new("plot_loss", ax)
    x = np.arange(1, taken + 1)
    ax.plot(x, values, color=BLUE, alpha=0.25, linewidth=0.7, label=f"{name} of a step")
    ax.plot(*smoothed(values), color=BLUE, linewidth=1.8, label="smoothed")
    if isinstance(result, FitResult | SavedFit):
        fresh = Estimate(*result.elbo)
        label = f"trained guide: {fresh.mean:.3f} ± {fresh.se:.3f}"
        ax.axhline(fresh.mean, color=VERMILION, linestyle="--", linewidth=1.2, label=label)
    if getattr(training, "validation_losses", None) is not None:
        _draw_validation(ax, training, steps)
    if end := _end(result, training, taken, steps):
        ax.axvline(taken, color=GREY, linestyle=":", linewidth=1.2, label=end)
    if limits := _limits(losses):
        ax.set_ylim(*(-v for v in limits[::-1]) if elbo else limits)
    ax.set(xlabel="step", ylabel=f"{name} (nats)" if elbo else "loss (nats per row)", xlim=(0, steps or taken))
    ax.legend(fontsize=8, frameon=False)
    return ax


def smoothed(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the means of the finite values in a window around each, a twentieth of all wide."""
    half = len(values) // (2 * BLOCKS)
    centres = np.unique(np.linspace(0, len(values) - 1, POINTS).astype(int))
    # no running sums: the rounding of the huge first losses would stay in them
    windows = [values[max(c - half, 0) : c + half + 1] for c in centres]
    finite = [window[np.isfinite(window)] for window in windows]
    return centres + 1, np.array([window.mean() if window.size else np.nan for window in finite])


def _draw_validation(ax: Axes, training: DensityFit | SavedDensity, steps: int | None) -> None:
    """After every block of steps, and after the last step."""
    held = np.asarray(training.validation_losses)
    taken = len(training.losses)
    ended = len(held) < BLOCKS and not (training.interrupted and steps)  # before the last of the steps
    block = -(-taken // len(held)) if ended else max((steps or taken) // BLOCKS, 1)
    x = np.minimum(block * np.arange(1, len(held) + 1), taken)
    ax.plot(x, held, color=VERMILION, marker="o", markersize=3, linewidth=1.2, label="held-out rows")
    best = held.argmin()
    label = f"kept: {held[best]:.3f}"
    ax.plot(x[best], held[best], "o", color="white", markeredgecolor=VERMILION, markersize=7, label=label)


def _end(result: Trained, training: Any, taken: int, steps: int | None) -> str:
    """How the training ended before its time; empty: it did not, as far as one knows."""
    if isinstance(result, FitError):
        return f"not finite since step {result.step:,}"
    of = f" of {steps:,}" if steps else ""
    if training.interrupted:
        return f"interrupted after {taken:,}{of} steps"
    return f"converged after {taken:,}{of} steps" if steps and taken < steps else ""


def _limits(losses: np.ndarray) -> tuple[float, float] | None:
    """Of the y-axis: most of the losses, and some of the way that they came down; None where all are equal."""
    finite = losses[np.isfinite(losses)]
    low, high = np.quantile(finite, [0.02, 0.8])
    width = high - low
    if width == 0:
        return None
    return float(max(finite.min(), low - width) - 0.1 * width), float(
        min(finite.max(), high + 1.5 * width) + 0.1 * width
    )
