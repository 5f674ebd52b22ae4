"""Results of fits and what files hold of them, as far as both languages share it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import flatten
from ppl_flows.core.types import Array, Params
from ppl_flows.inference import corrected
from ppl_flows.inference.auto_flow import with_map, without_map
from ppl_flows.inference.fitted import Fitted, WeightedDraws
from ppl_flows.inference.flow_chains import BaseSpace
from ppl_flows.inference.kl_estimate import Estimate, Scores
from ppl_flows.inference.model_map import LatentSite, ModelMap, Step, place_sites
from ppl_flows.inference.model_runs import ModelRuns
from ppl_flows.inference.prior_source import PriorSource
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_fits import MAP, SavedFit
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.inference.verdict import ADVICE
from ppl_flows.safe_files import nest

NEEDS_MODEL = (
    "the guide is informed: it draws by runs of its model, and was loaded without the model's arguments; "
    "AutoFlow.load(path, model, *args, **kwargs) draws."
)
PASS_THEM = "the fit was loaded without the model's arguments; AutoFlow.load(path, model, *args, **kwargs) with them"


def refuse_guide(guide: Any, way: str) -> None:
    """Raises TypeError for a guide that has no file; ``way`` is the language's own."""
    kind = getattr(type(guide), "__name__", "function")
    raise TypeError(
        f"save: only fits of an AutoFlow have a file that either language loads, got the guide {kind}; keep its "
        f"parameters the language's own way, {way}, or the whole result by pickle."
    )


def saved_fit(
    result: FitResult,
    guide: Any,
    *,
    params: Params,
    log_weights: np.ndarray | None,
    model_params: dict[tuple[str, ...], np.ndarray],
    sites: list[SavedSite],
    prefix: str | None,
    num_particles: int,
    seed: int,
    vectorized: bool,
    language: str,
    versions: dict[str, str],
) -> SavedFit:
    """What a file has of the result of an ``AutoFlow``."""
    near, bijection = guide.near_posterior, guide.bijection
    of_map = dict(flatten(params["informed"])) if guide.informed else {}
    return SavedFit(
        bijection=without_map(bijection) if guide.informed else bijection,
        params={name: part for name, part in params.items() if name != "informed"},
        log_weights=log_weights,
        placed=guide.informed,
        map_params={name: array for name, array in of_map.items() if name in MAP},
        gaussian=near,
        sites=tuple(sites),
        model_params=tuple(model_params.items()),
        losses=result.losses,
        skipped=int(result.skipped),
        interrupted=bool(result.interrupted),
        elbo=(float(result.elbo.mean), float(result.elbo.se)),
        kl=(float(result.kl.mean), float(result.kl.se)),
        khat=float(result.khat),
        ess=float(result.ess),
        log_evidence=result.log_evidence,
        missed=float(result._missed),
        doubt=result._doubt,
        modes=result._modes,
        verdict=result.verdict,
        start=guide.start,
        quality=guide.quality,
        seed=int(seed),
        prefix=prefix,
        num_particles=int(num_particles),
        vectorized=bool(vectorized),
        language=language,
        versions=versions,
    )


def loaded_result(
    saved: SavedFit, params: dict[str, Any], fitted: Fitted, write: Callable[[FitResult, Path], None]
) -> FitResult:
    """The result that was saved."""
    return FitResult(
        saved.losses,
        saved.skipped,
        params,
        saved.interrupted,
        Estimate(*saved.elbo),
        Estimate(*saved.kl),
        saved.khat,
        saved.ess,
        saved.log_evidence,
        saved.missed,
        saved.doubt,
        saved.modes,
        fitted,
        write,
        corrected.ADVICE if saved.start == corrected.START else ADVICE,
    )


def whole_flow(saved: SavedFit, informed: ModelMap | None = None) -> tuple[Bijection, Params]:
    """From a standard normal to the latent vector, and its parameters.

    Args:
        informed: the map of the model, where the fit has one; None: one that says that it needs the model to run.
    """
    if not saved.placed:
        return saved.bijection, saved.params
    if informed is None:
        sites = [LatentSite(s.name, s.numbers, 0, None) for s in saved.sites]
        informed = place_sites(sites, {*saved.placed}, NoModel()).with_block_at(saved.map_params.get("state.block", ()))
    return with_map(saved.bijection, informed), {**saved.params, "informed": nest(saved.map_params)}


class NoModel:
    """A ``ModelWalk`` without a model.

    Raises:
        ValueError: it should run.
    """

    def __call__(self, sites: tuple[LatentSite, ...], step: Step, x: Array, params: Params, *, forward: bool) -> Any:
        raise ValueError(NEEDS_MODEL)

    def curvature(self, sites: tuple[LatentSite, ...], block: tuple[str, ...], u: Array, params: Params) -> Any:
        raise ValueError(NEEDS_MODEL)

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoModel:
        return self


def loaded_guide(
    saved: SavedFit,
    draw_sites: Callable[[SavedFit, int, int], tuple[dict[str, Array], np.ndarray]],
    start: Callable[[], Fitted] | None,
) -> LoadedGuide:
    """Of a file, with what a language draws from it, and makes of it with the model's arguments."""
    subsampled = bool(np.isnan(saved.kl[0]))
    latents = [site.name for site in saved.sites]
    return LoadedGuide(subsampled, partial(draw_sites, saved), _words(saved), latents, start, bool(saved.placed))


def _words(saved: SavedFit) -> dict[str, str]:
    """What a loaded guide says of itself, as ``Fitted.words``."""
    return {"guide": f"AutoFlow of {saved.bijection}", **{f"{k}_version": v for k, v in saved.versions.items()}}


def has_arguments(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a model has what it needs to run: arguments, or no need of any but those with a default, None apart."""
    if args or kwargs:
        return True
    try:
        parameters = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):  # of builtins, and objects that hide it
        return False
    return all(
        p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or (p.default is not p.empty and p.default is not None)
        for p in parameters
    )


@dataclass
class LoadedGuide:
    """A ``Fitted`` of a file: it draws by itself, and with the model's arguments it does all else.

    Attributes:
        subsampled: whether a plate drew a minibatch.
        draw_sites: ``(num_samples, seed)``: of the sites in the file, and their log q.
        words, latents: as of ``Fitted``.
        start: makes it a guide of the model and its arguments; None without these.
        informed: whether its map is of the model, so that it draws by no other way.
    """

    subsampled: bool
    draw_sites: Callable[[int, int], tuple[dict[str, Array], np.ndarray]]
    words: dict[str, str]
    latents: Collection[str]
    start: Callable[[], Fitted] | None
    informed: bool
    _started: Fitted | None = field(default=None, repr=False)

    @property
    def enumerates(self) -> bool:
        return self.with_model("infers discrete sites").enumerates

    def draw(self, num_samples: int, seed: int) -> dict[str, Array]:
        if self.informed or self.has_model:
            return self.with_model("draws").draw(num_samples, seed)
        return self.draw_sites(num_samples, seed)[0]

    @property
    def has_model(self) -> bool:
        return self.start is not None

    def draw_with_log_q(self, num_samples: int, seed: int) -> tuple[dict[str, Array], np.ndarray]:
        if self.informed or self.has_model:
            return self.with_model("draws").draw_with_log_q(num_samples, seed)
        return self.draw_sites(num_samples, seed)

    def complete(self, draws: dict[str, Array]) -> dict[str, Array]:
        return self.with_model("computes deterministic sites").complete(draws)

    def weigh(self, num_samples: int, seed: int) -> WeightedDraws:
        return self.with_model("weighs draws").weigh(num_samples, seed)

    def score(self, vectors: np.ndarray) -> Scores:
        return self.with_model("scores").score(vectors)

    def place(self, vectors: np.ndarray) -> WeightedDraws:
        return self.with_model("weighs vectors").place(vectors)

    def base_space(self) -> AbstractContextManager[BaseSpace]:
        return self.with_model("makes exact draws").base_space()

    @property
    def arguments(self) -> dict[str, Any]:
        return self.with_model("has them").arguments

    def run_model(self, draws: dict[str, Array], seed: int, *, predictive: bool, log_likelihood: bool) -> ModelRuns:
        started = self.with_model("runs the model")
        return started.run_model(draws, seed, predictive=predictive, log_likelihood=log_likelihood)

    def draw_prior(self, num_samples: int, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
        return self.with_model("draws from the prior").draw_prior(num_samples, seed)

    @property
    def prior_source(self) -> PriorSource:
        return self.with_model("makes a prior").prior_source

    def draw_discrete(self, draws: dict[str, Array], seed: int) -> dict[str, Array]:
        return self.with_model("infers discrete sites").draw_discrete(draws, seed)

    def with_model(self, what: str) -> Fitted:
        if self.start is None:
            raise ValueError(NEEDS_MODEL if self.informed else f"{PASS_THEM} {what}.")
        if self._started is None:
            self._started = self.start()
        return self._started
