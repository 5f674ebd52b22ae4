"""Runs of a NumPyro model along which its latent vector is made of coordinates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import lax
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import potential_energy
from numpyro.primitives import Messenger

from ppl_flows.core.types import Params
from ppl_flows.inference.model_map import LatentSite, Step
from ppl_flows.inference.read_prior import read_prior
from ppl_flows.inference.site_priors import Independent, Prior, Walk

ROWS_AT_ONCE = 64


class NumPyroWalk:
    """A model with its arguments, as a ``ModelWalk``. Its parameters are trees: the leaves of them all, as ``leaves``.

    Args:
        model, args, kwargs: without the guide's handlers.
        latents: of a trace.
        params: values of the model's own.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        latents: Mapping[str, Any],
        params: Params,
    ) -> None:
        self.model, self.args, self.kwargs = model, args, kwargs
        self._tree = jax.tree.structure(params)
        self._transforms = {name: biject_to(site["fn"].support) for name, site in latents.items()}

    def with_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NumPyroWalk:
        """The same model with other arguments."""
        new = copy.copy(self)
        new.args, new.kwargs = args, kwargs
        return new

    def __call__(
        self, sites: tuple[LatentSite, ...], step: Step, x: jax.Array, params: Params, *, forward: bool
    ) -> tuple[jax.Array, jax.Array]:
        def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
            placing = Placing(self.model, sites, self._transforms, step, row, forward=forward)
            self._run(placing, params)
            made = [jnp.ravel(placing.made.get(site.name, row[site.at])) for site in sites]
            return jnp.concatenate(made), placing.log_det

        y, log_det = jax.vmap(one)(x.reshape(-1, x.shape[-1]))
        return y.reshape(x.shape), log_det.reshape(x.shape[:-1])

    def curvature(
        self, sites: tuple[LatentSite, ...], block: tuple[str, ...], u: jax.Array, params: Params
    ) -> tuple[jax.Array, jax.Array]:
        """As of ``ModelWalk``."""
        own = [site for site in sites if site.name in block]
        n = sum(site.size for site in own)

        def one(row: jax.Array) -> tuple[jax.Array, jax.Array]:
            others = {site.name: row[site.at].reshape(site.numbers) for site in sites if site.name not in block}

            def potential(part: jax.Array) -> jax.Array:
                numbers = jnp.split(part, np.cumsum([site.size for site in own])[:-1])
                values = {site.name: v.reshape(site.numbers) for site, v in zip(own, numbers, strict=True)}
                return self._potential(others | values, params)

            part = jnp.concatenate([row[site.at] for site in own])
            gradient, products = jax.linearize(jax.grad(potential), part)
            return -gradient, jax.vmap(products)(jnp.eye(n, dtype=row.dtype))

        rows = u.reshape(-1, u.shape[-1])
        many = len(rows) > ROWS_AT_ONCE  # whose second derivatives would take much memory
        gradient, precision = lax.map(one, rows, batch_size=ROWS_AT_ONCE) if many else jax.vmap(one)(rows)
        return gradient.reshape(*u.shape[:-1], -1), precision.reshape(*u.shape[:-1], n, n)

    def _potential(self, unconstrained: dict[str, jax.Array], params: Params) -> jax.Array:
        """Minus the log density of the unconstrained values of all sites."""
        with handlers.block(), numpyro.validation_enabled(False):
            seeded = handlers.seed(handlers.substitute(self.model, self._values(params)), 0)
            energy: jax.Array = potential_energy(seeded, self.args, self.kwargs, unconstrained)
        return energy

    def _values(self, params: Params) -> Any:
        return jax.tree.unflatten(self._tree, params.values())

    def read(
        self, sites: tuple[LatentSite, ...], row: jax.Array, params: Params, variant: jax.Array
    ) -> dict[str, tuple[Prior, jax.Array]]:
        """The priors of the sites at a latent vector, as far as they are known, and how wrong they are.

        Args:
            variant: of the random numbers, and of the enumerated sites, that the model has besides.
        """
        found: dict[str, tuple[Prior, jax.Array]] = {}

        def step(site: LatentSite, prior: Prior, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            found[site.name] = prior, placing.errors.get(site.name, jnp.zeros(()))
            return v, jnp.zeros(())

        every = tuple(site._replace(pseudo=0) for site in sites)
        placing = Placing(self.model, every, self._transforms, step, row, forward=False, variant=variant)
        self._run(placing, params)
        return found

    def _run(self, placing: Placing, params: Params) -> None:
        with handlers.block():
            seeded = handlers.seed(handlers.substitute(placing, self._values(params)), jax.random.key(placing.variant))
            seeded(*self.args, **self.kwargs)


def leaves(params: Params) -> dict[str, jax.Array]:
    """Of parameters of a model, each of which may be a tree, by their paths."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


class Placing(Messenger):
    """Around a model: its latent sites are placed, one after the other.

    Attributes:
        made: what becomes of their numbers.
        log_det: of all of them.
        errors: of the chains that were found inside a ``scan``: by how much their locations are not what was found.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        sites: tuple[LatentSite, ...],
        transforms: dict[str, Any],
        step: Step,
        row: jax.Array,
        *,
        forward: bool,
        variant: Any = None,
    ) -> None:
        super().__init__(fn)
        self._sites, self._transforms, self._step = {site.name: site for site in sites}, transforms, step
        self._row, self._forward = row, forward
        self._reads, self.variant = variant is not None, 0 if variant is None else variant
        self.made: dict[str, jax.Array] = {}
        self.log_det = jnp.zeros((), row.dtype)
        self.errors: dict[str, jax.Array] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "control_flow":
            self._control_flow(msg)
        elif msg["type"] != "sample" or msg["is_observed"] or msg.get("_control_flow_done"):
            return
        elif msg["name"] in self._sites:
            site = self._sites[msg["name"]]
            prior = read_prior(msg["fn"], site.kind, site.numbers, self._row) if site.pseudo is not None else None
            msg["value"] = self._value(site, self._place(site, prior))
        elif msg["infer"].get("enumerate") == "parallel":
            values = msg["fn"].enumerate_support(expand=True)
            msg["value"] = values[self.variant % len(values)]

    def _control_flow(self, msg: dict[str, Any]) -> None:
        """The sites inside take their values from here; a ``scan``'s only one, if it is a chain, is placed as such."""

        def run(values: dict[str, Any]) -> Any:
            stack = [*msg["kwargs"]["substitute_stack"], ("substitute", values)]
            kwargs = {**msg["kwargs"], "substitute_stack": stack, "rng_key": jax.random.key(0)}
            return msg["fn"](*msg["args"], **kwargs)[1]

        def scanned(values: dict[str, Any]) -> Any:
            return run(values)[0].trace

        rest = [site for name, site in self._sites.items() if name not in self.made]
        values = {site.name: self._value(site, self._numbers(site)) for site in rest}
        inner = run(values)
        scans = isinstance(inner, tuple)  # of a ``cond`` it is the trace alone
        inside = [site for site in rest if site.name in (inner[0] if scans else inner).trace]
        for site in inside:
            u = None
            if scans and site.pseudo is not None and len(inside) == 1 and not msg["kwargs"].get("enum"):
                u = self._place_chain(site, lambda site, v: scanned({**values, site.name: self._value(site, v)}))
            values[site.name] = self._value(site, self._place(site, None) if u is None else u)
        msg["kwargs"]["substitute_stack"].append(("substitute", {site.name: values[site.name] for site in inside}))

    def _place_chain(self, site: LatentSite, run: Callable[[LatentSite, jax.Array], Any]) -> jax.Array | None:
        """The unconstrained values of a site whose location is linear in its value one step before."""

        def at(v: jax.Array) -> Any:
            return read_prior(run(site, v)[site.name]["fn"], site.kind, site.numbers, v)

        v = self._numbers(site)
        none, one = at(jnp.zeros_like(v)), at(jnp.ones_like(v))
        if not isinstance(none, Independent) or len(site.numbers) > 1:
            return None
        chain = Walk(none.loc, one.loc - none.loc, none.scale)
        if self._reads:
            seen, before = at(v), jnp.concatenate([jnp.zeros_like(v[:1]), v[:-1]])
            wrong = jnp.abs(seen.loc - chain.loc - chain.coefficient * before) + jnp.abs(seen.scale - chain.scale)
            self.errors[site.name] = jnp.max(wrong / chain.scale)
        return self._place(site, chain)

    def _numbers(self, site: LatentSite) -> jax.Array:
        return self._row[site.at].reshape(site.numbers)

    def _value(self, site: LatentSite, u: jax.Array) -> jax.Array:
        value: jax.Array = self._transforms[site.name](u)
        return value

    def _place(self, site: LatentSite, prior: Prior | None) -> jax.Array:
        """The unconstrained value."""
        made = v = self._numbers(site)
        if prior is not None:
            made, log_det = self._step(site, prior, v)
            self.log_det = self.log_det + jnp.sum(log_det)
        self.made[site.name] = made
        return made if self._forward else v
