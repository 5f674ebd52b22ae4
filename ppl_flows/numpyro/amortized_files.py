"""``AmortizedFit.save``, and ``load_amortized``."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from ppl_flows.core.bijection import Bijection
from ppl_flows.files import load, save_fit
from ppl_flows.inference.density_results import AmortizedFit
from ppl_flows.inference.observations import Observations, Scaler
from ppl_flows.inference.results import Path
from ppl_flows.inference.saved_fits import SavedAmortized
from ppl_flows.inference.simulation_checks import warn_elsewhere
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.correct import correct
from ppl_flows.numpyro.density_files import density_of, saved_density
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.model_runs import model_data
from ppl_flows.numpyro.neutral_supports import SUPPORTS
from ppl_flows.numpyro.simulator import observed


def save_amortized(fit: AmortizedFit, path: Path, *, latents: dict[str, Any], observations: Observations) -> None:
    """Writes a fit to a file, with the model's latent sites in the order of the flow."""
    sites = [SUPPORTS.site(name, site["fn"], site["value"]) for name, site in latents.items()]
    data = {name: (scaler.centre, scaler.scale) for name, scaler in observations.scalers.items()}
    save_fit(
        path,
        SavedAmortized(
            saved_density(fit.density), tuple(sites), data, observations.axes, fit.observed, observations.shapes
        ),
    )


def load_amortized(path: Path, model: Callable[..., Any]) -> AmortizedFit:
    """The amortised fit that ``fit.save(path)`` has written, in either language.

    Args:
        path: the file, written by either language.
        model: of the fit: ``sample`` runs it for the data in its arguments.

    Returns:
        An ``AmortizedFit``.

    Raises:
        ValueError: a file of something else; a support that the language cannot map, by the name of the site.
        FileFormatError: a ValueError; the file is damaged, or newer.
        OSError: what the system refuses.

    Example:
        >>> import tempfile, numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import fit_amortized, load_amortized
        >>> model = lambda y: numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> path = tempfile.mkdtemp() + "/amortized.safetensors"
        >>> fit = fit_amortized(model, 0.0, flow=pf.Elementwise, simulations=100, steps=2, progress=False)
        >>> fit.save(path)
        >>> load_amortized(path, model).sample(3, 1.0)["z"].shape
        (3,)
    """
    saved = load(path)
    if not isinstance(saved, SavedAmortized):
        raise ValueError(f"{str(path)!r} holds no amortised fit; pf.load gives what it holds.")
    transforms = [(site, SUPPORTS.transform(site)) for site in saved.sites]
    scalers = {name: Scaler(*scaler) for name, scaler in saved.scalers.items()}
    observations = Observations(scalers, encoder=False, axes=saved.axes, shapes=saved.shapes)
    flow = density_of(saved.density)

    def at(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Bijection, jax.Array]:
        x = observed(model, scalers, args, kwargs)
        own = observations.given(flow.bijection, x)
        warn_elsewhere(saved.observed, x)
        return own, to_array(observations(x))[0]

    def draw(num_samples: int, seed: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        own, context = at(args, kwargs)
        rest = Flow(own, flow.params, context=context).sample(jax.random.key(seed), (num_samples,))
        draws = {}
        for site, transform in transforms:
            size = math.prod(site.numbers)
            draws[site.name] = transform(rest[:, :size].reshape(num_samples, *site.numbers))
            rest = rest[:, size:]
        return draws

    sizes = {site.name: math.prod(site.numbers) for site in saved.sites}
    corrected = partial(correct, model=model, sizes=sizes, at=at)
    write = partial(_write, saved=saved)
    return AmortizedFit(flow, draw, partial(model_data, model), write, corrected, observed=saved.observed)


def _write(_: AmortizedFit, path: Path, *, saved: SavedAmortized) -> None:
    save_fit(path, saved)
