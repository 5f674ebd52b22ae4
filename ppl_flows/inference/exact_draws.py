"""What ``result.exact`` returns, and what it raises; the same in both languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.core.types import Array
from ppl_flows.inference.evidence import Evidence
from ppl_flows.inference.exact import LEAST, run_until_exact
from ppl_flows.inference.fit_groups import groups_of_draws
from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.one_at_a_time import one_at_a_time
from ppl_flows.inference.pickling import PicklesOrSaysHow
from ppl_flows.inference.warn_user import warn_user

GRADIENTS_A_DRAW = 200  # that may be spent for each effective draw
FEWEST_GRADIENTS = 20_000


@dataclass(frozen=True)
class ExactDraws(PicklesOrSaysHow):
    """Draws of the posterior itself, of Markov chains that a trained flow drives.

    Attributes:
        samples: ``{site: (draws, *site shape)}``, on each site's own support, one chain after the other; deterministic
            sites too.
        chains: number of chains, of equally many draws.
        ess: smallest effective sample size, of all numbers of the latent vector and of the log weight.
        rhat: largest R-hat of the same.
        acceptance: mean probability that a move was accepted.
        gradients: of the log density that were computed, warm-up and checks included.
        log_evidence: of the model, in nats, by bridge sampling between these draws and the guide's; withheld, nan with
            the reason as its method, where there are ``alarms``.
        alarms: why these draws may not be the posterior's, in sentences; empty where nothing was found.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow, fit
        >>> pyro.clear_param_store()
        >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> guide = AutoFlow(model, pf.TriangularAffine, start="laplace")
        >>> draws = fit(model, guide, steps=2, draws=100, progress=False).exact(100, num_chains=4)
        >>> draws.chains, draws.samples["z"].ndim
        (4, 1)
    """

    way_out = "pickle .samples, which are arrays"

    samples: dict[str, Array]
    chains: int
    ess: float
    rhat: float
    acceptance: float
    gradients: int
    log_evidence: Evidence
    alarms: tuple[str, ...]
    _latents: dict[str, Array]
    _sample_stats: dict[str, np.ndarray]
    _fitted: Fitted

    @one_at_a_time
    def to_arviz(
        self,
        *,
        prior: int = 500,
        posterior_predictive: bool = True,
        log_likelihood: bool = True,
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str | None]] | None = None,
        seed: int = 1,
    ) -> Any:
        """The draws in ArviZ, by chain: ``InferenceData`` of 0.x, ``DataTree`` of 1.x.

        Groups are those of ``FitResult.to_arviz``; ``sample_stats`` has ``lp``, the model's log density,
        ``log_weight``, that minus the guide's, both as of the unconstrained latents, in nats, and ``acceptance_rate``.

        Args:
            prior, posterior_predictive, log_likelihood, coords, dims, seed: as of ``FitResult.to_arviz``.

        Raises:
            ImportError: ArviZ is not installed.
            ValueError: coords or dims do not fit.
        """
        found = groups_of_draws(
            self._fitted,
            self._latents,
            dict(self._sample_stats),
            attrs={"draws": "of the posterior, by Markov chains in the base space of the guide"},
            prior=prior,
            posterior_predictive=posterior_predictive,
            log_likelihood=log_likelihood,
            seed=checked_seed("to_arviz", seed),
        )
        attrs = {**self.log_evidence.attributes(), "alarms": "; ".join(self.alarms), "gradients": self.gradients}
        return found.to_arviz(coords=coords, dims=dims, attrs=attrs, chains=self.chains)

    def __repr__(self) -> str:
        draws = self._sample_stats["lp"].size
        words = f"{draws:,} draws of {self.chains} chains, effective sample size {self.ess:,.0f}, R-hat {self.rhat:.3f}"
        words += f", {self.gradients:,} gradients"
        return f"ExactDraws({words}{'; ' if self.alarms else ''}{'; '.join(self.alarms)})"


class ExactError(RuntimeError):
    """``exact(strict=True)``: the draws may not be those of the posterior.

    Attributes:
        draws: what there is of them, an ``ExactDraws``.

    Example:
        >>> from types import SimpleNamespace
        >>> from ppl_flows.pyro import ExactError
        >>> ExactError(SimpleNamespace(alarms=["R-hat of tau is 1.2"])).draws.alarms  # as ``exact`` raises it
        ['R-hat of tau is 1.2']
    """

    def __init__(self, draws: ExactDraws) -> None:
        super().__init__(f"exact: {'; '.join(draws.alarms)}; {WAY_OUT}.")
        self.draws = draws

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.draws,)


WAY_OUT = (
    "give it more max_gradients, or train a better guide (modes='auto' where a mode is missed, quality='thorough', "
    "another form of the model)"
)


def exact_draws(
    fitted: Fitted,
    num_samples: int,
    *,
    num_chains: int,
    max_gradients: int | None,
    strict: bool,
    missed: str,
    seed: int,
) -> ExactDraws:
    """``FitResult.exact``, of a trained guide.

    Args:
        missed: what the guide is known to lack; empty: nothing.
    """
    whole_number("exact", "num_samples", num_samples)
    whole_number("exact", "num_chains", num_chains, 2)
    least = LEAST * num_chains
    if max_gradients is None:
        max_gradients = max(FEWEST_GRADIENTS, GRADIENTS_A_DRAW * num_samples, least)
    whole_number("exact", "max_gradients", max_gradients)
    if max_gradients < least:
        raise ValueError(
            f"exact: max_gradients must be at least {least:,} for {num_chains} chains, which is what their starts, the "
            f"fewest moves and the last look take, got {max_gradients:,}; take fewer chains, or leave it out."
        )
    with fitted.base_space() as space:
        run = run_until_exact(
            space,
            num_samples,
            num_chains=num_chains,
            max_gradients=max_gradients,
            missed=missed,
            seed=checked_seed("exact", seed),
        )
    weighted = fitted.place(run.latents.reshape(-1, run.latents.shape[-1]))
    draws = ExactDraws(
        fitted.complete(weighted.draws),
        num_chains,
        run.checked.ess,
        run.checked.rhat,
        float(run.kept.acceptance.mean()),
        run.gradients,
        run.evidence,
        run.alarms,
        weighted.draws,
        {
            "lp": weighted.scores.log_p,
            "log_weight": run.kept.log_weights.ravel(),
            "acceptance_rate": run.kept.acceptance.ravel(),
        },
        fitted,
    )
    if draws.alarms and strict:
        raise ExactError(draws)
    if draws.alarms:
        warn_user(f"exact: {'; '.join(draws.alarms)}; {WAY_OUT}.")
    return draws
