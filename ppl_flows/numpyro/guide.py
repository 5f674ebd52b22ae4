"""``AutoFlow``: a normalizing flow as an automatic guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_median, init_to_value
from numpyro.infer.util import initialize_model
from numpyro.primitives import Messenger

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed
from ppl_flows.core.params import map_params, merge, split
from ppl_flows.inference.auto_flow import check_guide, check_start, guide_bijection, guide_params
from ppl_flows.inference.gaussian_start import FULL_RANK_DIM, Gaussian, find_gaussian, gaussian_of_draws
from ppl_flows.inference.gradient_estimators import NEAR_POSTERIOR
from ppl_flows.inference.neutral_supports import check_sites
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_fits import SavedFit, SavedSite
from ppl_flows.inference.saved_results import gaussian_of
from ppl_flows.inference.short_reprs import guide_repr, unset_guide_repr
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.compile_once import check_not_jitted
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.lazy_guide import HideEnumerated, LazyGuide, is_subsampled
from ppl_flows.numpyro.load_fit import load_fit
from ppl_flows.numpyro.log_density import LogDensity
from ppl_flows.numpyro.neutral_supports import SUPPORTS
from ppl_flows.numpyro.transform import FlowTransform

QUANTILE_DRAWS = 10_000


class AutoFlow(LazyGuide, AutoContinuous):
    """Guide over all latent variables: a flow, then an affine map that places it near the posterior.

    At its first call the guide looks for a Gaussian near the posterior, which costs some thousand gradients of the
    model's log density, and keeps it as its last, fixed map; the flow before it starts next to the identity. Its
    parameters are one site, ``{prefix}_flow``.

    Args:
        model: a NumPyro model; none of its latents is local to a sub-sampled plate. They are continuous, or discrete
            and marked ``infer={"enumerate": "parallel"}``: those the guide leaves out, as ``fit`` sums over them.
        flow: a recipe such as ``pf.iaf``, or any callable ``dim -> Bijection`` (``lambda d: pf.nsf(d, bins=4)``).
            None: ``pf.guide_flow``.
        quality: ``"quick"``, ``"standard"`` or ``"thorough"``: size of the default flow, and the steps and particles
            that ``fit`` takes unless it is told otherwise.
        start: where to begin. ``"full_rank"`` or ``"mean_field"``: a Gaussian found from several initial points by
            optimisation and Batch-and-Match; ``"laplace"``: mode and curvature; ``"init"``: the values of
            ``init_loc_fn`` with ``init_scale``; or draws, ``{site: (n, *site shape)}``, whose mean and covariance it
            takes; or a ``Gaussian`` of the latent vector. ``"auto"``: full-rank up to 200 dimensions and mean-field
            above; ``"init"`` where the log density is not a function of the latents alone
            (sub-sampled plates, a call inside ``jit``). ``guide.start`` says which.
        prefix: of the guide's own sites. None: ``auto_`` and the model's first latent site, so that several guides
            in one ``AutoGuideList`` have names of their own.
        init_loc_fn: the host's per-site initialisation: one of the initial points. Where the model cannot be run or has
            no finite density there, uniform draws from (-2, 2) on the unconstrained scale take its place.
        init_scale: for ``"init"``: standard deviation of the first draws, on the unconstrained scale.
        seed: of the flow's initial weights and of the start.

    Raises:
        ValueError: at the first call: latents local to a sub-sampled plate; a discrete latent that is not marked; a
            flow of the wrong size; a log density that is finite nowhere; a start that the model does not allow.
        TypeError: at the first call: ``flow`` gives something else than a Bijection.
        RuntimeError: a method that needs the set-up, before it.

    Example:
        >>> import jax, numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import AutoFlow
        >>> guide = AutoFlow(lambda: numpyro.sample("z", dist.Normal(0.0, 1.0)), pf.iaf)
        >>> numpyro.handlers.seed(guide, jax.random.key(0))()["z"].shape
        ()
    """

    prefix: str | None
    model: HideEnumerated
    _gaussian: Gaussian | None = None
    _file: SavedFit | None = None  # that it was loaded from

    def __init__(
        self,
        model: Callable[..., Any],
        flow: Callable[[int], Bijection] | None = None,
        *,
        quality: str = "standard",
        start: str | Mapping[str, Any] | Gaussian = "auto",
        prefix: str | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_guide(quality, start, init_scale)
        checked_seed("AutoFlow", seed)
        check_not_jitted(model)
        super().__init__(HideEnumerated(model), prefix=prefix, init_loc_fn=init_loc_fn)
        self._bare = model
        self.quality, self.start = quality, start
        self._recipe = flow
        self._init_scale = init_scale
        self._seed = seed

    def _see_model(self, host: Callable[[], None]) -> None:
        try:
            super()._see_model(host)
        except ValueError as error:
            if "local latent variables" not in str(error):
                raise
            raise ValueError(
                "AutoFlow: a latent is local to a sub-sampled plate, and one flow over all latents cannot follow the "
                "rows drawn. Run the plate at full size, or use AutoLocalFlow."
            ) from error

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.prefix is None:
            self.prefix = f"auto_{next(iter(self._init_locs))}"
        if self._file is not None:
            check_sites(self._file.sites, self.latent_sites())
            self._bijection, self._start = self._file.bijection, self._file.params
            self.start, self._gaussian = self._file.start, gaussian_of(self._file)
            return
        self._bijection = guide_bijection(self._recipe, self.latent_dim, self.quality)
        gaussian = self._gaussian = self._first_gaussian(args, kwargs)
        self._start = guide_params(self._bijection, gaussian, self._seed, fixed=self.start != "init")

    def _first_gaussian(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Gaussian:
        if isinstance(self.start, Gaussian):
            gaussian, self.start = self.start, "given"
            return gaussian
        if isinstance(self.start, Mapping):
            latents = {name: jnp.shape(self.prototype_trace[name]["value"]) for name in self._init_locs}
            check_start(self.start, latents, self.prototype_trace)
            maps = {name: biject_to(self.prototype_trace[name]["fn"].support) for name in latents}
            draws = {name: to_array(self.start[name]) for name in latents}
            # in the host's order: a pytree would be sorted by name
            rows = jax.vmap(lambda site: jnp.concatenate([jnp.ravel(maps[n].inv(site[n])) for n in maps]))(draws)
            self.start = "draws"
            return gaussian_of_draws(np.asarray(rows, dtype=np.float64))
        obstacle = self._obstacle(args, kwargs)
        if self.start == "auto":
            self.start = "init" if obstacle else "full_rank" if self.latent_dim <= FULL_RANK_DIM else "mean_field"
        if self.start == "init":
            return Gaussian(self._init_latent, np.full(self.latent_dim, self._init_scale))
        if obstacle:
            raise ValueError(f"AutoFlow: start={self.start!r} is not possible: {obstacle}; use start='init'.")
        potential = self._potential(args, kwargs)
        density = LogDensity(lambda z: -potential(self._unpack_latent(z)), self._init_latent.dtype)
        # not in the trace that this call is part of; and without the host's checks, which programs would only trace
        with handlers.block(), numpyro.validation_enabled(False):
            return find_gaussian(self.start, density, np.asarray(self._init_latent, dtype=np.float64), self._seed)

    def _obstacle(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """What makes the log density no function of the latents alone."""
        if isinstance(self._init_latent, jax.core.Tracer):
            return "the guide is set up inside a traced function"
        if is_subsampled(self.prototype_trace):
            return "the likelihood is sub-sampled"
        return "the model draws numbers that the guide does not" if self._hides_draws(args, kwargs) else None

    def _hides_draws(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a ``block`` around the model keeps latent sites from the guide, as in an ``AutoGuideList``."""
        inner = self._bare
        while isinstance(inner, Messenger) and not isinstance(inner, handlers.block):
            inner = inner.fn
        if not isinstance(inner, handlers.block):
            return False
        with handlers.block():
            trace = handlers.trace(handlers.seed(inner.fn, 0)).get_trace(*args, **kwargs)
        latents = {n for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        return not latents <= self.prototype_trace.keys() | self.model.names

    def _potential(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[dict[str, Any]], jax.Array]:
        """The potential energy of the unconstrained sites, with enumerated ones summed over."""
        if not self.model.names:
            return self._potential_fn
        values = {name: self.prototype_trace[name]["value"] for name in self._init_locs}
        with handlers.block():
            return initialize_model(
                jax.random.key(self._seed),
                self._bare,
                init_strategy=init_to_value(values=values),
                model_args=args,
                model_kwargs=kwargs,
            ).potential_fn

    @classmethod
    def load(cls, path: Path, model: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[AutoFlow, FitResult]:
        """The guide and the result of a fit that ``result.save(path)`` has written, in either language.

        ``fit(model, guide, ...)`` goes on from there, the model's parameters by ``init_params=result.params``. The
        result draws; with the model's arguments it also reweights, and computes deterministic sites.

        Args:
            path: the file.
            model, *args, **kwargs: that of the fit, with the same latent sites in the same order. Without its arguments
                they are compared at the guide's first call.

        Raises:
            ValueError: the model has other sites, the difference named; a support that NumPyro cannot map, by the name
                of the site; a file of something else, or that is damaged.

        Example:
            >>> import tempfile, numpyro, numpyro.distributions as dist, ppl_flows as pf
            >>> from ppl_flows.numpyro import AutoFlow, fit
            >>> model = lambda: numpyro.sample("z", dist.Normal(0.0, 1.0))
            >>> path = tempfile.mkdtemp() + "/fit.safetensors"
            >>> fit(model, AutoFlow(model, pf.iaf), steps=5, draws=100, progress=False).save(path)
            >>> guide, result = AutoFlow.load(path, model)
            >>> result.sample(3)["z"].shape
            (3,)
        """

        def make(saved: SavedFit) -> AutoFlow:
            init = init_to_value(values={site.name: to_array(site.value) for site in saved.sites})
            guide = cls(model, quality=saved.quality, prefix=saved.prefix, init_loc_fn=init, seed=saved.seed)
            guide._file = saved
            return guide

        return load_fit(make, path, model, args, kwargs)

    def latent_sites(self) -> list[SavedSite]:
        """The sites of the latent vector, in its order."""
        self._check_set_up()
        trace = self.prototype_trace
        return [SUPPORTS.site(name, trace[name]["fn"], trace[name]["value"]) for name in self._init_locs]

    @property
    def bijection(self) -> Bijection:
        """From a standard normal to the latent vector."""
        return self._bijection

    def __repr__(self) -> str:
        if self.prototype_trace is None:
            return unset_guide_repr("AutoFlow", self.quality)
        return guide_repr("AutoFlow", f"{self.latent_dim} latents", str(self.start), self.quality, self._bijection)

    @property
    def near_posterior(self) -> Gaussian | None:
        """The Gaussian near the posterior that the guide started at; None where it had none."""
        return None if self.start == "init" else self._gaussian

    def get_base_dist(self) -> dist.Distribution:
        """Standard normal over the latent vector."""
        self._check_set_up()
        dtype = self._init_latent.dtype
        return dist.Normal(jnp.zeros(self.latent_dim, dtype), jnp.ones(self.latent_dim, dtype)).to_event(1)

    def _get_posterior(self) -> Flow:
        # under a handler as a function of the key, as a dict is no array that the host's `param` could check
        params = numpyro.param(f"{self.prefix}_flow", lambda _: map_params(lambda _, a: to_array(a), self._start))
        weights, state = split(params)
        params = merge(weights, jax.tree.map(lax.stop_gradient, state))  # no gradient: optimisers leave it alone
        return Flow(self._bijection, params, base=self.get_base_dist())

    def _sample_latent(self, *args: Any, sample_shape: tuple[int, ...] = (), **kwargs: Any) -> jax.Array:
        posterior = self._get_posterior().expand_by(sample_shape)
        infer = {"is_auxiliary": True, NEAR_POSTERIOR: self.start != "init"}
        return numpyro.sample(f"_{self.prefix}_latent", posterior, infer=infer)

    def get_transform(self, params: dict[str, Any]) -> FlowTransform:
        """The trained map from the base to the unconstrained latents; ``.bijection`` and ``.params`` can be saved."""
        self._check_set_up()
        return FlowTransform(self._bijection, params[f"{self.prefix}_flow"])

    def get_posterior(self, params: dict[str, Any]) -> Flow:
        """Distribution of the unconstrained latent vector, ``(latent_dim,)``."""
        return Flow(self.get_transform(params), base=self.get_base_dist())

    def sample_posterior(self, rng_key: Any, params: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """Posterior draws, ``{site: (*sample_shape, *site shape)}``, of latent and deterministic sites."""
        self._check_set_up()
        draws: dict[str, jax.Array] = super().sample_posterior(rng_key, params, *args, **kwargs)
        return draws

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
