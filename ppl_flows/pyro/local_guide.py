"""``AutoLocalFlow``: a guide for models with latents of their own for every row of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from pyro.infer.autoguide.initialization import InitMessenger, init_to_median
from torch.distributions import biject_to

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
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.guide import AutoFlow
from ppl_flows.pyro.lazy_guide import LazyGuide
from ppl_flows.pyro.transform import FlowTransform
from ppl_flows.torch.params import to_tensor


class AutoLocalFlow(LazyGuide):
    """Guide for global latents and, for each row of a plate, a local latent vector; the plate may be sub-sampled.

    ``q(z) prod_i q(l_i | z, c_i)``: the globals have an ``AutoFlow``; the locals of all rows share one conditional
    flow, whose context is the vector of globals and what is known of the row: its features, or, without features,
    ``2 * local_dim`` trainable numbers per row. A minibatch gives an unbiased estimate of the whole ELBO and of its
    gradient.

    Args:
        model: a Pyro model. Its local latents are directly in the plate, which has ``dim=-1``; the global ones are
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

    Raises:
        ValueError: an unknown quality or start; at the first call: no such plate, no latents in it, latents in another
            plate inside of it, another ``dim``, or features of another number of rows.
        TypeError: a seed that is no whole number.

    Example:
        >>> import pyro, pyro.distributions as dist, ppl_flows as pf
        >>> from ppl_flows.pyro import AutoLocalFlow
        >>> def model():
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", 10, subsample_size=4):
        ...         pyro.sample("z", dist.Normal(mu, 1.0))
        >>> AutoLocalFlow(model, "rows", flow=pf.TriangularAffine, local_flow=pf.Elementwise)()["z"].shape
        torch.Size([4])
    """

    prototype_trace: Any

    def __init__(
        self,
        model: Callable[..., Any],
        plate: str,
        *,
        features: torch.Tensor | None = None,
        flow: Callable[[int], Bijection] | None = None,
        local_flow: Callable[..., Bijection] | None = None,
        quality: str = "standard",
        start: str = "auto",
        init_loc_fn: Callable[..., Any] = init_to_median,
        init_scale: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_local(features, quality, start, init_scale, seed)
        super().__init__(InitMessenger(init_loc_fn)(model))
        self.quality, self.start = quality, start
        self._plate, self._recipe, self._local_recipe = plate, flow, local_flow
        self._bare, self._init_loc_fn = (model,), init_loc_fn
        self._init_scale, self._seed = init_scale, seed
        self.register_buffer("_features", None if features is None else to_tensor(features), persistent=False)
        self._all = False

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        latents = dict(self.prototype_trace.iter_stochastic_nodes())
        stacks = {n: [(f.name, f.dim) for f in s["cond_indep_stack"]] for n, s in latents.items()}
        frame: Any = self._prototype_frames.get(self._plate)
        self._rows = 0 if frame is None else frame.full_size or frame.size
        self._locals = local_sites(self._plate, stacks, self._rows, self._features)
        self._minibatch = frame.size
        values = {n: biject_to(latents[n]["fn"].support).inv(latents[n]["value"]) for n in self._locals}
        self._shapes = {n: value.shape[1:] for n, value in values.items()}
        like = next(iter(values.values()))
        loc = np.concatenate([v.mean(0).reshape(-1).double().cpu().numpy() for v in values.values()])
        first = self._start_near_posterior(args, kwargs) or LocalStart.around(loc, self._init_scale, self._rows)
        self._global_dim = 0
        if len(latents) > len(values):
            self.globals = AutoFlow(
                poutine.block(self.model, hide=[*values]),
                self._recipe,
                quality=self.quality,
                start=first.globals_,
                init_loc_fn=self._init_loc_fn,
                init_scale=self._init_scale,
                seed=self._seed,
            )
            self.globals.master = None  # it makes its own plates, and has no part in this guide's rows
            self.globals._setup_prototype(*args, **kwargs)  # a call would put its parameters into the store
            if self._saved is not None:
                self.globals.start = self.start
            self._global_dim = self.globals.latent_dim
        known = 2 * len(loc) if self._features is None else self._features.shape[-1]
        bijection = local_bijection(self._local_recipe, self.quality, len(loc), self._global_dim + known)
        start = local_params(bijection, first, self._seed, free=self._features is None)
        start = map_params(lambda _, a: torch.tensor(a).to(like), start)
        weights = map_params(lambda n, a: a if "state" in n.split(".") else torch.nn.Parameter(a), start["flow"])
        self.locals = FlowTransform(bijection, weights)
        if self._features is None:
            self.register_parameter("rows", torch.nn.Parameter(start["rows"]))  # an assignment puts it into the store

    def _start_near_posterior(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> LocalStart | None:
        """A start near the posterior, where the log density is a function of all latents."""
        if self._saved is not None:
            self.start = "loaded"
            return None
        if self.start == "init" or self._features is not None or self._minibatch != self._rows:
            self.start = "init"
            return None
        whole = AutoFlow(self._bare[0], identity_flow, informed=False, init_loc_fn=self._init_loc_fn, seed=self._seed)
        whole._pyro_name = f"{self._pyro_name}.whole"  # the store may have an AutoFlow
        whole._setup_prototype(*args, **kwargs)
        self.start = str(whole.start)
        near = whole.near_posterior
        if near is None:
            return None
        places = {s["name"]: v.cpu().numpy() for s, v in whole._unpack_latent(torch.arange(whole.latent_dim))}
        return LocalStart.from_gaussian(near, places, self._locals)

    def __repr__(self) -> str:
        if self.prototype_trace is None:
            return unset_guide_repr("AutoLocalFlow", self.quality)
        local = self.locals.bijection
        latents = f"{self._global_dim} global latents, {local.event_shape[0]} for each of {self._rows} rows"
        flows = [self.globals.transform.bijection, local] if self._global_dim else [local]
        return guide_repr("AutoLocalFlow", latents, self.start, self.quality, *flows)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        result: dict[str, torch.Tensor] = {}
        vectors: list[torch.Tensor] = []
        if self._global_dim:
            with poutine.trace() as seen:
                result = self.globals(*args, **kwargs)
            sites: Any = seen.trace.nodes.values()
            vectors = [s["value"] for s in sites if s["type"] == "sample" and s["infer"].get("is_auxiliary")]
        size = self._rows if self._all else self._minibatch
        locals_, free = self.locals, self.rows if self._features is None else None
        with pyro.plate(self._plate, self._rows, dim=-1, subsample_size=size) as rows:
            known = self._features[rows] if free is None else free[rows]
            contexts = []
            for own in (known, known.detach()):
                batch = torch.broadcast_shapes((len(known),), *(v.shape[:-1] for v in vectors))
                contexts.append(torch.cat([v.expand(*batch, v.shape[-1]) for v in (*vectors, own)], dim=-1))
            posterior = Flow(locals_.condition(contexts[0]), path_context=contexts[1])
            infer: Any = {"is_auxiliary": True, NEAR_POSTERIOR: self.start != "init"}
            latent = pyro.sample(f"_{self._pyro_name}_local", posterior, infer=infer)
            return result | self._unpack(latent)

    def _unpack(self, latent: torch.Tensor) -> dict[str, torch.Tensor]:
        result, at = {}, 0
        for name, shape in self._shapes.items():
            fn = self.prototype_trace.nodes[name]["fn"]
            size = int(np.prod(shape))
            unconstrained = latent[..., at : at + size].reshape(*latent.shape[:-1], *shape)
            at += size
            transform = biject_to(fn.support)
            value = transform(unconstrained)
            log_det = transform.log_abs_det_jacobian(unconstrained, value)
            log_det = sum_rightmost(log_det, log_det.dim() - value.dim() + fn.event_dim)
            result[name] = pyro.sample(name, dist.Delta(value, log_density=-log_det, event_dim=fn.event_dim))
        return result

    @contextmanager
    def all_rows(self) -> Iterator[None]:
        """Calls inside draw the local latents of all rows, whatever the plate's sub-sample."""
        self._all = True
        try:
            yield
        finally:
            self._all = False

    @torch.no_grad()
    def median(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Median of each latent, ``{site: value}``, estimated from draws at these arguments of the model."""
        return {name: value[0] for name, value in self.quantiles([0.5], *args, **kwargs).items()}

    @torch.no_grad()
    def quantiles(self, quantiles: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Quantiles of each latent, ``{site: (len(quantiles), *shape)}``, from 1,000 draws at these arguments."""
        self._check_set_up()
        with self.all_rows(), poutine.block():
            draws = [self(*args, **kwargs) for _ in range(1_000)]
        values = {name: torch.stack([d[name] for d in draws]) for name in draws[0]}
        return {n: torch.quantile(v, torch.as_tensor(quantiles).to(v), dim=0) for n, v in values.items()}
