"""What ``flow`` checks of the model that it is part of."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from numpyro import handlers
from numpyro.infer import initialization
from numpyro.primitives import _PYRO_STACK

from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import check_params
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import Recipe, check_same_recipe, warn_of_initial_weights

# of the flows in the last run that each living handler has traced, beside the trace of that run
_recipes: WeakKeyDictionary[handlers.trace, tuple[Any, dict[Any, Recipe]]] = WeakKeyDictionary()


def check_name(name: str, recipe: Recipe) -> None:
    """Raises ValueError if this run of the model has had another flow of that name."""
    handler = next((h for h in reversed(_PYRO_STACK) if isinstance(h, handlers.trace)), None)
    if handler is None:
        return
    run, seen = _recipes.get(handler, (None, {}))
    if run is not handler.trace:
        run, seen = _recipes[handler] = handler.trace, {}
    scopes = tuple(h.prefix for h in _PYRO_STACK if isinstance(h, handlers.scope))
    check_same_recipe(name, seen.setdefault((scopes, name), recipe), recipe)


def check_trained(name: str) -> None:
    """For parameters that no one has given: warns where MCMC begins."""
    strategies = [getattr(h, "substitute_fn", None) for h in _PYRO_STACK if isinstance(h, handlers.substitute)]
    begins = any(getattr(getattr(s, "func", s), "__module__", "") == initialization.__name__ for s in strategies)
    # a guide, too, starts a model so, but in a block
    if begins and not any(isinstance(h, handlers.block) for h in _PYRO_STACK):
        warn_of_initial_weights(name, "run numpyro.handlers.substitute(model, data=result.params)")


def check_fit(name: str, bijection: Bijection, params: Params) -> None:
    """Raises ValueError for parameters of another flow, as those of a guide's flow in the model's of that name."""
    try:
        check_params(bijection, params)
    except ValueError as error:
        raise ValueError(
            f"flow: the parameters named {name!r} are of another flow; choose another name. In detail: {error}"
        ) from error
