"""``JointPrior``: the posterior of one model as a prior of the next."""

from __future__ import annotations

from typing import Any

import pyro
import torch

import ppl_flows
from ppl_flows.core.params import map_params
from ppl_flows.files import load
from ppl_flows.inference.joint_prior import SitesPrior
from ppl_flows.inference.prior_source import PriorLanguage
from ppl_flows.inference.results import Path
from ppl_flows.inference.saved_priors import SavedPrior
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.pyro.density import fit_density
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.neutral_supports import SUPPORTS
from ppl_flows.torch.params import to_tensor


class PriorFlow(Flow):
    """The flow of a ``JointPrior``, which says in a trace what sites it is of."""

    prior_sites: tuple[SavedSite, ...] = ()

    def expand(self, batch_shape: torch.Size, _instance: Flow | None = None) -> Flow:
        new: Any = super().expand(batch_shape, _instance)
        new.prior_sites = self.prior_sites
        return new


class JointPrior(SitesPrior):
    """The joint posterior of sites of a fit, as a prior of the next model: ``result.as_prior(sites)``.

    A flow on the sites' unconstrained numbers, whose parameters are no sites and do not train. It runs in every guide,
    in MCMC and in ``Predictive``. ``pf.save(path, prior)`` keeps it.

    Args:
        saved: what ``pf.load`` gives of a file.

    Raises:
        TypeError: something else.
        ValueError: a support that Pyro cannot map, by the name of the site.

    Example:
        >>> import pyro, torch, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow, fit
        >>> pyro.clear_param_store()
        >>> model = lambda: pyro.sample("scale", dist.HalfNormal(torch.tensor(1.0)))
        >>> guide = AutoFlow(model, pf.TriangularAffine, start="init")
        >>> prior = fit(model, guide, steps=2, draws=100, progress=False).as_prior(reweighted=False)
        >>> prior("today")["scale"].shape
        torch.Size([])
    """

    supports = SUPPORTS

    @classmethod
    def load(cls, path: Path) -> JointPrior:
        """The prior that ``pf.save(path, prior)`` has written, in either language.

        Raises:
            ValueError: a file of something else; a support that Pyro cannot map, by the name of the site.
            FileFormatError: a ValueError; the file is damaged, or newer.
            OSError: what the system refuses.
        """
        saved = load(path)
        if not isinstance(saved, SavedPrior):
            raise ValueError(f"{str(path)!r} holds no prior; pf.load gives what it holds.")
        return cls(saved)

    @torch.no_grad()
    def sample(self, num_samples: int, *, seed: int = 1) -> dict[str, torch.Tensor]:
        """Draws, ``{site: (num_samples, *site shape)}``; ``seed`` leaves torch's global generator as it was."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.constrain(self.flow.sample((num_samples,)))

    def _make_flow(self) -> PriorFlow:
        flow = PriorFlow(self.saved.bijection, map_params(lambda _, a: to_tensor(a), self.saved.params))
        flow.prior_sites = self.saved.sites
        return flow

    def _sample(self, name: str) -> torch.Tensor:
        return pyro.sample(name, self.flow)

    def _register(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return pyro.deterministic(name, value)


LANGUAGE = PriorLanguage(
    SUPPORTS,
    fit_density,
    JointPrior,
    {"ppl_flows": ppl_flows.__version__, "pyro-ppl": pyro.__version__, "torch": torch.__version__},
)
