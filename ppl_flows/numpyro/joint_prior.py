"""``JointPrior``: the posterior of one model as a prior of the next."""

from __future__ import annotations

import jax
import numpyro

import ppl_flows
from ppl_flows.core.params import map_params
from ppl_flows.files import load
from ppl_flows.inference.joint_prior import SitesPrior
from ppl_flows.inference.prior_source import PriorLanguage
from ppl_flows.inference.results import Path
from ppl_flows.inference.saved_priors import SavedPrior
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.density import fit_density
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.neutral_supports import SUPPORTS


class PriorFlow(Flow):
    """The flow of a ``JointPrior``, which says in a trace what sites it is of."""

    pytree_aux_fields = ("prior_sites",)
    prior_sites: tuple[SavedSite, ...] = ()


class JointPrior(SitesPrior):
    """The joint posterior of sites of a fit, as a prior of the next model: ``result.as_prior(sites)``.

    A flow on the sites' unconstrained numbers, whose parameters are no sites and do not train. It runs in every guide,
    in MCMC and in ``Predictive``. ``pf.save(path, prior)`` keeps it.

    Args:
        saved: what ``pf.load`` gives of a file.

    Raises:
        TypeError: something else.
        ValueError: a support that NumPyro cannot map, by the name of the site.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import AutoFlow, fit
        >>> model = lambda: numpyro.sample("scale", dist.HalfNormal(1.0))
        >>> guide = AutoFlow(model, pf.TriangularAffine, start="init")
        >>> prior = fit(model, guide, steps=2, draws=100, progress=False).as_prior(reweighted=False)
        >>> numpyro.handlers.seed(prior, 0)("today")["scale"].shape
        ()
    """

    supports = SUPPORTS

    @classmethod
    def load(cls, path: Path) -> JointPrior:
        """The prior that ``pf.save(path, prior)`` has written, in either language.

        Raises:
            ValueError: a file of something else; a support that NumPyro cannot map, by the name of the site.
            FileFormatError: a ValueError; the file is damaged, or newer.
            OSError: what the system refuses.
        """
        saved = load(path)
        if not isinstance(saved, SavedPrior):
            raise ValueError(f"{str(path)!r} holds no prior; pf.load gives what it holds.")
        return cls(saved)

    def sample(self, num_samples: int, *, seed: int = 1) -> dict[str, jax.Array]:
        """Draws by a ``seed``, ``{site: (num_samples, *site shape)}``."""
        key = jax.random.key(seed)
        return self.constrain(jax.jit(lambda k: self.flow.sample(k, (num_samples,)))(key))

    def _make_flow(self) -> PriorFlow:
        flow = PriorFlow(self.saved.bijection, map_params(lambda _, a: to_array(a), self.saved.params))
        flow.prior_sites = self.saved.sites
        return flow

    def _sample(self, name: str) -> jax.Array:
        return numpyro.sample(name, self.flow)

    def _register(self, name: str, value: jax.Array) -> jax.Array:
        return numpyro.deterministic(name, value)


LANGUAGE = PriorLanguage(
    SUPPORTS,
    fit_density,
    JointPrior,
    {"ppl_flows": ppl_flows.__version__, "numpyro": numpyro.__version__, "jax": jax.__version__},
)
