"""A learned likelihood as a distribution, and its file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.transforms import Transform
from numpyro.distributions.util import sum_rightmost, validate_sample

from ppl_flows.files import load, save_fit
from ppl_flows.inference.learned_likelihood import LikelihoodFit, check_inside, context_numbers, scaled_context
from ppl_flows.inference.observations import Scaler
from ppl_flows.inference.results import Path
from ppl_flows.inference.saved_likelihoods import SavedLikelihood
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.numpyro.density_files import density_of, saved_density
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.neutral_supports import SUPPORTS


class LearnedLikelihood(dist.Distribution):
    """The distribution of one row: a flow of its unconstrained numbers, seen through the map onto its support.

    Args:
        flow: over vectors; its batch shape is this one's.
        transform: from the row's unconstrained numbers.
        row: the site.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    pytree_data_fields = ("_flow", "_transform")
    pytree_aux_fields = ("_numbers",)

    def __init__(self, flow: Flow, transform: Transform, row: SavedSite) -> None:
        self._flow, self._transform, self._numbers = flow, transform, row.numbers
        super().__init__(flow.batch_shape, row.shape)

    @property
    def support(self) -> Any:
        return self._transform.codomain

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        u = self._flow.sample(key, sample_shape)
        value: jax.Array = self._transform(u.reshape(*u.shape[:-1], *self._numbers))
        return value

    @validate_sample
    def log_prob(self, value: Any) -> jax.Array:
        """Log density of rows, ``(*batch, *event)``: ``(*batch,)``, in nats."""
        value = jnp.asarray(value, dtype=float)
        u = self._transform.inv(value)
        batch = u.shape[: u.ndim - len(self._numbers)]
        log_det = self._transform.log_abs_det_jacobian(u, value)
        log_det = sum_rightmost(log_det, len(self._numbers) - self._transform.domain.event_dim)
        score: jax.Array = self._flow.log_prob(u.reshape(*batch, math.prod(self._numbers))) - log_det
        return score


def condition(fit: LikelihoodFit, latents: dict[str, Any], *, transforms: dict[str, Any]) -> LearnedLikelihood:
    """As of ``LikelihoodFit.condition``.

    Args:
        transforms: onto the supports of its sites.
    """
    values = {name: jnp.asarray(value, dtype=float) for name, value in latents.items()}
    for site in fit.sites:
        value = values[site.name]
        if not isinstance(value, jax.core.Tracer):
            check_inside(site, np.asarray(value), np.asarray(SUPPORTS.support(site)(value)))
    numbers = context_numbers(fit.sites, values, transforms)
    context = scaled_context(numbers, fit.scalers.values())
    flow = Flow(fit.density.bijection, fit.density.params, context=context)
    return LearnedLikelihood(flow, transforms[fit.row.name], fit.row)


def transforms_of(sites: Iterable[SavedSite]) -> dict[str, Any]:
    """Onto the supports of sites; errors as of ``load_likelihood``."""
    return {site.name: SUPPORTS.transform(site) for site in sites}


def save_likelihood(fit: LikelihoodFit, path: Path) -> None:
    """Writes a learned likelihood to a file."""
    scalers = {name: (scaler.centre, scaler.scale) for name, scaler in fit.scalers.items()}
    save_fit(path, SavedLikelihood(saved_density(fit.density), fit.sites, fit.row, scalers))


def load_likelihood(path: Path) -> LikelihoodFit:
    """The learned likelihood that ``fit.save(path)`` has written, in either language.

    Args:
        path: the file, written by either language.

    Returns:
        A ``LikelihoodFit``.

    Raises:
        ValueError: a file of something else; a support that the language cannot map, by the name of the site.
        FileFormatError: a ValueError; the file is damaged, or newer.
        OSError: what the system refuses.

    Example:
        >>> import tempfile, numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import fit_likelihood, load_likelihood
        >>> model = lambda y: numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> path = tempfile.mkdtemp() + "/likelihood.safetensors"
        >>> small = {"flow": pf.Elementwise, "simulations": 100, "steps": 2, "progress": False}
        >>> fit_likelihood(model, 0.0, **small).save(path)
        >>> load_likelihood(path).condition(z=0.5).event_shape
        ()
    """
    saved = load(path)
    if not isinstance(saved, SavedLikelihood):
        raise ValueError(f"{str(path)!r} holds no learned likelihood; pf.load gives what it holds.")
    conditioned = partial(condition, transforms=transforms_of((saved.row, *saved.sites)))
    scalers = {name: Scaler(*scaler) for name, scaler in saved.scalers.items()}
    return LikelihoodFit(density_of(saved.density), saved.sites, saved.row, scalers, conditioned, save_likelihood)
