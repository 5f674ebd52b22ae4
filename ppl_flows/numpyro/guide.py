"""``AutoFlow``: a normalizing flow as an automatic guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_median

from ppl_flows.core.bijection import Bijection
from ppl_flows.hosting import guide_bijection, located_params
from ppl_flows.numpyro.distribution import Flow, flow
from ppl_flows.numpyro.transform import FlowTransform

QUANTILE_DRAWS = 10_000


class AutoFlow(AutoContinuous):
    """Guide over all latent variables: a flow, then a trainable location and scale per coordinate.

    It starts where the host's initialisation is: the last layer carries ``init_loc_fn``'s values and ``init_scale``,
    and the flow before it starts next to the identity. Its parameters are one site, ``{prefix}_flow``.

    Args:
        model: a NumPyro model; its latents are continuous and none of them is local to a sub-sampled plate.
        flow: a recipe such as ``pf.iaf``, or any callable ``dim -> Bijection`` (``lambda d: pf.nsf(d, bins=4)``).
            None: ``pf.guide_flow``.
        prefix: of the guide's own sites. None: ``auto_`` and the model's first latent site, so that several guides
            in one ``AutoGuideList`` have names of their own.
        init_loc_fn: the host's per-site initialisation.
        init_scale: standard deviation of the first draws around it, on the unconstrained scale.
        seed: of the flow's initial weights.

    Raises:
        ValueError: at the first call: latents local to a sub-sampled plate; a flow of the wrong size.
        TypeError: at the first call: ``flow`` gives something else than a Bijection.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import AutoFlow
        >>> guide = AutoFlow(lambda: numpyro.sample("z", dist.Normal(0.0, 1.0)), pf.iaf)
        >>> numpyro.handlers.seed(guide, jax.random.key(0))()["z"].shape
        ()
    """

    prefix: str | None
    prototype_trace: Any

    def __init__(
        self,
        model: Callable,
        flow: Callable[[int], Bijection] | None = None,
        *,
        prefix: str | None = None,
        init_loc_fn: Callable = init_to_median,
        init_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        if not init_scale > 0:
            raise ValueError(f"init_scale must be positive, got {init_scale}.")
        super().__init__(model, prefix=prefix, init_loc_fn=init_loc_fn)
        self._recipe = flow
        self._init_scale = init_scale
        self._seed = seed

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._setup_prototype(*args, **kwargs)
        except ValueError as error:
            self.prototype_trace = None  # the next call fails the same way, instead of half-way
            if "local latent variables" not in str(error):
                raise
            raise ValueError(
                "AutoFlow: a latent is local to a sub-sampled plate, and one flow over all latents cannot follow the "
                "rows drawn. Run the plate at full size, or give local latents a guide of their own."
            ) from error
        if self.prefix is None:
            self.prefix = f"auto_{next(iter(self._init_locs))}"
        self._bijection = guide_bijection(self._recipe, self.latent_dim)
        self._start = located_params(self._bijection, self._init_latent, self._init_scale, self._seed)

    def get_base_dist(self) -> dist.Distribution:
        """Standard normal over the latent vector."""
        dtype = self._init_latent.dtype
        return dist.Normal(jnp.zeros(self.latent_dim, dtype), jnp.ones(self.latent_dim, dtype)).to_event(1)

    def _get_posterior(self) -> Flow:
        return flow(f"{self.prefix}_flow", self._bijection, params=self._start, base=self.get_base_dist())

    def get_transform(self, params: dict[str, Any]) -> FlowTransform:
        """The trained map from the base to the unconstrained latents; ``.bijection`` and ``.params`` can be saved."""
        return FlowTransform(self._bijection, params[f"{self.prefix}_flow"])

    def get_posterior(self, params: dict[str, Any]) -> Flow:
        """Distribution of the unconstrained latent vector, ``(latent_dim,)``."""
        return Flow(self.get_transform(params), base=self.get_base_dist())

    def median(self, params: dict[str, Any]) -> dict[str, jax.Array]:
        """Median of each latent, ``{site: value}``, estimated from draws."""
        return self.quantiles(params, 0.5)

    def quantiles(self, params: dict[str, Any], quantiles: Any) -> dict[str, jax.Array]:
        """Quantiles of each latent, ``{site: (len(quantiles), *shape)}``, or ``{site: shape}`` for a single level.

        Estimated from draws. As in the host's guides they are taken per unconstrained coordinate and then constrained.
        """
        draws = self.get_posterior(params).sample(jax.random.key(self._seed), (QUANTILE_DRAWS,))
        levels = jnp.asarray(quantiles)
        rows = jnp.quantile(draws, jnp.atleast_1d(levels), axis=0)
        values = {
            name: biject_to(self.prototype_trace[name]["fn"].support)(unconstrained)
            for name, unconstrained in jax.vmap(self._unpack_latent)(rows).items()
        }
        return values if levels.ndim else {name: value[0] for name, value in values.items()}
