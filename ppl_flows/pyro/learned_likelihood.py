"""A learned likelihood as a distribution, and its file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.infer.util import is_validation_enabled
from torch.distributions.utils import _sum_rightmost

from ppl_flows.core.params import flatten
from ppl_flows.files import load, save_fit
from ppl_flows.inference.learned_likelihood import LikelihoodFit, check_inside, context_numbers, scaled_context
from ppl_flows.inference.observations import Scaler
from ppl_flows.inference.results import Path
from ppl_flows.inference.saved_likelihoods import SavedLikelihood
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.pyro.density_files import density_of, saved_density
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.neutral_supports import SUPPORTS


class LearnedLikelihood(TorchDistribution):
    """The distribution of one row: a flow of its unconstrained numbers, seen through the map onto its support.

    Args:
        flow: over vectors; its batch shape is this one's.
        transform: from the row's unconstrained numbers.
        row: the site.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(self, flow: Any, transform: Any, row: SavedSite) -> None:
        self._flow, self._transform, self._row = flow, transform, row
        super().__init__(flow.batch_shape, torch.Size(row.shape))

    @property
    def support(self) -> Any:
        return self._transform.codomain

    def expand(self, batch_shape: Any, _instance: Any = None) -> LearnedLikelihood:
        return LearnedLikelihood(self._flow.expand(torch.Size(batch_shape)), self._transform, self._row)

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        u = self._flow.rsample(torch.Size(sample_shape))
        value: torch.Tensor = self._transform(u.reshape(*u.shape[:-1], *self._row.numbers))
        return value

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log density of rows, ``(*batch, *event)``: ``(*batch,)``, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        axes = len(self._row.numbers)
        u = self._transform.inv(value)
        log_det = self._transform.log_abs_det_jacobian(u, value)
        log_det = _sum_rightmost(log_det, axes - self._transform.domain.event_dim)
        rows = u.reshape(*u.shape[: u.dim() - axes], math.prod(self._row.numbers))
        score: torch.Tensor = self._flow.log_prob(rows) - log_det
        return score


def condition(fit: LikelihoodFit, latents: dict[str, Any], *, transforms: dict[str, Any]) -> LearnedLikelihood:
    """As of ``LikelihoodFit.condition``.

    Args:
        transforms: onto the supports of its sites.
    """
    like = next(leaf for _, leaf in flatten(fit.density.params))
    values = {name: torch.as_tensor(value).to(like) for name, value in latents.items()}
    for site in fit.sites:
        value = values[site.name]
        within = value.requires_grad or torch._C._get_tracing_state()  # an inference, which may stray
        if is_validation_enabled() and not within:
            check_inside(site, value.cpu().numpy(), SUPPORTS.support(site).check(value).cpu().numpy())
    context = scaled_context(context_numbers(fit.sites, values, transforms), fit.scalers.values())
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
        >>> import tempfile, pyro, torch, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import fit_likelihood, load_likelihood
        >>> model = lambda y: pyro.sample("y", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=y)
        >>> path = tempfile.mkdtemp() + "/likelihood.safetensors"
        >>> small = {"flow": pf.Elementwise, "simulations": 100, "steps": 2, "progress": False}
        >>> fit_likelihood(model, torch.tensor(0.0), **small).save(path)
        >>> load_likelihood(path).condition(z=0.5).event_shape
        torch.Size([])
    """
    saved = load(path)
    if not isinstance(saved, SavedLikelihood):
        raise ValueError(f"{str(path)!r} holds no learned likelihood; pf.load gives what it holds.")
    conditioned = partial(condition, transforms=transforms_of((saved.row, *saved.sites)))
    scalers = {name: Scaler(*scaler) for name, scaler in saved.scalers.items()}
    return LikelihoodFit(density_of(saved.density), saved.sites, saved.row, scalers, conditioned, save_likelihood)
