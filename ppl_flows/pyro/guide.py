"""``AutoFlow``: a normalizing flow as an automatic guide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoContinuous
from pyro.infer.autoguide.initialization import init_to_median, init_to_value
from pyro.poutine.runtime import am_i_wrapped

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.checks import checked_seed
from ppl_flows.core.params import map_params, merge, split
from ppl_flows.inference.auto_flow import Quality, check_guide, guide_bijection, guide_params, sized, with_map
from ppl_flows.inference.cover_modes import check_modes
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.gradient_estimators import NEAR_POSTERIOR
from ppl_flows.inference.kl_estimate import Near
from ppl_flows.inference.model_map import ModelMap, loaded_map, same_arguments
from ppl_flows.inference.neutral_supports import check_sites
from ppl_flows.inference.results import FitResult, Path
from ppl_flows.inference.saved_fits import SavedFit
from ppl_flows.inference.saved_sites import SavedSite
from ppl_flows.inference.short_reprs import guide_repr, unset_guide_repr
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.guide_modes import GuideOfModes
from ppl_flows.pyro.guide_start import first_start, guide_map, loaded_start
from ppl_flows.pyro.informed import ways
from ppl_flows.pyro.lazy_guide import LazyGuide
from ppl_flows.pyro.load_fit import load_fit, set_model_params, transform_of
from ppl_flows.pyro.mixture import ApartFlows, MixtureFlow
from ppl_flows.pyro.neutral_supports import SUPPORTS
from ppl_flows.pyro.transform import FlowTransform


class AutoFlow(GuideOfModes, LazyGuide, AutoContinuous):
    """Guide over all latent variables: a flow, an affine map that places it near the posterior, and the model's priors.

    At its first call the guide looks for a Gaussian near the posterior, which costs some thousand gradients of the
    model's log density, and keeps it as a fixed map, in buffers; the flow before it starts next to the identity. After
    it, sites whose prior has a location and a scale that depend on earlier sites are placed by these (``informed``),
    which wants one run of the model for all draws. After ``load_state_dict``, which may come before that call, it looks
    for none. Pyro's parameter store does not have the fixed map, so ``state_dict`` is what to save.

    Args:
        model: a Pyro model; none of its latents is local to a sub-sampled plate. They are continuous, or discrete and
            marked ``infer={"enumerate": "parallel"}``: those the guide leaves out, as ``fit`` sums over them.
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
        init_loc_fn: the host's per-site initialisation: one of the initial points. Where the model cannot be run there,
            uniform draws from (-2, 2) on the unconstrained scale take its place.
        init_scale: for ``"init"``: standard deviation of the first draws, on the unconstrained scale.
        seed: of the flow's initial weights and of the start.

    Raises:
        ValueError: at the first call: latents local to a sub-sampled plate; a discrete latent that is not marked; a
            name that Pyro's parameter store has already; a flow of the wrong size; a log density that is finite
            nowhere; a start that the model does not allow; ``informed=True`` where no site can be placed.
        TypeError: at the first call: ``flow`` gives something else than a Bijection.
        RuntimeError: a method that needs the set-up, before it.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoFlow
        >>> pyro.clear_param_store()
        >>> guide = AutoFlow(lambda: pyro.sample("z", dist.Normal(0.0, 1.0)), pf.iaf)
        >>> guide()["z"].shape
        torch.Size([])
    """

    prototype_trace: Any
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
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_guide(quality, start, init_scale, informed)
        check_modes(modes, start, informed)
        checked_seed("AutoFlow", seed)
        super().__init__(model, init_loc_fn=init_loc_fn)
        self._bare, self._init_loc_fn = (model,), init_loc_fn
        self.quality, self.start = quality, start
        self._recipe, self._wish, self._modes = flow, informed, modes
        self._init_scale = init_scale
        self._seed = seed

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._check_plates()
        loc = self._init_loc()
        self._arguments = args, kwargs
        if self._file is None:
            self.transform = self._first_transform(loc, args, kwargs)
        else:
            check_sites(self._file.sites, self.latent_sites())
            set_model_params(self._file)
            if self._file.placed:
                self._map = loaded_map(self._file.placed, self._file.map_params, guide_map(self, loc, args, kwargs))
            self.transform, self._gaussian = transform_of(self._file, loc, self._map), self._file.gaussian
            self.start = self._file.start
            if self._file.log_weights is not None:
                self._set_weights(self._file.log_weights, loc)
        self.register_buffer("_zeros", torch.zeros_like(loc), persistent=False)

    def _first_transform(self, loc: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FlowTransform:
        if self._modes != 1 and len(modes := self._find_modes(self._modes, args, kwargs)) > 1:
            return self._cover(modes, loc)
        if self._saved is None:
            start = first_start(self, self._wish, loc, args, kwargs)
            self._map, self._gaussian, self.kl_of_start = start.informed, start.gaussian, start.gaussian.kl
            layers = self.size.flow_layers
        else:
            start, self._map, layers = loaded_start(self, self._saved[0], loc, args, kwargs)
        bijection = guide_bijection(self._recipe, self.latent_dim, layers, self._map)
        fixed = self.start != "init"
        params = guide_params(bijection, start.gaussian, self._seed, fixed=fixed, seen=start.observations)
        weights, state = split(params)
        weights = map_params(lambda _, a: torch.nn.Parameter(torch.tensor(a).to(loc)), weights)
        state = map_params(lambda _, a: torch.tensor(a).to(loc), state)
        return FlowTransform(bijection, merge(weights, state))

    def _check_plates(self) -> None:
        for name, stack in self._cond_indep_stacks.items():
            for frame in stack:
                if frame.full_size is not None and frame.full_size != frame.size:
                    raise ValueError(
                        f"AutoFlow: latent {name!r} is local to plate {frame.name!r}, which is sub-sampled "
                        f"({frame.size} of {frame.full_size}): one flow over all latents would silently fit the "
                        "wrong rows. Run the plate at full size, or use AutoLocalFlow."
                    )

    @classmethod
    def load(cls, path: Path, model: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[AutoFlow, FitResult]:
        """The guide and the result of a fit that ``result.save(path)`` has written, in either language.

        The guide goes on by ``fit(model, guide, ...)``. The result draws; it reweights, and computes deterministic
        sites, where it has the model's arguments.

        Args:
            path: the file.
            model, *args, **kwargs: of the fit, with the same latent sites; without arguments compared when called.

        Raises:
            ValueError: the model has other sites, the difference named; a support that Pyro cannot map, by the name of
                the site; a file of something else; parameters of a guide of this name in Pyro's store.
            FileFormatError, OSError: a damaged or newer file, which is a ValueError too; what the system refuses.

        Example:
            >>> import tempfile, pyro, pyro.distributions as dist, ppl_flows as pf
            >>> from ppl_flows.pyro import AutoFlow, fit
            >>> pyro.clear_param_store()
            >>> model = lambda: pyro.sample("z", dist.Normal(0.0, 1.0))
            >>> guide = AutoFlow(model, pf.TriangularAffine, start="init")
            >>> path = tempfile.mkdtemp() + "/fit.safetensors"
            >>> fit(model, guide, steps=2, draws=100, progress=False).save(path)
            >>> pyro.clear_param_store()
            >>> guide, result = AutoFlow.load(path, model)
            >>> result.sample(3)["z"].shape
            torch.Size([3])
        """

        def make(saved: SavedFit) -> AutoFlow:
            values = {site.name: torch.as_tensor(site.value).to(torch.get_default_dtype()) for site in saved.sites}
            guide = cls(model, quality=saved.quality, init_loc_fn=init_to_value(values=values), seed=saved.seed)
            guide._file = saved
            return guide

        return load_fit(make, path, model, args, kwargs)

    def latent_sites(self) -> list[SavedSite]:
        """The sites of the latent vector, in its order."""
        self._check_set_up()
        nodes = self.prototype_trace.iter_stochastic_nodes()
        return [SUPPORTS.site(name, node["fn"], node["value"]) for name, node in nodes]

    @property
    def bijection(self) -> Bijection:
        """From a standard normal to the latent vector."""
        self._check_set_up()
        return self.transform.bijection

    def parameter_name(self, leaf: str) -> str:
        """What Pyro's store calls the parameter ``leaf`` of the transform."""
        return f"{self._pyro_name}.transform$$${leaf}"  # as PyroModule makes it, once it is called

    def __repr__(self) -> str:
        if self.prototype_trace is None:
            return unset_guide_repr("AutoFlow", self.quality)
        size, bijection = f"{self.latent_dim} latents", self.transform.bijection
        return guide_repr("AutoFlow", size, str(self.start), self.quality, bijection, informed=self.informed)

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

    @property
    def near_posterior(self) -> Gaussian | None:
        """That the guide started at, of the latent vector, or of its coordinates if ``informed``; None: it had none."""
        return None if self.start == "init" else self._gaussian

    def near(self, *args: Any, **kwargs: Any) -> tuple[Near, ...]:
        """The same, with the trained way from coordinates to the latent vector at these arguments of the model."""
        if self.num_modes > 1:
            return tuple(map(Near, self._gaussians))
        if self.near_posterior is None or self._map is None:
            return () if self.near_posterior is None else (Near(self.near_posterior),)
        whole: Any = self.get_transform(*args, **kwargs)
        return (Near(self.near_posterior, *ways(whole.bijection.parts[-1], whole.params["informed"])),)

    def get_base_dist(self) -> dist.Distribution:
        """Standard normal over the latent vector."""
        self._check_set_up()
        return dist.Normal(self._zeros, torch.ones_like(self._zeros)).to_event(1)

    def get_transform(self, *args: Any, **kwargs: Any) -> FlowTransform:
        """The trained map from the base to the unconstrained latents.

        ``.bijection`` and ``.params`` can be saved, unless the model has a part in it: ``informed``. Then the map is
        that of these arguments of the model, or of those of the set-up.
        """
        self._check_set_up()
        self._check_one_transform()
        transform: FlowTransform = self.transform
        if self._map is None or not (args or kwargs) or same_arguments((args, kwargs), self._arguments):
            return transform
        bijection: Any = transform.bijection
        return FlowTransform(with_map(bijection, self._map.with_arguments(args, kwargs)), transform.params)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Flow | MixtureFlow | ApartFlows:
        """Distribution of the unconstrained latent vector, ``(latent_dim,)``, at these arguments of the model."""
        self._check_set_up()
        # once: inside a model this registers every parameter
        transform = self.get_transform(*args, **kwargs) if self.num_modes == 1 else self.transform
        if am_i_wrapped():
            self._check_name_is_free(transform)
        if self.num_modes > 1:
            return self._mixture(transform)
        return Flow(transform, base=self.get_base_dist())

    def sample_latent(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Draws the unconstrained latent vector at these arguments of the model."""
        infer: Any = {"is_auxiliary": True, NEAR_POSTERIOR: self.start != "init"}
        return pyro.sample(f"_{self._pyro_name}_latent", self.get_posterior(*args, **kwargs), infer=infer)

    def _check_name_is_free(self, transform: FlowTransform) -> None:
        """Pyro's parameter store is global: a second guide of the same name would never train, without a word."""
        leaf, parameter = next(iter(transform.named_parameters()))
        name = self.parameter_name(leaf)
        store = pyro.get_param_store()
        if name in store and store[name] is not parameter:
            raise ValueError(
                f"Pyro's parameter store already holds {name!r} of another guide, so this one would not train; "
                "call pyro.clear_param_store() first, or put both guides into one AutoGuideList. To go on from saved "
                "parameters, clear the store and use guide.load_state_dict."
            )
