"""``FitResult.as_prior``: a flow over sites of a posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppl_flows.bijections import TriangularAffine
from ppl_flows.combinators.chain import Chain
from ppl_flows.combinators.frozen import Frozen
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed, whole_number
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Array, Params
from ppl_flows.inference.arrays import to_numpy
from ppl_flows.inference.fitted import Fitted
from ppl_flows.inference.gaussian import gaussian_of_draws
from ppl_flows.inference.prior_source import PriorLanguage, PriorSource
from ppl_flows.inference.saved_priors import SavedPrior
from ppl_flows.recipes import guide_flow

Recipe = Callable[[int], Bijection]
WEIGHTED = 2  # draws that are weighted, for each that is kept
HELD_OUT = 0.1  # share of these that say when to stop


class AskedPrior(NamedTuple):
    """The arguments of ``FitResult.as_prior``."""

    sites: Sequence[str] | None
    flow: Recipe | None
    reweighted: bool | None
    draws: int
    steps: int
    seed: int


def make_prior(fitted: Fitted, grade: str, verdict: str, asked: AskedPrior) -> Any:
    """The language's ``JointPrior``; errors as of ``FitResult.as_prior``."""
    sites, flow, reweighted, draws, steps, seed = asked
    whole_number("as_prior", "draws", draws, 100)
    whole_number("as_prior", "steps", steps)
    checked_seed("as_prior", seed)
    reweighted = checked_choice_of_draws(reweighted)
    check_grade(grade, verdict, reweighted)
    source = fitted.prior_source
    names = check_names(source, sites)
    own = source.own_flow
    exact = reweighted is False or (reweighted is None and grade == "good")
    if flow is None and own is not None and exact and set(names) == set(source.latents):
        found = sites_of(source, own.latents, fitted.draw(2, seed))
        bijection, params, names, draws = own.bijection, own.params, [*found], 0
    else:
        latents = list(dict.fromkeys(source.latents[name] for name in names))
        kept = fitted.draw(draws, seed) if reweighted is False else resampled(fitted, draws, seed)
        found = sites_of(source, latents, kept)
        vectors = np.concatenate([found[name][1] for name in names], axis=1, dtype=np.float64)
        bijection, params = fit_flow(source.language, flow, vectors, steps, seed)
    return source.language.prior(
        SavedPrior(
            bijection=bijection,
            params=params,
            sites=tuple(found[name][0] for name in names),
            verdict=verdict,
            draws=draws,
            language=source.language.supports.language,
            versions=source.language.versions,
        )
    )


def checked_choice_of_draws(reweighted: Any) -> bool | None:
    """It as a bool, or None; TypeError where it is neither."""
    if not isinstance(reweighted, bool | np.bool_ | None):
        raise TypeError(f"as_prior: reweighted must be True, False or None, got {reweighted!r}.")
    return None if reweighted is None else bool(reweighted)


def check_grade(grade: str, verdict: str, reweighted: bool | None) -> None:
    """Raises ValueError where draws are not to be trusted, unless told which to take."""
    if grade == "not judged" and reweighted is not False:
        raise ValueError(
            f"as_prior: the fit is {verdict}. as_prior(reweighted=False) takes the guide as it is, without any check "
            "that it is near the posterior; a fit at full size has one."
        )
    if grade == "do not trust" and reweighted is None:
        raise ValueError(
            f"as_prior: the verdict on the fit is: {verdict}. The next posterior would have its error, too. "
            "as_prior(reweighted=False) takes the guide as it is, as_prior(reweighted=True) its weights as they are."
        )


def check_names(source: PriorSource, sites: Sequence[str] | None) -> list[str]:
    """The sites of the prior; all continuous ones for None."""
    known = source.latents
    if isinstance(sites, str):
        raise TypeError(f"as_prior: sites is a list of names, got a string; as_prior([{sites!r}]).")
    names = [*known] if sites is None else [*sites]
    if discrete := [name for name in names if name in source.discrete]:
        raise ValueError(
            f"as_prior: {', '.join(map(repr, discrete))} is discrete, and a flow has a density; leave it out: the "
            f"prior of the others is their posterior, with it summed over. The continuous latents are {[*known]}."
        )
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"as_prior: the model has no latent {', '.join(map(repr, unknown))}; it has {[*known]}. A deterministic "
            "site has no support of its own: ask for the latents that it is made of, and compute it in the next model."
        )
    if not names or len(set(names)) < len(names):
        raise ValueError(f"as_prior: sites must be at least one name, and each but once, got {names}.")
    return names


def sites_of(source: PriorSource, latents: Sequence[str], draws: dict[str, Array]) -> dict[str, Any]:
    """By name, in their order: the sites that these latents are made of, and their unconstrained numbers."""
    return {site.name: (site, rows) for latent in latents for site, rows in source.sites_of(latent, draws[latent])}


def resampled(fitted: Fitted, num_samples: int, seed: int) -> dict[str, Array]:
    """Draws by their smoothed weights, each as often as its weight says, up to one: few of them twice."""
    weighted = fitted.weigh(WEIGHTED * num_samples, seed)
    shares = np.cumsum(weighted.shares())
    places = (np.arange(num_samples) + np.random.default_rng(seed).random()) / num_samples
    rows = np.minimum(np.searchsorted(shares, places), len(shares) - 1)
    return {name: value[rows] for name, value in weighted.draws.items()}


def flow_of(recipe: Recipe, dim: int) -> Bijection:
    """The recipe's flow; TypeError where it gives none, ValueError where it gives one of another size."""
    flow = recipe(dim) if callable(recipe) else recipe
    if not callable(recipe) or not isinstance(flow, Bijection):
        raise TypeError(
            f"as_prior: flow must be a callable dim -> Bijection, such as pf.nsf, got {type(flow).__name__}; "
            "lambda dim: pf.nsf(dim, bins=4) is one, too."
        )
    if flow.event_shape != (dim,) or flow.output_shape != (dim,) or flow.context_dim:
        raise ValueError(f"as_prior: the sites take {dim} numbers and no context, but flow gives {flow}.")
    return flow


def fit_flow(
    language: PriorLanguage, recipe: Recipe | None, vectors: np.ndarray, steps: int, seed: int
) -> tuple[Bijection, Params]:
    """A flow fitted to rows by maximum likelihood: to what is left of them when their Gaussian is taken away."""
    dim = vectors.shape[1]
    flow = flow_of(guide_flow if recipe is None else recipe, dim)
    gaussian = gaussian_of_draws(vectors)
    factor, white = gaussian.triangle(), gaussian.standardise(vectors)
    inner = Chain({"flow": flow, "affine": TriangularAffine(dim)})
    fit = language.fit_density(
        inner, white, steps=steps, validation=HELD_OUT, standardize=False, seed=seed, progress=False
    )
    start = {"l": np.tril(factor, -1) + np.diag(np.log(np.diag(factor))), "b": gaussian.mean}
    params = map_params(lambda _, a: to_numpy(a), fit.params)
    whole = Chain({"flow": flow, "affine": TriangularAffine(dim), "start": Frozen(TriangularAffine(dim))})
    return whole, {**params, "start": {"state": start}}
