"""``AutoLocalFlow``: a guide for models with latents of their own for every row of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.distributions.util import sum_rightmost
from numpyro.infer.initialization import init_to_median

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.params import map_params
from ppl_flows.inference.gradient_estimators import NEAR_POSTERIOR
from ppl_flows.inference.local_flow import (
    LocalStart,
    check_local,
    identity_flow,
    local_bijection,
    local_params,
    local_sites,
)
from ppl_flows.inference.short_reprs import guide_repr, unset_guide_repr
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.guide import AutoFlow
from ppl_flows.numpyro.lazy_guide import HideEnumerated, LazyGuide, is_subsampled
from ppl_flows.numpyro.see_model import SeesModel, check_initial_point


class AutoLocalFlow(LazyGuide, SeesModel):
    """Guide for global latents and, for each row of a plate, a local latent vector; the plate may be sub-sampled.

    ``q(z) prod_i q(l_i | z, c_i)``: the globals have an ``AutoFlow``; the locals of all rows share one conditional
    flow, whose context is the vector of globals and what is known of the row: its features, or, without features,
    ``2 * local_dim`` trainable numbers per row. A minibatch gives an unbiased estimate of the whole ELBO and of its
    gradient.

    Args:
        model: a NumPyro model. Its local latents are directly in the plate, which has ``dim=-1``; the global ones are
            in no sub-sampled plate.
        plate: name of the plate of rows.
        features: ``(rows, size)``, for all rows in the plate's order, of order 1: then the cost of the guide does not
            grow with the rows, and a row need not be seen in training. None: trainable numbers instead.
        flow: recipe of the globals' flow, as in ``AutoFlow``.
        local_flow: of the locals': ``(dim, context_dim=...) -> Bijection``. None: ``pf.guide_flow``.
        quality, init_loc_fn, seed: as in ``AutoFlow``.
        start: ``"auto"``: a Gaussian near the posterior of all latents, found as by ``AutoFlow``, where every step sees
            all rows and there are no features; else, and as ``"init"``, the values of ``init_loc_fn``. ``guide.start``
            says which.
        init_scale: for ``"init"``: standard deviation of the first draws, on the unconstrained scale.
        prefix: of the guide's own sites.

    Raises:
        ValueError: an unknown quality or start; at the first call: no such plate, no latents in it, latents in another
            plate inside of it, another ``dim``, or features of another number of rows.
        TypeError: a seed that is no whole number.

    Example:
        >>> import numpyro, numpyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.numpyro import AutoLocalFlow
        >>> from numpyro.handlers import seed
        >>> def model():
        ...     mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", 10, subsample_size=4):
        ...         numpyro.sample("z", dist.Normal(mu, 1.0))
        >>> seed(AutoLocalFlow(model, "rows", flow=pf.TriangularAffine, local_flow=pf.Elementwise), 0)()["z"].shape
        (4,)
    """

    def __init__(
        self,
        model: Callable[..., Any],
        plate: str,
        *,
        features: Any = None,
        flow: Callable[[int], Bijection] | None = None,
        local_flow: Callable[..., Bijection] | None = None,
        quality: str = "standard",
        prefix: str = "auto",
        start: str = "auto",
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_local(features, quality, start, init_scale, seed)
        super().__init__(HideEnumerated(model), prefix=prefix, init_loc_fn=init_loc_fn)
        self._bare = model
        self.quality, self.start = quality, start
        self._plate, self._recipe, self._local_recipe = plate, flow, local_flow
        self._features = None if features is None else to_array(features)
        self._init_scale, self._seed = init_scale, seed
        self._globals: AutoFlow | None = None

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trace = self.prototype_trace
        latents = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}
        stacks = {n: [(f.name, f.dim) for f in s["cond_indep_stack"]] for n, s in latents.items()}
        self._rows = trace[self._plate]["args"][0] if self._plate in trace else 0
        self._locals = local_sites(self._plate, stacks, self._rows, self._features)
        values = {n: biject_to(latents[n]["fn"].support).inv(latents[n]["value"]) for n in self._locals}
        self._shapes = {n: value.shape[1:] for n, value in values.items()}
        loc = np.concatenate([np.asarray(v).mean(0).reshape(-1) for v in values.values()])
        first = self._start_near_posterior(args, kwargs) or LocalStart.around(loc, self._init_scale, self._rows)
        self._global_dim = 0
        if len(latents) > len(values):
            visible = handlers.block(handlers.seed(self.model, 0), hide=[*values])
            self._globals = AutoFlow(
                visible,
                self._recipe,
                quality=self.quality,
                start=first.globals_,
                prefix=f"{self.prefix}_global",
                init_loc_fn=self.init_loc_fn,
                init_scale=self._init_scale,
                seed=self._seed,
            )
            with handlers.block():
                handlers.seed(self._globals, 0)(*args, **kwargs)
            self._global_dim = self._globals.latent_dim
        known = 2 * len(loc) if self._features is None else self._features.shape[-1]
        self._bijection = local_bijection(self._local_recipe, self.quality, len(loc), self._global_dim + known)
        self._local_start = local_params(self._bijection, first, self._seed, free=self._features is None)

    def _start_near_posterior(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LocalStart | None:
        """A start near the posterior, where the log density is a function of all latents."""
        if self.start == "init" or self._features is not None or is_subsampled(self.prototype_trace):
            self.start = "init"
            check_initial_point(self)
            return None
        whole = AutoFlow(
            self._bare, identity_flow, informed=False, prefix="whole", init_loc_fn=self.init_loc_fn, seed=self._seed
        )
        with handlers.block():
            handlers.seed(whole, 0)(*args, **kwargs)
        self.start = str(whole.start)
        near = whole.near_posterior
        if near is None:
            return None
        places = {n: np.asarray(v).astype(int) for n, v in whole._unpack_latent(jnp.arange(whole.latent_dim)).items()}
        return LocalStart.from_gaussian(near, places, self._locals)

    def __repr__(self) -> str:
        if self.prototype_trace is None:
            return unset_guide_repr("AutoLocalFlow", self.quality)
        local = self._bijection
        latents = f"{self._global_dim} global latents, {local.event_shape[0]} for each of {self._rows} rows"
        flows = [self._globals._bijection, local] if self._globals is not None else [local]
        return guide_repr("AutoLocalFlow", latents, self.start, self.quality, *flows)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        size = len(self.prototype_trace[self._plate]["value"])
        return self._draw(size, *args, **kwargs)

    def sample_posterior(
        self, rng_key: Any, params: dict[str, Any], *args: Any, sample_shape: tuple[int, ...] = (), **kwargs: Any
    ) -> dict[str, jax.Array]:
        """Draws by a ``rng_key``, ``{site: (*sample_shape, *site shape)}``, the local ones of all rows.

        At trained ``params``, and these arguments of the model.
        """
        self._check_set_up()

        def one(key: jax.Array) -> dict[str, jax.Array]:
            with handlers.block(), handlers.seed(rng_seed=key), handlers.substitute(data=params):
                return self._draw(self._rows, *args, **kwargs)

        for _ in sample_shape:
            one = jax.vmap(one)
        return one(jax.random.split(rng_key, sample_shape) if sample_shape else rng_key)

    def _draw(self, size: int, /, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """The guide's sites, the local ones for so many rows."""
        with handlers.trace() as seen:
            result = {} if self._globals is None else self._globals(*args, **kwargs)
        vectors = [s["value"] for s in seen.values() if s["type"] == "sample" and s["infer"].get("is_auxiliary")]
        start = lambda _: map_params(lambda _, a: to_array(a), self._local_start)  # noqa: E731
        params = numpyro.param(f"{self.prefix}_local", start)
        with numpyro.plate(self._plate, self._rows, dim=-1, subsample_size=size) as rows:
            known = params["rows"][rows] if self._features is None else self._features[rows]
            contexts = []
            for own in (known, lax.stop_gradient(known)):
                wide = [jnp.broadcast_to(v, (size, v.shape[-1])) for v in vectors]
                contexts.append(jnp.concatenate([*wide, own], axis=-1))
            posterior = Flow(self._bijection, params["flow"], context=contexts[0], path_context=contexts[1])
            infer = {"is_auxiliary": True, NEAR_POSTERIOR: self.start != "init"}
            latent = numpyro.sample(f"_{self.prefix}_local", posterior, infer=infer)
            return result | self._unpack(latent)

    def _unpack(self, latent: jax.Array) -> dict[str, jax.Array]:
        result, at = {}, 0
        for name, shape in self._shapes.items():
            fn = self.prototype_trace[name]["fn"]
            size = int(np.prod(shape))
            unconstrained = latent[..., at : at + size].reshape(*latent.shape[:-1], *shape)
            at += size
            transform = biject_to(fn.support)
            value = transform(unconstrained)
            log_det = transform.log_abs_det_jacobian(unconstrained, value)
            log_det = sum_rightmost(log_det, jnp.ndim(log_det) - jnp.ndim(value) + fn.event_dim)
            result[name] = numpyro.sample(name, dist.Delta(value, log_density=-log_det, event_dim=fn.event_dim))
        return result

    def median(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """Median of each latent, ``{site: value}``, from draws at trained ``params`` and these arguments."""
        return {n: v[0] for n, v in self.quantiles(params, [0.5], *args, **kwargs).items()}

    def quantiles(self, params: dict[str, Any], quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, jax.Array]:
        """Quantiles of each latent, ``{site: (len(quantiles), *shape)}``, drawn at ``params`` and these arguments."""
        draws = self.sample_posterior(jax.random.key(self._seed), params, *args, sample_shape=(1_000,), **kwargs)
        return {name: jnp.quantile(value, jnp.asarray(quantiles), axis=0) for name, value in draws.items()}
