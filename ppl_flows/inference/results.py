"""What a fit returns, and what it raises; the same in both languages."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.evidence import Evidence
from ppl_flows.inference.exact_draws import ExactDraws, exact_draws
from ppl_flows.inference.fit_groups import fit_groups
from ppl_flows.inference.fitted import Fitted, draw_in_batches
from ppl_flows.inference.kl_estimate import Estimate, ModesSeen
from ppl_flows.inference.make_prior import AskedPrior, Recipe, make_prior
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.pickling import PicklesOrSaysHow
from ppl_flows.inference.verdict import ADVICE, Judgement
from ppl_flows.inference.warn_user import warn_user

Path: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class FitResult(PicklesOrSaysHow):
    """A trained guide.

    Attributes:
        losses: negative ELBO estimate of every step taken, in nats; fewer than ``steps`` where the fit had converged.
        skipped: number of steps whose loss or gradient was not finite; they moved nothing.
        params: the trained parameters, as the language names them.
        interrupted: whether Ctrl-C ended the training; the parameters are those of the last steps.
        elbo: of the trained guide, from fresh draws, in nats.
        kl: estimate of ``KL(guide || posterior)``, in nats: log evidence by importance sampling from these draws, or
            with some hundred wider ones, if that is larger, minus the ELBO. A mode where none of them lands it does not
            see. nan where a plate is sub-sampled, whose minibatches make the weights noisy.
        khat: Pareto k-hat of these weights; above 0.7 ``reweighted`` is unreliable. No measure of the KL. nan as kl.
        ess: effective sample size of these weights, as a share of the draws, between 0 and 1; nan as for kl.
        log_evidence: of the model, in nats: ``(mean, se, method)``. Withheld, nan with the reason as its method, where
            the KL is above 0.2 or the guide misses a part of the posterior.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow, fit
        >>> pyro.clear_param_store()
        >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> result = fit(model, AutoFlow(model, pf.TriangularAffine, start="init"), steps=2, draws=100, progress=False)
        >>> len(result.losses), result.sample(3)["z"].shape
        (2, torch.Size([3]))
    """

    way_out = "result.save(path) keeps the fit in a file, and AutoFlow.load(path, model) gives it back"

    losses: np.ndarray
    skipped: int
    params: dict[str, Any]
    interrupted: bool
    elbo: Estimate
    kl: Estimate
    khat: float
    ess: float
    log_evidence: Evidence
    _missed: float  # at least so much of the posterior lies where the guide has next to no draws
    _doubt: str  # why the guide cannot be called good, whatever its KL; empty: nothing
    _modes: ModesSeen  # what looking for others has shown
    _fitted: Fitted
    _write: Callable[[FitResult, Path], None]
    _advice: str = ADVICE

    @property
    def grade(self) -> str:
        """The verdict in short: "good", "usable after reweighting", "do not trust" or "not judged"."""
        return self._judgement.grade

    @property
    def verdict(self) -> str:
        """Whether the posterior can be trusted, and what to do next, in one sentence.

        "good" below a KL of 0.05 nats, where draws wider than the guide's agree, and no other mode was found; "usable
        after reweighting" below 0.2 with an effective sample size of a tenth of the draws or more; else "do not trust".
        """
        return self._judgement.sentence

    @property
    def _judgement(self) -> Judgement:
        return Judgement(self.kl, self.ess, self._missed, self._doubt, self._modes, self._advice)

    @one_at_a_time
    def sample(
        self, num_samples: int, *, batch_size: int | None = None, deterministic: bool = True, seed: int = 1
    ) -> dict[str, Array]:
        """Posterior draws, ``{site: (num_samples, *site shape)}``, on each site's own support.

        The model's deterministic sites are among them, computed in one more run of the model; not where a plate is
        sub-sampled, or where the model draws what the guide does not, such as enumerated sites.

        Args:
            batch_size: so many draws at a time, collected as NumPy arrays, which bounds the memory. None: all at once.
            deterministic: False: latent sites alone, as a host's ``Predictive`` at other arguments wants them.

        Raises:
            TypeError, ValueError: a number of draws below 1, or a seed that is no whole number.
        """
        whole_number("sample", "num_samples", num_samples)
        seed = checked_seed("sample", seed)
        draws = draw_in_batches(self._fitted, num_samples, batch_size, seed)
        return draws if deterministic else {n: draws[n] for n in draws if n in self._fitted.latents}

    @one_at_a_time
    def reweighted(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Draws corrected by importance weights: resampled, with replacement, from four times as many of the guide's.

        The weights are Pareto-smoothed. Sites, ``num_samples`` and ``seed`` as in ``sample``.

        Raises:
            TypeError, ValueError: as in ``sample``; a plate is sub-sampled, so that no weight is known exactly.
        """
        if self.grade == "not judged":
            raise ValueError("reweighted: the likelihood is sub-sampled, so the weights are noisy; use sample.")
        whole_number("reweighted", "num_samples", num_samples)
        weighted = self._fitted.weigh(4 * num_samples, checked_seed("reweighted", seed))
        return self._fitted.complete(weighted.resample(num_samples, seed).draws)

    @one_at_a_time
    def infer_discrete(self, num_samples: int, *, seed: int = 1) -> dict[str, Array]:
        """Joint posterior draws of all latents, enumerated sites among them, ``{site: (num_samples, *site shape)}``.

        The continuous ones are those of ``sample`` for ``seed``; given each of them the enumerated sites are drawn from
        their exact conditional, and deterministic sites computed, by the language's own ``infer_discrete``.

        Raises:
            ValueError: the model has no enumerated sites, or a plate is sub-sampled.
        """
        if not self._fitted.enumerates:
            raise ValueError(
                'infer_discrete: the model has no latent that is marked infer={"enumerate": "parallel"} and that the '
                "guide leaves out; use sample."
            )
        if np.isnan(self.khat):
            raise ValueError("infer_discrete: a plate is sub-sampled, so the sites of most rows are unknown.")
        draws = self.sample(num_samples, deterministic=False, seed=seed)
        return self._fitted.complete(draws | self._fitted.draw_discrete(draws, seed))

    @one_at_a_time
    def to_arviz(
        self,
        num_samples: int = 4_000,
        *,
        reweighted: bool | None = None,
        prior: int = 500,
        posterior_predictive: bool = True,
        log_likelihood: bool = True,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str | None]] | None = None,
        seed: int = 1,
    ) -> Any:
        """The fit in ArviZ: ``InferenceData`` of 0.x, ``DataTree`` of 1.x, with the same groups and names.

        Groups ``posterior`` (one chain; deterministic sites too, and enumerated ones, drawn by ``infer_discrete``),
        ``posterior_predictive``, ``log_likelihood`` (in nats, by observed site and row), ``prior``,
        ``prior_predictive``, ``observed_data``, ``constant_data`` (the numbers among the model's arguments) and
        ``sample_stats``: ``lp``, the model's log density in nats, and ``log_q``, the guide's, of unconstrained latents.
        Axes have the names of their plates (``{plate}_dim`` where a variable has that name), and labels of pandas and
        xarray arguments whose index has the plate's name, or no name and its length; "/" becomes "."; attributes are
        the verdict and, as ``draws``, whether draws are resampled. A sub-sampled plate leaves the posterior alone;
        enumerated sites leave out ``log_likelihood``; a fit loaded without arguments has ``posterior`` and ``log_q``.

        Args:
            num_samples, prior: draws of the posterior, and of the prior; 0: none.
            reweighted: whether the former are resampled by weights; None: if the verdict is "usable after reweighting".
            coords, dims: labels, ``{dim: values}``, and names of axes, ``{site: names}``; they override those found.
            posterior_predictive, log_likelihood: whether to have these groups.
            seed: of the draws, which are others than those of ``sample``.

        Raises:
            ImportError: ArviZ is not installed.
            TypeError, ValueError: as in ``sample`` and ``reweighted``; coords do not fit.

        Warns:
            UserWarning: the verdict is "do not trust"; a group had to be left out.
        """
        whole_number("to_arviz", "num_samples", num_samples)
        if prior:
            whole_number("to_arviz", "prior", prior)
        resample = self.grade.startswith("usable") and self._fitted.has_model if reweighted is None else reweighted
        found = fit_groups(
            self._fitted,
            num_samples,
            resample=resample,
            prior=prior,
            posterior_predictive=posterior_predictive,
            log_likelihood=log_likelihood,
            seed=checked_seed("to_arviz", seed),
        )
        if self.grade == "do not trust" or (self.grade.startswith("usable") and reweighted is None and not resample):
            warn_user(f"to_arviz: the verdict on these draws is: {self.verdict}.")
        attrs = {"elbo": self.elbo.mean, "kl": self.kl.mean, "verdict": self.verdict, "seed": seed}
        attrs |= self.log_evidence.attributes()
        return found.to_arviz(coords=coords, dims=dims, attrs=attrs)

    @one_at_a_time
    def as_prior(
        self,
        sites: Sequence[str] | None = None,
        *,
        flow: Recipe | None = None,
        reweighted: bool | None = None,
        draws: int = 20_000,
        steps: int = 2_000,
        seed: int = 1,
    ) -> Any:
        """The posterior as a prior of the next model: a ``JointPrior``, which samples these sites jointly.

        Of all sites of an ``AutoFlow`` whose verdict is "good" it is the guide's own flow: nothing is fitted. Else a
        flow is fitted, by maximum likelihood, to draws resampled by their smoothed weights.

        Args:
            sites: names of continuous latents, also of a ``JointPrior``; None: all. Enumerated ones are summed over.
            flow: a recipe, as of ``AutoFlow``, for a flow to fit, whatever the verdict. None: ``pf.guide_flow``.
            reweighted: whether draws are resampled by weights; False: the guide as it is, whatever the verdict.
            draws, steps, seed: what a flow is fitted to, a tenth held out to tell when to stop; of training; of all.

        Raises:
            TypeError: ``flow`` is no recipe, ``reweighted`` no bool.
            ValueError: the verdict is "do not trust" or "not judged", and ``reweighted`` is None; a site is unknown or
                discrete; a support without a name in both languages; a fit loaded without its model's arguments.
        """
        asked = AskedPrior(sites, flow, reweighted, draws, steps, seed)
        return make_prior(self._fitted, self.grade, self.verdict, asked)

    @one_at_a_time
    def exact(
        self,
        num_samples: int,
        *,
        num_chains: int = 32,
        max_gradients: int | None = None,
        strict: bool = False,
        seed: int = 1,
    ) -> ExactDraws:
        """Draws of the posterior itself: Markov chains that start at the guide's draws and move as its flow says.

        In the base space of the flow, where the posterior is a normal distribution times a weight, they propose draws
        of the flow, and move on circles that the gradient of the log weight bends; until R-hat of all numbers and of
        the log weight is below 1.01, there are ``num_samples`` effective draws, and no weight is larger than so many
        should have; then once more, drawn towards what the guide lacks.

        Args:
            num_chains: that run side by side; a move of all costs little more than one of a single chain.
            max_gradients: of the log density, at most; where there are several modes, a fifth more. At least 276 for
                each chain. None: 200 for each draw, and no fewer than 20,000.
            strict: raise, and not warn, where something is not right.
            seed: of all moves.

        Raises:
            ExactError: with ``strict``, what is not right; its ``draws`` are what there is.
            TypeError: the guide is no ``AutoFlow``.
            ValueError: a plate is sub-sampled, a fit was loaded without its model's arguments, no draw of the guide is
                possible under the model, or a number is out of its range.

        Warns:
            UserWarning: what is not right, by the names of sites.

        Reference: Hoffman et al. (2019), NeuTra-lizing bad geometry, arXiv:1903.03704, for chains in the base space.
        """
        return exact_draws(
            self._fitted,
            num_samples,
            num_chains=num_chains,
            max_gradients=max_gradients,
            strict=strict,
            missed=self._modes.words if self._modes.missed else "",
            seed=seed,
        )

    def save(self, path: Path) -> None:
        """Writes the fit to one file: the flow, the sites, the losses and the verdict, neither the model nor its data.

        ``AutoFlow.load(path, model)``, of either language, gives the guide and the result; ``pf.load(path)`` what is in
        the file, without a language.

        Raises:
            TypeError: the guide is no ``AutoFlow``.
            ValueError: a site whose support the other language has no word for, or a class that is not registered.
            OSError: what the system refuses, such as a full disk; an old file is kept.
        """
        self._write(self, path)

    def __repr__(self) -> str:
        elbo = f"elbo={self.elbo.mean:.3f} ± {self.elbo.se:.3f} nats after {len(self.losses):,} steps"
        elbo += ", interrupted" if self.interrupted else ""
        return f"FitResult({elbo}; {self.verdict})"
