"""The life of a guide: made, set up at its first call, trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from pyro.infer.autoguide.initialization import InitMessenger, init_to_uniform
from pyro.poutine.util import site_is_subsample

from ppl_flows.inference.auto_flow import ATTEMPTS
from ppl_flows.inference.guide_checks import all_or_nothing, check_set_up, refuse_discrete
from ppl_flows.pyro.log_density import is_enumerated


class LazyGuide(AutoGuide):
    """A guide whose parameters are made at its first call, from a run of its model.

    That is done as a whole or not at all, and alike under ``no_grad`` and ``inference_mode``. A ``load_state_dict``
    that comes before waits for it, and then no start is looked for.

    Raises:
        ValueError: at the first call: a discrete latent that is not marked for enumeration; parameters of a guide of
            this name in Pyro's parameter store.
    """

    prototype_trace: Any
    start: Any
    _unconstrained_shapes: dict[str, torch.Size]
    _bare: tuple[Callable[..., Any]]  # the model as it was given; a tuple, as a module would be registered
    _init_loc_fn: Callable[..., Any]
    _saved: tuple[dict[str, torch.Tensor], bool] | None = None  # a state to load at the set-up, and whether strictly

    def _make(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Makes the parameters, for the sites of ``prototype_trace``."""
        raise NotImplementedError

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        with all_or_nothing(self), torch.inference_mode(False), torch.enable_grad():
            self._check_store()
            self._see_model(partial(super()._setup_prototype, *args, **kwargs))
            self._make(args, kwargs)
            if self._saved is not None:
                self.load_state_dict(*self._saved)
                self._saved = None

    def _see_model(self, host: Callable[[], None]) -> None:
        """The host's set-up; with uniform draws, if the model rejects the guide's own initial values."""
        model, errors = hide_enumerated(self._bare[0]), []
        for init_loc_fn in (self._init_loc_fn, *ATTEMPTS * (init_to_uniform,)):
            try:
                self._model = (InitMessenger(init_loc_fn)(model),)
                return host()
            except (ValueError, RuntimeError) as error:  # of parameters that distributions or decompositions reject
                errors.append(error)
        raise errors[0]

    def _unpack_latent(self, latent: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor]]:
        """As the host's, whose ``torch.broadcast_shapes`` is slow, and imports sympy."""
        pos = 0
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            shape = self._unconstrained_shapes[name]
            event_dim = site["fn"].event_dim + len(shape) - site["value"].ndim
            whole = np.broadcast_shapes(tuple(shape), (*latent.shape[:-1], *(1,) * event_dim))
            yield site, latent[..., pos : pos + shape.numel()].view(whole)
            pos += shape.numel()

    def _check_set_up(self) -> None:
        check_set_up(self, "call it once with the model's arguments, guide(*args)")

    def _check_store(self) -> None:
        """The store of a trained guide lacks what no optimiser trains, its start: a new guide cannot go on from it."""
        name = next((n for n in pyro.get_param_store() if n.startswith(f"{self._pyro_name}.")), None)
        if name is not None:
            raise ValueError(
                f"Pyro's parameter store already holds {name!r}, of another guide or of an earlier session, and a new "
                "guide cannot train or go on from it, as the store does not have where the flow starts. For a new "
                "guide call pyro.clear_param_store() first, or put both guides into one AutoGuideList. To go on from "
                "saved parameters keep guide.state_dict(), and with a clear store use guide.load_state_dict."
            )

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *found: Any
    ) -> None:
        if self.prototype_trace is not None:
            return super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *found)
        own = {n.removeprefix(prefix): v.detach().clone() for n, v in state_dict.items() if n.startswith(prefix)}
        self._saved = (own, strict) if own else None


def set_up(guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int) -> None:
    """Shows a guide its model, if it is lazy and has not seen it."""
    if isinstance(guide, LazyGuide) and guide.prototype_trace is None:
        with poutine.block(), torch.random.fork_rng():
            torch.manual_seed(seed)
            guide._setup_prototype(*args, **kwargs)


def hide_enumerated(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model without the latents that are summed over; a ValueError at its run for other discrete ones."""

    def hides(site: Any) -> bool:
        if site["type"] != "sample" or site["is_observed"] or site_is_subsample(site):
            return False
        if is_enumerated(site):
            return True
        support = getattr(site["fn"], "support", None)
        if support is not None and support.is_discrete:
            refuse_discrete(site["name"], enumerable=site["fn"].has_enumerate_support)
        return False

    return poutine.block(model, hide_fn=hides)
