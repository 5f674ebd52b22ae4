"""What ``flow`` checks of the model that it is part of."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.trace_struct import Trace

from ppl_flows.core.params import flatten, split
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import Recipe, check_same_recipe, warn_of_initial_weights
from ppl_flows.torch.params import to_tensor

_recipes: WeakKeyDictionary[Trace, dict[str, Recipe]] = WeakKeyDictionary()  # of the flows in each living trace


def check_name(name: str, recipe: Recipe) -> None:
    """Raises ValueError if this run of the model has had another flow of that name."""
    trace = next((h.trace for h in reversed(_PYRO_STACK) if isinstance(h, TraceMessenger)), None)
    if trace is not None:
        check_same_recipe(name, _recipes.setdefault(trace, {}).setdefault(name, recipe), recipe)


def check_trained(name: str, initial: Params, params: Params) -> None:
    """Warns where MCMC begins and the weights are still the initial ones."""
    kinds: list[Any] = [type(handler) for handler in _PYRO_STACK]
    # only the host's MCMC looks for initial values of an enumerated model; guides and Predictive, of a plain one
    if (InitMessenger, EnumMessenger) in pairwise(kinds):
        values = dict(flatten(params))
        if all(torch.equal(to_tensor(start), values[leaf]) for leaf, start in flatten(split(initial)[0])):
            warn_of_initial_weights(name, "its weights stay in Pyro's parameter store")
