"""What ``fit_density`` and ``fit_amortized`` return; the same in both languages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.corrected import Correction
from ppl_flows.inference.fit_groups import FitGroups, plate_sizes
from ppl_flows.inference.inference_data import constants, labels
from ppl_flows.inference.model_runs import ModelData
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.pickling import PicklesOrSaysHow
from ppl_flows.inference.results import FitResult, Path

FOREIGN = (
    "save: this density has an encoder, or a base, that is not ppl_flows' own; keep the flow by "
    "pf.save(path, density.bijection, density.params), and the encoder by the means of its library."
)


@dataclass(frozen=True)
class DensityFit(PicklesOrSaysHow):
    """A density model trained by maximum likelihood.

    Attributes:
        losses: negative mean log-likelihood of every step's batch, ``(steps,)``, in nats per row.
        skipped: number of steps whose loss or gradient was not finite; they moved nothing.
        bijection: what was fitted: the given bijection and, on the data side, the scaling of the columns.
        params: its trained parameters; ``pf.save(path, fit.bijection, fit.params)`` keeps both.
        flow: the distribution they make, of the language, with parameters that no longer train; ``flow.condition(c)``
            where there was a context, c as the bijection takes it: ``encoder(rows)`` where there is an encoder.
        base, base_params: the base that was fitted with it, and its trained parameters; None and None if it was no
            ppl_flows Base. ``pf.save`` keeps them in a file of their own.
        encoder: from the rows of ``context`` to the flow's context, as trained; None if none was given.
        validation_losses: negative mean log-likelihood of the held-out rows after every twentieth of the steps, in nats
            per row; the parameters are those of the smallest. None if no rows were held out.
        interrupted: whether Ctrl-C ended the training; the parameters are those of the last steps.

    Example:
        >>> import torch, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_density
        >>> fit = fit_density(pf.maf(2), torch.randn(100, 2), steps=2, progress=False)
        >>> fit.losses.shape, fit.flow.log_prob(torch.zeros(2)).shape
        ((2,), torch.Size([]))
    """

    way_out = "fit.save(path) keeps it in a file, and load_density(path) gives it back"

    losses: np.ndarray
    skipped: int
    bijection: Bijection
    params: Params
    flow: Any
    base: Base | None = None
    base_params: Params | None = None
    encoder: Callable[[Any], Array] | None = None
    validation_losses: np.ndarray | None = None
    interrupted: bool = False
    _draw: Callable[[Any, int, int], Array] | None = None
    _write: Callable[[DensityFit, Path], None] | None = None

    @one_at_a_time
    def to_arviz(
        self,
        num_samples: int = 4_000,
        *,
        context: Any = None,
        name: str = "x",
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str | None]] | None = None,
        seed: int = 1,
    ) -> Any:
        """Draws of the density, as ``posterior``: ``InferenceData`` on ArviZ 0.x, ``DataTree`` on 1.x.

        Args:
            num_samples: draws.
            context: for a conditional density, what ``flow.condition`` takes: the draws are those given it.
            name: of the variable.
            coords, dims: as of ``FitResult.to_arviz``.
            seed: of the draws.

        Raises:
            ImportError: ArviZ is not installed.
            ValueError: the context is missing or has the wrong size; as in ``FitResult.to_arviz``.
        """
        whole_number("to_arviz", "num_samples", num_samples)
        flow = self.flow if context is None else self.flow.condition(context)
        draws = cast(Any, self._draw)(flow, num_samples, checked_seed("to_arviz", seed))
        found = FitGroups({"posterior": {name: draws}}, {}, {}, {"guide": str(self.bijection), "seed": seed})
        return found.to_arviz(coords=coords, dims=dims, attrs={})

    def save(self, path: Path) -> None:
        """Writes the fit to one file, which ``load_density(path)`` of either language, and ``pf.load``, read.

        Raises:
            TypeError: an encoder, which is a network of your own, or a base that is no ppl_flows Base.
            ValueError: it holds a class that is not registered.
            OSError: what the system refuses, such as a full disk; an old file is kept.
        """
        if self.encoder is not None or self._write is None:
            raise TypeError(FOREIGN)
        self._write(self, path)

    def __repr__(self) -> str:
        loss = f"loss={self.losses[-len(self.losses) // 10 :].mean():.3f}"
        if self.validation_losses is not None:
            loss += f", validation loss={self.validation_losses.min():.3f}"
        return f"DensityFit({self.bijection}, {loss} nats per row)"


@dataclass(frozen=True)
class AmortizedFit(PicklesOrSaysHow):
    """A posterior for every data set of a model.

    Attributes:
        density: the conditional flow over the unconstrained latents, and its training: ``losses`` and
            ``validation_losses`` are in nats per data set.
        observed: the data that the rounds were aimed at, ``{site: (1, *site shape)}``; None: it is for all data.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_amortized
        >>> model = lambda y: pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> fit = fit_amortized(model, torch.tensor(0.0), flow=pf.Elementwise, simulations=100, steps=2, progress=False)
        >>> fit.sample(3, torch.tensor(1.0))["z"].shape
        torch.Size([3])
    """

    way_out = "fit.save(path) keeps it in a file, and load_amortized(path, model) gives it back"

    density: DensityFit
    _draw: Callable[[int, int, tuple[Any, ...], dict[str, Any]], dict[str, Array]]
    _see: Callable[[tuple[Any, ...], dict[str, Any]], ModelData] | None = None
    _write: Callable[[AmortizedFit, Path], None] | None = None
    _correct: Callable[[AmortizedFit, tuple[Any, ...], dict[str, Any], Correction], FitResult] | None = None
    observed: dict[str, np.ndarray] | None = None

    def save(self, path: Path) -> None:
        """Writes the fit to one file, which ``load_amortized(path, model)`` of either language, and ``pf.load``, read.

        Raises: as ``DensityFit.save``, and ValueError for a site whose support has no neutral words.
        """
        if self.density.encoder is not None or self._write is None:
            raise TypeError(FOREIGN)
        self._write(self, path)

    @one_at_a_time
    def sample(self, num_samples: int, *args: Any, seed: int = 1, **kwargs: Any) -> dict[str, Array]:
        """Posterior draws by ``seed`` given data in the model's arguments, ``{site: (num_samples, *site shape)}``.

        Raises:
            ValueError: data that are missing, not finite, masked, or of another shape than those of training; only the
                rows of a ``SetEncoder`` may be others in number.

        Warns:
            UserWarning: the fit was trained in rounds, for other data; or on sets of fewer rows.
        """
        whole_number("sample", "num_samples", num_samples)
        return self._draw(num_samples, checked_seed("sample", seed), args, kwargs)

    @one_at_a_time
    def correct(
        self,
        *args: Any,
        steps: int = 0,
        num_particles: int = 64,
        lr: float = 2e-3,
        draws: int = 10_000,
        check_modes: bool = True,
        seed: int = 0,
        progress: bool = True,
        **kwargs: Any,
    ) -> FitResult:
        """The posterior of the data in the model's arguments, judged and corrected by the model's own likelihood.

        The flow at these data becomes the guide of an ordinary fit. Without a step nothing is trained: the verdict is
        on the amortised posterior as it is, ``reweighted`` draws are corrected by importance weights, and ``exact``
        ones by Markov chains. With steps a copy of the flow is trained for these data first; this object stays as it
        is.

        Args:
            *args, **kwargs: of the model, with the data.
            steps: of ``fit``, which may end before; some hundred are usual. 0: none.
            num_particles, lr, draws, check_modes, seed, progress: as in ``fit``.

        Returns:
            A ``FitResult``: verdict, k-hat, log evidence in nats, ``sample``, ``reweighted``, ``exact``, ``to_arviz``.

        Raises:
            ValueError: as of ``sample``; the data have no density under the model, which only simulates; other latents
                than the fit's; as of ``fit``.
            TypeError: an option of another kind.

        Example:
            >>> import pyro, torch, pyro.distributions as dist, ppl_flows as pf
            >>> from ppl_flows.pyro import fit_amortized
            >>> model = lambda y: pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
            >>> y, small = torch.tensor(1.0), {"simulations": 100, "steps": 2, "progress": False}
            >>> result = fit_amortized(model, y, flow=pf.Elementwise, **small).correct(y, draws=100, progress=False)
            >>> result.reweighted(3)["z"].shape
            torch.Size([3])
        """
        wish = Correction(steps, num_particles, lr, draws, check_modes, seed, progress)
        wish.check()
        return cast(FitResult, cast(Any, self._correct)(self, args, kwargs, wish))

    @one_at_a_time
    def to_arviz(
        self,
        num_samples: int,
        *args: Any,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str | None]] | None = None,
        seed: int = 1,
        **kwargs: Any,
    ) -> Any:
        """Posterior draws given the data in the model's arguments, and these: groups ``posterior``, ``observed_data``,
        ``constant_data``; other arguments and errors as of ``FitResult.to_arviz``."""
        draws = self.sample(num_samples, *args, seed=seed, **kwargs)
        seen = cast(Any, self._see)(args, kwargs)
        groups = {
            "posterior": draws,
            "observed_data": seen.observed,
            "constant_data": constants(seen.arguments, seen.observed),
        }
        found = labels(seen.arguments, plate_sizes(draws, seen.dims))
        attrs = {"guide": f"amortised: {self.density.bijection}", "seed": seed}
        return FitGroups(groups, seen.dims, found, attrs).to_arviz(coords=coords, dims=dims, attrs={})

    def __repr__(self) -> str:
        loss = f"loss={self.density.losses[-len(self.density.losses) // 10 :].mean():.3f}"
        if self.density.validation_losses is not None:
            loss += f", validation loss={self.density.validation_losses.min():.3f}"
        near = "" if self.observed is None else ", for the data of its rounds"
        return f"AmortizedFit({self.density.bijection}, {loss} nats per data set{near})"
