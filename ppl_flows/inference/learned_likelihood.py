"""What ``fit_likelihood`` of both shells shares: what it returns, the parameters as contexts, and checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from ppl_flows.core.checks import checked_sequence, whole_number
from ppl_flows.core.namespace import namespace
from ppl_flows.core.types import Array
from ppl_flows.inference.density_results import DensityFit
from ppl_flows.inference.observations import LINEAR, Scaler
from ppl_flows.inference.pickling import PicklesOrSaysHow
from ppl_flows.inference.results import Path
from ppl_flows.inference.saved_sites import SavedSite, support_words
from ppl_flows.inference.validation import check_recipe, check_training, step_sizes

OWNER = "fit_likelihood"  # in errors
FEWEST = 100  # simulations
AS_THEY_ARE = ("real", "interval", "unit_interval")  # supports whose values are contexts without a transform


@dataclass(frozen=True)
class LikelihoodFit(PicklesOrSaysHow):
    """The density of one row of a model's data given its latents, learned from simulations.

    Attributes:
        density: the conditional flow over the row's unconstrained numbers, and its training.
        sites: the latents that it is given.
        row: the observed site, of one row.
        scalers: of the latents' numbers as contexts, by site.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_likelihood
        >>> model = lambda y: pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> small = {"flow": pf.Elementwise, "simulations": 100, "steps": 2, "progress": False}
        >>> learned = fit_likelihood(model, torch.tensor(0.0), **small)
        >>> learned.condition(z=0.5).log_prob(torch.zeros(20)).shape
        torch.Size([20])
    """

    way_out = "fit.save(path) keeps it in a file, and load_likelihood(path) gives it back"

    density: DensityFit
    sites: tuple[SavedSite, ...]
    row: SavedSite
    scalers: dict[str, Scaler]
    _condition: Callable[[LikelihoodFit, dict[str, Any]], Any]
    _write: Callable[[LikelihoodFit, Path], None] | None = None

    def condition(self, **latents: Any) -> Any:
        """The distribution of a row given the latents: of the language, for an ``obs`` site in a plate of rows.

        It is differentiable in the latents, so that NUTS and ``fit`` run with it. Nothing of it trains.

        Args:
            **latents: a value for each of ``sites``, ``(*batch, *site shape)``, on the site's own support; the batches
                broadcast, and are the distribution's batch shape.

        Raises:
            ValueError: a latent is missing, unknown, of another shape, or, where its numbers are known, outside of its
                support.
        """
        check_latents(self.sites, latents)
        return self._condition(self, latents)

    def save(self, path: Path) -> None:
        """Writes it to one file, which ``load_likelihood(path)`` of either language, and ``pf.load``, read.

        Raises:
            ValueError: it holds a class that is not registered.
            OSError: what the system refuses, such as a full disk; an old file is kept.
        """
        cast(Any, self._write)(self, path)

    def __repr__(self) -> str:
        given = ", ".join(site.name for site in self.sites)
        return f"LikelihoodFit({self.row.name} given {given}; {self.density})"


def takes_as_it_is(site: SavedSite) -> bool:
    """Whether a latent's own values are the context: where they are bounded on both sides, or not at all.

    Others, such as scales, are taken on the unconstrained scale.
    """
    return site.support["name"] in AS_THEY_ARE


def context_shape(site: SavedSite) -> tuple[int, ...]:
    """Shape of a latent's numbers in the context."""
    return site.shape if takes_as_it_is(site) else site.numbers


def context_numbers(
    sites: Sequence[SavedSite], values: Mapping[str, Array], transforms: Mapping[str, Any]
) -> list[Array]:
    """The numbers of each latent in the context, ``(*batch, size)``, before they are scaled.

    Args:
        values: ``(*batch, *site shape)``.
        transforms: of the language, onto the supports of the sites.
    """
    made = []
    for site in sites:
        value = values[site.name]
        batch = tuple(value.shape[: value.ndim - len(site.shape)])
        numbers = value if takes_as_it_is(site) else transforms[site.name].inv(value)
        made.append(namespace(value).reshape(numbers, (*batch, math.prod(context_shape(site)))))
    return made


def scaled_context(numbers: Sequence[Array], scalers: Collection[Scaler]) -> Array:
    """The context, ``(*batch, context_dim)``: as of ``Scaler``, in any array library."""
    xp = namespace(numbers[0])
    batch = np.broadcast_shapes(*(tuple(n.shape[:-1]) for n in numbers))
    parts = []
    for n, scaler in zip(numbers, scalers, strict=True):
        centre, scale = (xp.constant(a, n) for a in (scaler.centre, scaler.scale))
        parts.append(xp.broadcast_to(LINEAR * xp.asinh((n - centre) / (LINEAR * scale)), (*batch, n.shape[-1])))
    return xp.concat(parts, axis=-1)


def check_options(
    given: Sequence[str] | None, flow: Any, simulations: int, lr: float | None, optimizer: Any, **training: Any
) -> float | None:
    """The learning rate, None for that of another optimiser, of options that ``fit_likelihood`` takes.

    Args:
        **training: other options of ``check_training``.

    Raises:
        TypeError, ValueError, FileNotFoundError: it does not take them.
    """
    if given is not None:
        checked_sequence(OWNER, "given", given, "('z',)")
    check_recipe(OWNER, flow)
    whole_number(OWNER, "simulations", simulations, FEWEST)
    check_training(OWNER, **training)
    own_lr, _ = step_sizes(OWNER, optimizer, lr, None, default_lr=2e-3)
    return own_lr if optimizer is None else None


def check_row(name: str, shape: Sequence[int], event_dim: int, plates: Collection[int], discrete: bool) -> None:
    """Raises ValueError unless an observed site is made of rows, in plates, of continuous numbers.

    Args:
        shape: of its value.
        plates: axes of its plates, counted from the right of its batch shape, negative.
    """
    if discrete:
        raise ValueError(
            f"fit_likelihood: the data {name!r} are discrete, and a flow has densities. Let the model observe them "
            "with noise, such as Uniform(count, count + 1) around each count, and add such noise to the data, too."
        )
    batch = tuple(shape[: len(shape) - event_dim])
    loose = [i - len(batch) for i, n in enumerate(batch) if n > 1 and i - len(batch) not in plates]
    if loose:
        raise ValueError(
            f"fit_likelihood: the data {name!r} have shape {tuple(shape)}, of which the axes {loose} of the batch are "
            "in no plate: put i.i.d. rows into a plate, and what belongs to one row into its event, by .to_event(1)."
        )


def check_likelihood_sites(
    data: Sequence[str], latents: Mapping[str, Collection[str]], rows: Collection[str], given: Sequence[str] | None
) -> list[str]:
    """The latents that a likelihood is given: those asked for, or those outside of the plates of the data's rows.

    Args:
        latents: the plates of each.
        rows: plates of the data.

    Raises:
        ValueError: the model observes another number of sites than one, or has no such latent.
    """
    if len(data) != 1:
        raise ValueError(
            f"fit_likelihood: the model must have one site with obs, got {[*data]}; put what belongs together into one "
            "site, or learn each by itself, with the others hidden by a block handler."
        )
    if given is None:
        found = [name for name, plates in latents.items() if not {*plates} & {*rows}]
    else:
        found = [*given]
        if unknown := [name for name in found if name not in latents]:
            raise ValueError(f"fit_likelihood: given names {unknown}, but the model's latents are {[*latents]}.")
        if local := [name for name in found if {*latents[name]} & {*rows}]:
            raise ValueError(
                f"fit_likelihood: given names {local}, of which each row of the data has its own; run the model for "
                "one row, without the plate."
            )
    if not found:
        raise ValueError(
            f"fit_likelihood: a likelihood is given latents, and the model has {[*latents] or 'none'}, none of them "
            "outside of the plates of its data; name those that it is given by given=[...]."
        )
    return found


def check_rows_simulated(numbers: Mapping[str, np.ndarray], data: str) -> None:
    """Raises ValueError unless all simulations are finite, and every number of the data varies."""
    for name, values in numbers.items():
        n = len(values)
        bad = ~np.isfinite(values).reshape(n, -1).all(-1)
        if bad.any():
            raise ValueError(
                f"fit_likelihood: {bad.sum()} of {n} simulations of {name!r} are not finite, on the scale that a "
                "network sees; narrow the priors, or let the model observe a transform of the data."
            )
    if np.any(np.all(numbers[data] == numbers[data][0], axis=0)):
        raise ValueError(
            f"fit_likelihood: some numbers of {data!r} are the same in all simulations, where a density grows without "
            "bound; let the model observe the others alone."
        )


def check_latents(sites: Sequence[SavedSite], latents: Mapping[str, Any]) -> None:
    """Raises ValueError unless there is a value of the right shape for each site, and no other."""
    names = [site.name for site in sites]
    if {*names} != latents.keys():
        raise ValueError(f"condition: this likelihood is given {names}, got {[*latents]}.")
    for site in sites:
        shape = np.shape(latents[site.name])
        if shape[len(shape) - len(site.shape) :] != site.shape:
            raise ValueError(f"condition: {site.name!r} must have shape (*batch, *{site.shape}), got {tuple(shape)}.")


def check_inside(site: SavedSite, value: np.ndarray, inside: np.ndarray) -> None:
    """Raises ValueError unless values of a latent are finite, and all in its support."""
    if not (np.all(inside) and np.isfinite(value).all()):
        raise ValueError(
            f"condition: {site.name!r} must lie in its support, {support_words(site.support)}, where the simulations "
            f"were, got {np.array2string(value, threshold=5, precision=4)}."
        )
