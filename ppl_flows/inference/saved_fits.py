"""A fit in no language: what its file holds, in NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppl_flows.core.base_distribution import Base
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed
from ppl_flows.core.types import Params
from ppl_flows.encoders.given_set import given_set_in
from ppl_flows.inference.auto_flow import QUALITIES
from ppl_flows.inference.evidence import Evidence, withheld
from ppl_flows.inference.gaussian import Gaussian, Stretch
from ppl_flows.inference.kl_estimate import NOT_LOOKED, ModesSeen
from ppl_flows.inference.saved_fields import PLAIN, as_kind
from ppl_flows.inference.saved_sites import Arrays, SavedSite, site_from_file, sites_to_file

NOT_KEPT = "the file is of a version that did not keep it"


@dataclass(frozen=True, eq=False)
class SavedFit:
    """What ``pf.load`` gives of a fit; ``AutoFlow.load(path, model)`` of either language makes guide and result of it.

    Attributes:
        bijection, params: from a standard normal to the latent vector, and its trained parameters.
        log_weights: of a guide with several modes, whose flows ``bijection`` has side by side; None of others.
        gaussian: the normal near the posterior that the guide started at; None where it had none.
        sites: of the latent vector, in its order.
        placed: names of those that the model places; the guide then draws by runs of the model alone.
        map_params: trained parameters of the map that does it, under dotted names.
        model_params: the parameters of the model that were trained with it, the path of each in nested dicts first.
        losses, skipped, interrupted, khat, ess, verdict: as of ``FitResult``; losses in nats.
        elbo, kl: likewise, ``(mean, standard error)``, in nats.
        log_evidence: likewise, ``(mean, standard error, method)``, in nats.
        missed, doubt, modes: what the verdict is made of beside these.
        start, quality, seed: of the guide, and of the fit.
        prefix: of the guide's own sites, as given; None: the default, or a language without.
        num_particles, vectorized: draws that are weighted at once, and whether the model runs for all of them.
        language, versions: that it was trained in; of ppl_flows, and of the language's packages.

    Example:
        >>> import tempfile, pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow, fit
        >>> pyro.clear_param_store()
        >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
        >>> path = tempfile.mkdtemp() + "/fit.safetensors"
        >>> fit(model, AutoFlow(model, pf.iaf, start="init"), steps=2, draws=100, progress=False).save(path)
        >>> pf.load(path).sites
        (SavedSite('z', (), real),)
    """

    bijection: Bijection
    params: Params
    log_weights: np.ndarray | None
    gaussian: Gaussian | None
    sites: tuple[SavedSite, ...]
    placed: tuple[str, ...]
    map_params: Arrays
    model_params: tuple[tuple[tuple[str, ...], np.ndarray], ...]
    losses: np.ndarray
    skipped: int
    interrupted: bool
    elbo: tuple[float, float]
    kl: tuple[float, float]
    khat: float
    ess: float
    log_evidence: Evidence
    missed: float
    doubt: str
    modes: ModesSeen
    verdict: str
    start: str
    quality: str
    seed: int
    prefix: str | None
    num_particles: int
    vectorized: bool
    language: str
    versions: dict[str, str]

    def __repr__(self) -> str:
        sites = ", ".join(site.name for site in self.sites)
        return f"SavedFit({sites}; trained in {self.language}; {self.verdict})"


@dataclass(frozen=True, eq=False)
class SavedDensity:
    """What ``pf.load`` gives of a density: ``load_density(path)`` of either language makes a ``DensityFit`` of it.

    Attributes:
        bijection, params, base, base_params, losses, validation_losses, skipped, interrupted: as of ``DensityFit``;
            losses in nats per row.
        language, versions: as of ``SavedFit``.
    """

    bijection: Bijection
    params: Params
    base: Base | None
    base_params: Params | None
    losses: np.ndarray
    validation_losses: np.ndarray | None
    skipped: int
    interrupted: bool
    language: str
    versions: dict[str, str]

    def __repr__(self) -> str:
        return f"SavedDensity({self.bijection}; trained in {self.language})"


@dataclass(frozen=True, eq=False)
class SavedAmortized:
    """What ``pf.load`` gives of an amortised fit; ``load_amortized(path, model)`` makes an ``AmortizedFit`` of it.

    Attributes:
        density: the conditional flow over the unconstrained latents.
        sites: latents, in the order of the flow's vector.
        scalers: centre and scale of the data, by site, in the order of the flow's context.
        axes: of the data whose rows are a set, its axis from the end, by site; None: there is no set.
        observed: as of ``AmortizedFit``.
        shapes: of the data in training, by site; None in files that do not have them.
    """

    density: SavedDensity
    sites: tuple[SavedSite, ...]
    scalers: dict[str, tuple[np.ndarray, np.ndarray]]
    axes: dict[str, int] | None = None
    observed: dict[str, np.ndarray] | None = None
    shapes: dict[str, tuple[int, ...]] | None = None

    def __repr__(self) -> str:
        sites = ", ".join(site.name for site in self.sites)
        return f"SavedAmortized({sites} given {', '.join(self.scalers)}; trained in {self.density.language})"


def fit_to_file(fit: SavedFit) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All but bijection and params: what JSON takes, and arrays."""
    arrays = {"losses": np.asarray(fit.losses)}
    sites, of_sites = sites_to_file(fit.sites)
    arrays |= of_sites
    for i, (_, array) in enumerate(fit.model_params):
        arrays[f"model.{i}"] = array
    arrays |= {f"informed.{name}": array for name, array in fit.map_params.items()}
    if fit.log_weights is not None:
        arrays["log_weights"] = fit.log_weights
    if fit.gaussian is not None:
        arrays |= {"gaussian.mean": fit.gaussian.mean, "gaussian.factor": fit.gaussian.factor}
        if fit.gaussian.stretch is not None:
            arrays |= {f"gaussian.{name}": array for name, array in fit.gaussian.stretch._asdict().items()}
    return {
        "needs": "model" if fit.placed else None if fit.log_weights is None else "mixture",  # to draw
        "sites": sites,
        "placed": fit.placed,
        "model_params": [path for path, _ in fit.model_params],
        **{name: getattr(fit, name) for name in PLAIN},
    }, arrays


def fit_from_file(bijection: Bijection, params: Params, document: dict[str, Any], arrays: Arrays) -> SavedFit:
    """The inverse of ``fit_to_file``; a ValueError, KeyError or TypeError for what does not fit, or is not there."""
    placed = tuple(map(str, document.get("placed", ())))
    log_weights = arrays.get("log_weights")
    if document["needs"] != ("model" if placed else None if log_weights is None else "mixture"):
        raise ValueError(f"its guide needs {document['needs']!r:.100} to draw; a newer ppl_flows may read it.")
    sites = tuple(site_from_file(site, arrays, i) for i, site in enumerate(document["sites"]))
    size = sum(math.prod(site.numbers) for site in sites)
    if bijection.event_shape != (size,) or bijection.output_shape != (size,):
        raise ValueError(f"the sites take {size} numbers, but the flow has shape {bijection.event_shape}.")
    if bijection.batch_shape != np.shape(log_weights if log_weights is not None else 0.0):
        raise ValueError(f"its flows have shape {bijection.batch_shape}, and need as many weights.")
    map_params = {name: arrays[f"informed.{name}"] for name in MAP if placed and f"informed.{name}" in arrays}
    check_map_params(sites, placed, map_params)
    if arrays["losses"].ndim != 1:
        raise ValueError("the losses are no vector.")
    document = {"log_evidence": withheld(NOT_KEPT), "modes": NOT_LOOKED, **document}
    plain = {name: as_kind(name, document[name]) for name in PLAIN}
    if plain["num_particles"] < 1:
        raise ValueError(f"num_particles must be positive, got {plain['num_particles']}.")
    if plain["quality"] not in QUALITIES:
        raise ValueError(f"quality must be one of {', '.join(QUALITIES)}, got {plain['quality']!r:.100}.")
    checked_seed("SavedFit", plain["seed"])
    return SavedFit(
        bijection=bijection,
        params=params,
        log_weights=log_weights,
        gaussian=_gaussian_from_file(arrays, size),
        sites=sites,
        placed=placed,
        map_params=map_params,
        model_params=tuple(
            (tuple(map(str, path)), arrays[f"model.{i}"]) for i, path in enumerate(document["model_params"])
        ),
        losses=arrays["losses"],
        **plain,
    )


def density_to_file(fit: SavedDensity) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All but bijections, bases and their params."""
    arrays = {"losses": np.asarray(fit.losses)}
    if fit.validation_losses is not None:
        arrays["validation_losses"] = np.asarray(fit.validation_losses)
    return {name: getattr(fit, name) for name in ("skipped", "interrupted", "language", "versions")}, arrays


def amortized_to_file(fit: SavedAmortized) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All but the density."""
    sites, arrays = sites_to_file(fit.sites)
    for i, (centre, scale) in enumerate(fit.scalers.values()):
        arrays |= {f"scalers.{i}.centre": centre, f"scalers.{i}.scale": scale}
    if fit.observed is not None:
        arrays |= {f"observed.{i}": fit.observed[name] for i, name in enumerate(fit.scalers)}
    more = {name: value for name in ("axes", "shapes") if (value := getattr(fit, name)) is not None}
    return {"needs": "model", "sites": sites, "data": [*fit.scalers], **more}, arrays


def amortized_from_file(density: SavedDensity, document: dict[str, Any], arrays: Arrays) -> SavedAmortized:
    """The inverse of ``amortized_to_file``; errors as of ``fit_from_file``."""
    sites = tuple(site_from_file(site, arrays, i) for i, site in enumerate(document["sites"]))
    scalers = {
        str(n): (arrays[f"scalers.{i}.centre"], arrays[f"scalers.{i}.scale"]) for i, n in enumerate(document["data"])
    }
    axes = None if "axes" not in document else {str(n): int(axis) for n, axis in document["axes"].items()}
    data = sum(centre.size for centre, _ in scalers.values())
    if axes is not None:
        data = _set_context(density.bijection, scalers, axes)
    sizes = sum(math.prod(site.numbers) for site in sites), data
    shape = density.bijection.output_shape, density.bijection.context_dim
    shapes = {str(n): tuple(map(int, own)) for n, own in document.get("shapes", {}).items()}
    if shapes and shapes.keys() != scalers.keys():
        raise ValueError(f"there are shapes of {[*shapes]}, but data {[*scalers]}.")
    if shape != ((sizes[0],), sizes[1]) or any(centre.shape != scale.shape for centre, scale in scalers.values()):
        raise ValueError(f"sites and data take {sizes} numbers, but the flow has shape and context {shape}.")
    observed = None
    if "observed.0" in arrays:
        observed = {name: arrays[f"observed.{i}"] for i, name in enumerate(scalers)}
    return SavedAmortized(density, sites, scalers, axes, observed, shapes or None)


def _set_context(bijection: Bijection, scalers: dict[str, tuple[np.ndarray, np.ndarray]], axes: dict[str, int]) -> int:
    """Size of the context of a flow given a set of these data.

    Raises:
        ValueError: the flow is not given one.
    """
    found = given_set_in(bijection)
    features = sum(scalers[name][0].size for name in axes)
    others = sum(centre.size for name, (centre, _) in scalers.items() if name not in axes)
    if found is None or (found.features, found.others) != (features, others):
        raise ValueError(f"a row of its set has {features} numbers, besides {others} others; its flow takes others.")
    return found.context_dim


PRIORS = ("log_precision", "value", "state.precision", "state.value", "state.unit")  # parameters of a ``ModelMap``
BLOCK = ("state.reference", "state.block")
MAP = PRIORS + BLOCK


def check_map_params(sites: tuple[SavedSite, ...], placed: tuple[str, ...], found: Arrays) -> None:
    """Raises ValueError unless the parameters of a map are those of these sites, which it places."""
    sizes = {site.name: math.prod(site.numbers) for site in sites}
    ends = np.cumsum([0, *sizes.values()])
    numbers = {name: [*range(*ends[i : i + 2])] for i, name in enumerate(sizes)}
    at = found.get("state.block", np.zeros(0))
    block = [
        name for name in placed if name in sizes and numbers[name][:1] == [i for i in at if i in numbers[name]][:1]
    ]
    by_priors = sum(sizes[name] for name in placed if name in sizes and name not in block)
    expected = {name: by_priors for name in PRIORS if by_priors} | {name: at.size for name in BLOCK if block}
    whole = [i for name in sizes if name in block for i in numbers[name]]
    if not (
        {*placed} <= sizes.keys()
        and {name: array.shape for name, array in found.items()} == {n: (size,) for n, size in expected.items()}
        and np.array_equal(at, whole)
    ):
        wanted = ", ".join(f"informed.{name} ({size},)" for name, size in expected.items())
        raise ValueError(f"the parameters of its map are not those of sites it has: expected {wanted or 'none'}.")


def _gaussian_from_file(arrays: Arrays, size: int) -> Gaussian | None:
    found = {key.removeprefix("gaussian."): array for key, array in arrays.items() if key.startswith("gaussian.")}
    if not found:
        return None
    mean, factor, scales = found["mean"], found["factor"], found.get("scales", np.zeros(0))
    shapes = (size,), (size, size) if factor.ndim == 2 else (size,), (size, len(np.atleast_1d(scales)))
    if (mean.shape, factor.shape, found.get("directions", np.zeros((size, 0))).shape) != shapes or scales.ndim != 1:
        raise ValueError(f"the Gaussian has not the shape of {size} numbers.")
    return Gaussian(mean, factor, stretch=Stretch(found["directions"], scales) if scales.size else None)
