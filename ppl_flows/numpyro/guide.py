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
from numpyro.infer.autoguide import AutoContinuous
from numpyro.infer.initialization import init_to_median, init_to_value

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed
from ppl_flows.core.params import merge, split
from ppl_flows.core.types import Params
from ppl_flows.inference.auto_flow import Quality, check_guide, guide_bijection, guide_params, sized, with_map
from ppl_flows.inference.cover_modes import check_modes
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.gradient_estimators import NEAR_POSTERIOR
from ppl_flows.inference.kl_estimate import Near
from ppl_flows.inference.model_map import ModelMap, loaded_map, same_arguments
from ppl_flows.inference.neutral_supports import check_sites
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_fits import SavedFit
from ppl_flows.inference.saved_results import whole_flow
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.inference.short_reprs import guide_repr, unset_guide_repr
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.compile_once import check_not_jitted
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.guide_modes import GuideOfModes
from ppl_flows.numpyro.guide_start import first_start, guide_map
from ppl_flows.numpyro.informed import ways
from ppl_flows.numpyro.lazy_guide import HideEnumerated, LazyGuide
from ppl_flows.numpyro.load_fit import load_fit
from ppl_flows.numpyro.mixture import MixtureFlow, RegionFlow
from ppl_flows.numpyro.neutral_supports import SUPPORTS
from ppl_flows.numpyro.see_model import SeesModel
from ppl_flows.numpyro.transform import FlowTransform


class AutoFlow(GuideOfModes, LazyGuide, AutoContinuous, SeesModel):
    """Guide over all latent variables: a flow, an affine map that places it near the posterior, and the model's priors.

    At its first call the guide looks for a Gaussian near the posterior, which costs some thousand gradients of the
    model's log density, and keeps it as a fixed map; the flow before it starts next to the identity. After it, sites
    whose prior has a location and a scale that depend on earlier sites are placed by these (``informed``), which wants
    one run of the model per draw. Its parameters are one site, ``{prefix}_flow``.

    Args:
        model: a NumPyro model; none of its latents is local to a sub-sampled plate. They are continuous, or discrete
            and marked ``infer={"enumerate": "parallel"}``: those the guide leaves out, as ``fit`` sums over them.
        flow: a recipe such as ``pf.iaf``, or any callable ``dim -> Bijection`` (``lambda d: pf.nsf(d, bins=4)``).
            None: ``pf.guide_flow``.
        quality: ``"quick"``, ``"standard"`` or ``"thorough"``: size of the default flow, and the steps and particles
            that ``fit`` takes unless it is told otherwise.
        start: where to begin. ``"full_rank"``, ``"low_rank"`` (plus a diagonal) or ``"mean_field"``: a Gaussian found
            from several initial points by optimisation and matching of scores; ``"laplace"``: mode and curvature;
            ``"init"``: the values of ``init_loc_fn`` with ``init_scale``; or draws, ``{site: (n, *site shape)}``, whose
            mean and covariance it takes; or a ``Gaussian`` of the latent vector. ``"auto"``: full-rank up to 400
            dimensions (above 200, sites placed by their priors: only if covariances gain a nat, else mean-field) and
            low-rank above; ``"init"`` where sub-sampled plates make the density random. ``guide.start`` says which.
        informed: whether the model places sites: by their priors, or a block by its log density, run with the
            arguments of the call or the set-up. ``"auto"``: where the start is searched for, and its Gaussian has the
            larger ELBO like that. ``guide.informed`` names the sites.
        modes: how many modes of the posterior the guide covers, each by a flow of its own, under one mixture density.
            ``"auto"``: those that optimisations find, more of them while new ones turn up; a number: the largest. With
            several, nothing is placed by the model, and ``get_transform``, NeuTra and the host's own SVI are refused.
        prefix: of the guide's own sites. None: ``auto_`` and the model's first latent site, so that several guides
            in one ``AutoGuideList`` have names of their own.
        init_loc_fn: the host's per-site initialisation: one of the initial points. Where the model cannot be run or has
            no finite density there, uniform draws from (-2, 2) on the unconstrained scale take its place.
        init_scale: for ``"init"``: standard deviation of the first draws, on the unconstrained scale.
        seed: of the flow's initial weights and of the start.

    Raises:
        ValueError: at the first call: latents local to a sub-sampled plate; a discrete latent that is not marked; a
            flow of the wrong size; a log density that is finite nowhere; a start that the model does not allow;
            ``informed=True`` where no site can be placed.
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
    kl_of_start: float = np.nan  # KL(Gaussian of the start || posterior) in nats, about
    _gaussian: Gaussian | None = None
    _map: ModelMap | None = None
    _file: SavedFit | None = None  # that it was loaded from

    def __init__(
        self,
        model: Callable[..., Any],
        flow: Callable[[int], Bijection] | None = None,
        *,
        quality: str = "standard",
        start: str | Mapping[str, Any] | Gaussian = "auto",
        informed: bool | str = "auto",
        modes: int | str = 1,
        prefix: str | None = None,
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_guide(quality, start, init_scale, informed)
        check_modes(modes, start, informed)
        checked_seed("AutoFlow", seed)
        check_not_jitted(model)
        super().__init__(HideEnumerated(model), prefix=prefix, init_loc_fn=init_loc_fn)
        self._bare = model
        self.quality, self.start = quality, start
        self._recipe, self._wish, self._modes = flow, informed, modes
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
        self._arguments = args, kwargs
        if self._file is not None:
            check_sites(self._file.sites, self.latent_sites())
            if self._file.placed:
                self._map = loaded_map(self._file.placed, self._file.map_params, guide_map(self, args, kwargs))
            self._set_flows(*whole_flow(self._file, self._map), self._file.log_weights)
            self.start, self._gaussian = self._file.start, self._file.gaussian
            return
        if self._modes != 1 and len(found := self._find_modes(self._modes, args, kwargs)) > 1:
            return self._cover(found)
        start = first_start(self, self._wish, args, kwargs)
        self._map, self._gaussian, self.kl_of_start = start.informed, start.gaussian, start.gaussian.kl
        self._bijection = guide_bijection(self._recipe, self.latent_dim, self.size.flow_layers, self._map)
        fixed = self.start != "init"
        self._start = guide_params(self._bijection, start.gaussian, self._seed, fixed=fixed, seen=start.observations)

    @classmethod
    def load(cls, path: Path, model: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[AutoFlow, FitResult]:
        """The guide and the result of a fit that ``result.save(path)`` has written, in either language.

        ``fit(model, guide, ...)`` goes on from there, the model's parameters by ``init_params=result.params``. The
        result draws; with the model's arguments it also reweights, and computes deterministic sites.

        Args:
            path: the file.
            model, *args, **kwargs: of the fit, with the same latent sites; without arguments compared when called.

        Raises:
            ValueError: the model has other sites, the difference named; a support that NumPyro cannot map, by the name
                of the site; a file of something else, or that is damaged.

        Example:
            >>> import tempfile, numpyro, numpyro.distributions as dist, ppl_flows as pf
            >>> from ppl_flows.numpyro import AutoFlow, fit
            >>> model = lambda: numpyro.sample("z", dist.Normal(0.0, 1.0))
            >>> guide = AutoFlow(model, pf.TriangularAffine, start="init")
            >>> path = tempfile.mkdtemp() + "/fit.safetensors"
            >>> fit(model, guide, steps=2, draws=100, progress=False).save(path)
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

    @property
    def size(self) -> Quality:
        """Layers of the default flow, and steps and particles of ``fit``, as quality and start have them."""
        if self.num_modes > 1:
            return self._size_of_modes
        kl, dim = (np.nan, 1) if self.prototype_trace is None else (self.kl_of_start, self.latent_dim)
        return sized(self.quality, kl, dim, self._map)

    @property
    def informed(self) -> tuple[str, ...]:
        """The sites that are placed by their priors, or by the model's log density."""
        return () if self._map is None else self._map.placed

    def __repr__(self) -> str:
        if self.prototype_trace is None:
            return unset_guide_repr("AutoFlow", self.quality)
        size = f"{self.latent_dim} latents"
        return guide_repr("AutoFlow", size, str(self.start), self.quality, self._bijection, informed=self.informed)

    @property
    def near_posterior(self) -> Gaussian | None:
        """That the guide started at, of the latent vector, or of its coordinates if ``informed``; None: it had none."""
        return None if self.start == "init" else self._gaussian

    def near(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> tuple[Near, ...]:
        """The same, with the way from coordinates to the latent vector at trained ``params`` and these arguments."""
        if self.num_modes > 1:
            return tuple(map(Near, self._gaussians))
        if self.near_posterior is None or self._map is None:
            return () if self.near_posterior is None else (Near(self.near_posterior),)
        whole: Any = self.get_transform(params, *args, **kwargs)
        return (Near(self.near_posterior, *ways(FlowTransform(whole.bijection.parts[-1], whole.params["informed"]))),)

    def get_base_dist(self) -> dist.Distribution:
        """Standard normal over the latent vector."""
        self._check_set_up()
        dtype = self._init_latent.dtype
        return dist.Normal(jnp.zeros(self.latent_dim, dtype), jnp.ones(self.latent_dim, dtype)).to_event(1)

    def _get_posterior(self, *args: Any, **kwargs: Any) -> Flow | MixtureFlow | RegionFlow:
        # under a handler as a function of the key, as a dict is no array that the host's `param` could check
        params = numpyro.param(f"{self.prefix}_flow", lambda _: self._first_params())
        if self.num_modes > 1:
            return self._mixture(params)
        weights, state = split(params)
        params = merge(weights, jax.tree.map(lax.stop_gradient, state))  # no gradient: optimisers leave it alone
        sites = {n: self.prototype_trace[n] for n in self._map_params}
        model = {n: numpyro.param(n, site["value"], **site["kwargs"]) for n, site in sites.items()}
        return Flow(self._bijection_at(args, kwargs), self._with_model_params(params, model), base=self.get_base_dist())

    def _bijection_at(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bijection:
        """With the model's arguments of a call; of the set-up, where it has none."""
        if self._map is None or not (args or kwargs) or same_arguments((args, kwargs), self._arguments):
            return self._bijection
        return with_map(self._bijection, self._map.with_arguments(args, kwargs))

    @property
    def _map_params(self) -> list[str]:
        """Parameters of the model that its map may read."""
        sites = {} if self._map is None else self.prototype_trace
        return [name for name, site in sites.items() if site["type"] == "param"]

    def _with_model_params(self, params: Params, model: dict[str, Any]) -> Params:
        """The flow's, with the model's own."""
        values = {f"{i}": leaf for i, leaf in enumerate(jax.tree.leaves({n: model[n] for n in self._map_params}))}
        return {**params, "informed": {**params["informed"], "model": values}} if values else params

    def _sample_latent(self, *args: Any, sample_shape: tuple[int, ...] = (), **kwargs: Any) -> jax.Array:
        posterior = self._get_posterior(*args, **kwargs).expand_by(sample_shape)
        infer = {"is_auxiliary": True, NEAR_POSTERIOR: self.start != "init"}
        return numpyro.sample(f"_{self.prefix}_latent", posterior, infer=infer)

    def get_transform(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> FlowTransform:
        """The map from the base to the unconstrained latents, at trained ``params``.

        ``.bijection`` and ``.params`` can be saved, unless the model has a part in it: ``informed``. Then the map is
        that of these arguments of the model, or of those of the set-up.
        """
        self._check_set_up()
        self._check_one_transform()
        flow = self._with_model_params(params[f"{self.prefix}_flow"], params)
        return FlowTransform(self._bijection_at(args, kwargs), flow)

    def get_posterior(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> Flow | MixtureFlow | RegionFlow:
        """Distribution of the unconstrained latent vector, ``(latent_dim,)``, at ``params`` and these arguments."""
        self._check_set_up()
        if self.num_modes > 1:
            return self._mixture(params[f"{self.prefix}_flow"])
        return Flow(self.get_transform(params, *args, **kwargs), base=self.get_base_dist())

    def sample_posterior(self, rng_key: Any, params: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """Draws by a ``rng_key``, ``{site: (*sample_shape, *site shape)}``, at ``params`` and these arguments."""
        self._check_set_up()
        shape = kwargs.pop("sample_shape", ())
        vectors = self.get_posterior(params, *args, **kwargs).sample(rng_key, shape)
        draws: dict[str, jax.Array] = self._unpack_and_constrain(vectors, params)
        return draws
