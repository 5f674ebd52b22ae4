"""A trained guide: its draws, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO

import ppl_flows
from ppl_flows.inference.fitted import WeightedDraws, check_base_space
from ppl_flows.inference.joint_prior import Priors
from ppl_flows.inference.kl_estimate import Scores
from ppl_flows.inference.model_runs import ModelRuns, guide_words, named_arguments
from ppl_flows.inference.prior_source import OwnFlow, PriorSource
from ppl_flows.pyro.base_space import GuideSpace
from ppl_flows.pyro.elbo import Choice
from ppl_flows.pyro.enumeration import enumerated_draws
from ppl_flows.pyro.flow_handlers import EvaluationMode
from ppl_flows.pyro.importance import ImportanceSampler, latent_shapes, store_at
from ppl_flows.pyro.joint_prior import LANGUAGE
from ppl_flows.pyro.model_runs import prior_draws, run_at, with_deterministic_sites
from ppl_flows.pyro.params import trained_flow
from ppl_flows.pyro.run_size import in_runs


@dataclass(frozen=True)
class FittedGuide:
    """A guide of a model at the parameters of a training, whatever becomes of it later.

    Attributes:
        model, guide: with their arguments.
        params: trained, as Pyro's store names them.
        state: of Pyro's store, with the guide's and the model's parameters in it.
        nesting: of the model's plates, without that of particles.
        vectorized: whether the model runs for many particles at once.
        num_particles: of these.
        subsampled: whether a plate draws a minibatch.
        enumerates: whether sites are summed over.
        supports: of the model's latent sites.
        priors: as of ``Choice``.
        seed: of the deterministic sites and of scores.
    """

    model: partial[Any]
    guide: partial[Any]
    params: dict[str, torch.Tensor]
    state: Any
    nesting: int
    vectorized: bool
    num_particles: int
    subsampled: bool
    enumerates: bool
    supports: dict[str, Any]
    priors: Priors
    seed: int

    @property
    def together(self) -> bool:
        """Whether draws are weighted many at once."""
        # a vectorised model draws one minibatch for all its particles: where there is one, particles go one by one
        return self.vectorized and not self.subsampled and not self.enumerates

    def draw(self, num_samples: int, seed: int) -> dict[str, torch.Tensor]:
        """Draws of the guide, and deterministic sites."""
        all_rows = getattr(self.guide.func, "all_rows", nullcontext)
        with self._trained_at(seed), all_rows():
            latents = latent_shapes(self.guide)

            def run(start: int, stop: int) -> dict[str, torch.Tensor]:
                predict = Predictive(
                    self.guide, num_samples=stop - start, return_sites=[*latents], parallel=self.vectorized
                )
                return predict()

            blocks = in_runs(run, num_samples, self.num_particles) if self.vectorized else [run(0, num_samples)]
            draws = {name: torch.cat([block[name] for block in blocks]) for name in latents}
            return self.complete({n: draws[n].reshape(num_samples, *shape) for n, shape in latents.items()})

    def complete(self, draws: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The draws, and the model's deterministic sites."""
        if self.subsampled:
            return draws
        with self._trained_at(self.seed), EvaluationMode():
            return with_deterministic_sites(self.model, draws, self.nesting if self.together else None)

    def weigh(self, num_samples: int, seed: int) -> WeightedDraws:
        """Draws of the guide, scored."""
        return self._scored(num_samples, seed)

    def score(self, vectors: np.ndarray) -> Scores:
        """Of what the guide makes of unconstrained vectors.

        Raises:
            NotImplementedError: the guide has a layer without an inverse.
        """
        return self.place(vectors).scores

    def place(self, vectors: np.ndarray) -> WeightedDraws:
        """What the guide makes of unconstrained vectors, scored; errors as of ``score``."""
        try:
            return self._scored(len(vectors), self.seed, vectors)
        except KeyError as error:  # by which Pyro's layers without an inverse say so
            raise NotImplementedError from error

    @contextmanager
    def base_space(self) -> Iterator[GuideSpace]:
        """The posterior in the base space of the guide's flow.

        Raises:
            TypeError: the guide is no ``AutoFlow``.
            ValueError: a plate is sub-sampled.
        """
        guide: Any = self.guide.func
        check_base_space(guide, hasattr(guide, "latent_sites"), self.subsampled)
        with self.evaluated():
            yield GuideSpace(self)

    @contextmanager
    def evaluated(self) -> Iterator[None]:
        """Pyro's store at the trained parameters, flows in evaluation mode, and random numbers that leave no trace."""
        with self._trained_at(self.seed), EvaluationMode():
            yield

    def run_model(
        self, draws: dict[str, torch.Tensor], seed: int, *, predictive: bool, log_likelihood: bool
    ) -> ModelRuns:
        """Of the model at draws of all its latents."""
        nesting = self.nesting if self.together else None
        with self._trained_at(seed, "predictions"), EvaluationMode():
            return run_at(self.model, draws, nesting, predictive=predictive, log_likelihood=log_likelihood)

    def draw_prior(self, num_samples: int, seed: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Draws of the model itself: latents and deterministic sites, and observed sites."""
        with self._trained_at(seed, "prior"), EvaluationMode():
            return prior_draws(self.model, num_samples, parallel=self.together)

    @property
    def latents(self) -> Collection[str]:
        return self.supports.keys()

    @property
    def has_model(self) -> bool:
        return True

    def draw_with_log_q(self, num_samples: int, seed: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        """Draws of the guide, and its log density as of their vectors."""
        weighted = self.weigh(num_samples, seed)
        return weighted.draws, weighted.scores.log_q

    @property
    def words(self) -> dict[str, str]:
        """What guide it is, and versions."""
        return guide_words(self.guide.func, {"ppl_flows": ppl_flows, "pyro-ppl": pyro, "torch": torch})

    @property
    def arguments(self) -> dict[str, Any]:
        """Of the model, by name."""
        return named_arguments(self.model.func, self.model.args, self.model.keywords)

    @property
    def prior_source(self) -> PriorSource:
        """What a ``JointPrior`` can be made of."""
        guide: Any = self.guide.func
        own = None
        if hasattr(guide, "latent_sites") and not guide.informed and guide.num_modes == 1:
            sites = [site.name for site in guide.latent_sites()]
            own = OwnFlow(sites, guide.bijection, trained_flow(guide, self.params)[0])
        return PriorSource(self.supports, self.priors, own, LANGUAGE)

    def draw_discrete(self, draws: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
        """Enumerated sites, given draws of the guide."""
        with self._trained_at(seed, "enumerated sites"), EvaluationMode():
            return enumerated_draws(self.model, draws, self.nesting, self.num_particles if self.vectorized else 1)

    def _scored(self, num_samples: int, seed: int, vectors: np.ndarray | None = None) -> WeightedDraws:
        marginal = TraceEnum_ELBO(max_plate_nesting=self.nesting) if self.enumerates else None
        nesting = self.nesting if self.together else None
        sampler = ImportanceSampler(self.model, self.guide, self.num_particles, nesting, marginal, self.supports)
        # a scale may be 0 or infinite, far outside or where a guide is bad: such draws are impossible, and no error
        with self._trained_at(seed), EvaluationMode(), pyro.validation_enabled(False):
            return sampler(num_samples, vectors)

    @contextmanager
    def _trained_at(self, seed: int, of: str = "") -> Iterator[None]:
        """Random numbers of the guide's draws, or of something else, which must not follow them."""
        with store_at(self.params, self.state), torch.random.fork_rng(), torch.no_grad(), poutine.block():
            own = np.random.SeedSequence([seed, *of.encode()]).generate_state(1)[0]
            torch.manual_seed(int(own) if of else seed)
            yield


def fitted_guide(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    params: dict[str, torch.Tensor],
    choice: Choice,
    *,
    vectorized: bool,
    num_particles: int,
    seed: int,
) -> FittedGuide:
    """A guide at these parameters, with Pyro's store as it is now, and what was found out when its ELBO was chosen."""
    elbo, subsampled, supports, priors = choice
    return FittedGuide(
        model=partial(model),
        guide=partial(guide),
        params=params,
        state=pyro.get_param_store().get_state(),
        nesting=int(elbo.max_plate_nesting) - vectorized,
        vectorized=vectorized,
        num_particles=num_particles,
        subsampled=subsampled,
        enumerates=isinstance(elbo, TraceEnum_ELBO),
        supports=supports,
        priors=priors,
        seed=seed,
    )
