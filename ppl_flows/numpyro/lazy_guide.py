"""The life of a guide: made, set up at its first call, trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpyro
from numpyro import handlers
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.initialization import init_to_uniform

from ppl_flows.inference.auto_flow import ATTEMPTS
from ppl_flows.inference.gaussian_start import NowhereFiniteError
from ppl_flows.inference.guide_checks import all_or_nothing, check_set_up, refuse_discrete
from ppl_flows.numpyro.compile_once import random_key
from ppl_flows.numpyro.see_model import Key, NotAtOnceError, see_model_at_once


class LazyGuide(AutoGuide):
    """A guide that sees its model at its first call, as a whole or not at all.

    It sees it by one program where it can, without the host's many operations: those are left for what that cannot
    do, a traced call, or an initial point at which the model's density is not finite.

    Raises:
        ValueError: at the first call: a discrete latent that is not marked for enumeration.
    """

    prototype_trace: Any
    init_loc_fn: Callable[..., Any]
    _bare: Callable[..., Any]  # the model as it was given

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Makes what the parameters start at, for the sites of ``prototype_trace``."""
        raise NotImplementedError

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        host = partial(super()._setup_prototype, *args, **kwargs)
        key = numpyro.prng_key()
        if not isinstance(key, jax.core.Tracer):
            try:
                with all_or_nothing(self):
                    see_model_at_once(self, host, key, args, kwargs)
                    return self._make(args, kwargs)
            except (NotAtOnceError, NowhereFiniteError):  # of which the host's errors say more
                pass
        with all_or_nothing(self), Key(key):
            self._see_model(host)
            self._make(args, kwargs)

    def _see_model(self, host: Callable[[], None]) -> None:
        """The host's set-up; with uniform draws, if the model rejects the guide's own initial values."""
        errors = []
        for init_loc_fn in (self.init_loc_fn, *ATTEMPTS * (init_to_uniform,)):
            try:
                self.init_loc_fn = init_loc_fn
                return host()
            except (ValueError, RuntimeError) as error:  # of parameters that distributions reject; no finite density
                errors.append(error)
        raise errors[0]

    def _check_set_up(self) -> None:
        check_set_up(self, "call it once with the model's arguments, numpyro.handlers.seed(guide, key)(*args)")


def set_up(guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int, params: dict[str, Any]) -> None:
    """Shows a guide its model, if it is lazy and has not seen it; params are the model's."""
    if isinstance(guide, LazyGuide) and guide.prototype_trace is None:
        with handlers.block(), Key(random_key(seed)), handlers.substitute(data=params):
            guide._setup_prototype(*args, **kwargs)


class HideEnumerated(handlers.block):
    """The model without the latents that are summed over; a ValueError at its run for other discrete ones.

    Attributes:
        names: of what it has hidden so far.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(model, hide_fn=self._hides)
        self.names: set[str] = set()

    def _hides(self, site: Any) -> bool:
        if site["type"] != "sample" or site["is_observed"]:
            return False
        if is_enumerated(site):
            self.names.add(site["name"])
            return True
        if site["fn"].support.is_discrete:
            refuse_discrete(site["name"], enumerable=site["fn"].has_enumerate_support)
        return False


def is_enumerated(site: Any) -> bool:
    """Whether the host sums over a site."""
    return bool(site["type"] == "sample" and not site["is_observed"] and site["infer"].get("enumerate") == "parallel")


def is_subsampled(trace: Any) -> bool:
    """Whether a plate of a model's trace draws a minibatch."""
    return any(site["type"] == "plate" and site["args"][0] != len(site["value"]) for site in trace.values())
