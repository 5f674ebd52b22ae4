"""A guide sees its model by one program, where the host's set-up runs one operation after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.util import get_potential_fn
from numpyro.primitives import Messenger

from ppl_flows.numpyro.compile_once import Program, computed, random_key

SEEN = "prototype_trace", "_init_locs", "_init_latent"  # what the host's set-up computes of arrays


class NotAtOnceError(Exception):
    """The host's own set-up has to see the model: it draws other initial points, or says what is wrong."""


class Key(Messenger):
    """A context in which this is the key."""

    def __init__(self, key: jax.Array) -> None:
        super().__init__()
        self.key = key

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "prng_key" and msg["value"] is None:
            msg["value"] = self.key


class SeesModel(AutoGuide):
    """Behind a host's guide in the order of bases: what ``see_model_at_once`` has the host's guide do."""

    _at_once = False

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        """``AutoGuide``'s, without its look at the density, and so without what is made of that."""
        if not self._at_once:
            return super()._setup_prototype(*args, **kwargs)
        strategy: Any = self.init_loc_fn if isinstance(self.init_loc_fn, partial) else self.init_loc_fn()
        drawn = handlers.substitute(handlers.seed(self.model, numpyro.prng_key()), substitute_fn=strategy)
        with handlers.block():
            self.prototype_trace = handlers.trace(drawn).get_trace(*args, **kwargs)
        self._init_locs, self._prototype_frames = OrderedDict(), dict[str, Any]()
        for name, site in self.prototype_trace.items():
            if site["type"] == "plate":
                self._prototype_frame_full_sizes[name] = site["args"][0]
            elif site["type"] == "sample" and not site["is_observed"]:
                if isinstance(site["fn"], dist.Delta):
                    raise NotAtOnceError
                self._init_locs[name] = biject_to(site["fn"].support).inv(site["value"])
                self._prototype_frames |= {frame.name: frame for frame in site["cond_indep_stack"]}


def see_model_at_once(
    guide: Any, host: Callable[[], None], key: jax.Array, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """The guide's set-up by the host, ``host()``, as one program.

    Raises:
        NotAtOnceError: the model, or the host, refuses it.
    """
    guide._at_once = True

    def see(key: jax.Array) -> dict[str, Any]:
        with Key(key):
            host()
        return {name: value for name, value in vars(guide).items() if name in SEEN}

    try:
        vars(guide).update(computed(see, key, constants=True))
    except (ValueError, RuntimeError) as error:
        raise NotAtOnceError from error
    trace = guide.prototype_trace
    given = {name: site["value"] for name, site in trace.items() if site["type"] in ("param", "mutable")}
    supports = [trace[name]["fn"].support for name in guide._init_locs]
    moving = any(site["type"] == "deterministic" for site in trace.values()) or bool(jax.tree.leaves(supports))
    guide._potential_fn, postprocess = get_potential_fn(
        handlers.seed(handlers.substitute(guide.model, data=given), random_key(0)),
        {name: biject_to(trace[name]["fn"].support) for name in guide._init_locs},
        replay_model=moving,
        model_args=args,
        model_kwargs=kwargs,
    )
    guide._postprocess_fn = handlers.seed(postprocess, random_key(0))


def check_initial_point(guide: Any) -> None:
    """Raises NotAtOnceError where the density, or its gradient, is not finite at the guide's initial point.

    The host's set-up has looked itself.
    """
    if guide._at_once:
        with handlers.block():
            numbers = jax.tree.leaves(Program(jax.value_and_grad(guide._potential_fn))(dict(guide._init_locs)))
        if not all(np.all(np.isfinite(number)) for number in numbers):
            raise NotAtOnceError
