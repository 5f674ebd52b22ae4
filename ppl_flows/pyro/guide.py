"""``AutoFlow``: a normalizing flow as an automatic guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoContinuous
from pyro.infer.autoguide.initialization import init_to_median
from pyro.poutine.runtime import am_i_wrapped
from torch.distributions import biject_to

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import map_params
from ppl_flows.hosting import guide_bijection, located_params
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.transform import FlowTransform

QUANTILE_DRAWS = 10_000


class AutoFlow(AutoContinuous):
    """Guide over all latent variables: a flow, then a trainable location and scale per coordinate.

    It starts where the host's initialisation is: the last layer carries ``init_loc_fn``'s values and ``init_scale``,
    and the flow before it starts next to the identity.

    Args:
        model: a Pyro model; its latents are continuous and none of them is local to a sub-sampled plate.
        flow: a recipe such as ``pf.iaf``, or any callable ``dim -> Bijection`` (``lambda d: pf.nsf(d, bins=4)``).
            None: ``pf.guide_flow``.
        init_loc_fn: the host's per-site initialisation.
        init_scale: standard deviation of the first draws around it, on the unconstrained scale.
        seed: of the flow's initial weights.

    Raises:
        ValueError: at the first call: latents local to a sub-sampled plate; a name that another guide has in Pyro's
            parameter store; a flow of the wrong size.
        TypeError: at the first call: ``flow`` gives something else than a Bijection.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow
        >>> guide = AutoFlow(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), pf.iaf)
        >>> guide()["z"].shape
        torch.Size([])
    """

    def __init__(
        self,
        model: Callable,
        flow: Callable[[int], Bijection] | None = None,
        *,
        init_loc_fn: Callable = init_to_median,
        init_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        if not init_scale > 0:
            raise ValueError(f"init_scale must be positive, got {init_scale}.")
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._recipe = flow
        self._init_scale = init_scale
        self._seed = seed

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        for name, stack in self._cond_indep_stacks.items():
            for frame in stack:
                if frame.full_size is not None and frame.full_size != frame.size:
                    self.prototype_trace = None  # the next call fails the same way, instead of half-way
                    raise ValueError(
                        f"AutoFlow: latent {name!r} is local to plate {frame.name!r}, which is sub-sampled "
                        f"({frame.size} of {frame.full_size}): one flow over all latents would silently fit the "
                        "wrong rows. Run the plate at full size, or give local latents a guide of their own."
                    )
        bijection = guide_bijection(self._recipe, self.latent_dim)
        loc = self._init_loc()
        params = located_params(bijection, loc.cpu().numpy(), self._init_scale, self._seed)
        params = map_params(
            lambda _, a: torch.nn.Parameter(torch.tensor(a, dtype=loc.dtype, device=loc.device)), params
        )
        self.transform = FlowTransform(bijection, params)
        self.register_buffer("_zeros", torch.zeros_like(loc), persistent=False)

    def get_base_dist(self) -> dist.Distribution:
        """Standard normal over the latent vector."""
        return dist.Normal(self._zeros, torch.ones_like(self._zeros)).to_event(1)

    def get_transform(self, *args: Any, **kwargs: Any) -> FlowTransform:
        """The trained map from the base to the unconstrained latents; ``.bijection`` and ``.params`` can be saved."""
        return self.transform

    def get_posterior(self, *args: Any, **kwargs: Any) -> Flow:
        """Distribution of the unconstrained latent vector, ``(latent_dim,)``."""
        transform = self.get_transform(*args, **kwargs)  # once: inside a model this registers every parameter
        if am_i_wrapped():
            self._check_name_is_free(transform)
        return Flow(transform, base=self.get_base_dist())

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Median of each latent, ``{site: value}``, estimated from draws."""
        return self.quantiles(0.5, *args, **kwargs)

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Quantiles of each latent, ``{site: (len(quantiles), *shape)}``, or ``{site: shape}`` for a single level.

        Estimated from draws. As in the host's guides they are taken per unconstrained coordinate and then constrained.
        """
        draws = self.get_posterior(*args, **kwargs).sample((QUANTILE_DRAWS,))
        levels = torch.as_tensor(quantiles, dtype=draws.dtype, device=draws.device)
        rows = torch.quantile(draws, torch.atleast_1d(levels), dim=0)
        sites = [
            {site["name"]: biject_to(site["fn"].support)(value) for site, value in self._unpack_latent(row)}
            for row in rows
        ]
        return {name: torch.stack([site[name] for site in sites]) for name in sites[0]} if levels.ndim else sites[0]

    def _check_name_is_free(self, transform: FlowTransform) -> None:
        """Pyro's parameter store is global: a second guide of the same name would never train, without a word."""
        leaf, parameter = next(iter(transform.named_parameters()))
        name = f"{self._pyro_get_fullname('transform')}$$${leaf}"
        store = pyro.get_param_store()
        if name in store and store[name] is not parameter:
            raise ValueError(
                f"Pyro's parameter store already holds {name!r} of another guide, so this one would not train; "
                "call pyro.clear_param_store() first, or put both guides into one AutoGuideList. To go on from saved "
                "parameters, clear the store and use guide.load_state_dict."
            )
