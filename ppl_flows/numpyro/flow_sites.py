"""``flow`` and ``random_flow``: flows inside models and guides, with parameters that train or have priors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpyro
import numpyro.distributions as dist
from numpyro.distributions.constraints import Constraint
from numpyro.primitives import _PYRO_STACK, apply_stack, mutable

from ppl_flows.combinators.batched import Batched
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import initial_params, is_stateful
from ppl_flows.core.params import map_params, merge, split
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import (
    check_flow_start,
    flow_recipe,
)
from ppl_flows.inference.gradient_estimators import IN_TRAINING
from ppl_flows.inference.random_flow import sample_params
from ppl_flows.inference.support_constraints import Pieces
from ppl_flows.jax.arrays import to_array
from ppl_flows.numpyro.base_distribution import AnyBase, stored_base
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.flow_checks import check_fit, check_name, check_trained
from ppl_flows.numpyro.support import support_transform


def flow(
    name: str,
    bijection: Bijection,
    *,
    params: Params | None = None,
    start: Any = None,
    training: bool = False,
    base: AnyBase = None,
    base_params: Params | None = None,
    support: Constraint | Pieces | None = None,
    context: Any = None,
    batch_shape: tuple[int, ...] = (),
    seed: int = 0,
) -> Flow:
    """A trainable ``Flow`` inside a model or guide; for priors, likelihoods and hand-written guides alike.

    Its parameters are one ``numpyro.param`` site, ``name``, whose value is a nested dict: flows of one name share them,
    in a model or between model and guide. In MCMC, which trains nothing, they must be given. State, such as running
    averages, is a mutable site ``{name}$state``, with which the host allows one particle. The trained value of the
    first, joined with that of the second by ``pf.merge(params[name], params[name + "$state"]["params"])``, is what
    ``pf.save`` keeps.

    Args:
        name: of the parameter site.
        params: what they start at, used where they are first made; None draws them from ``seed``.
        start: a batch of data from which layers such as ``ActNorm`` take their start, where the parameters are first
            made; not with ``params``.
        base_params: what the parameters of a base start at, which are one site ``{name}_base``.
        training: ``log_prob`` is a training pass: layers such as ``BatchNorm`` use the statistics of the batch that is
            scored, and move their running averages. By default they use the averages.
        batch_shape: for a batch of independent flows, each with parameters of its own, such as ``(8,)`` in a plate of
            8: the flow is that of ``pf.Batched(bijection, batch=batch_shape)``.
        bijection, base, support, context, seed: as in ``Flow``.

    Returns:
        A ``Flow`` of these parameters, to sample from or to score by.

    Raises:
        ValueError: another flow of that name, with another bijection or kind of base, in one run of a model; parameters
            under that name that do not fit the bijection, or come without their state; both ``params`` and ``start``.

    Warns:
        UserWarning: MCMC begins with the initial parameters.

    Example:
        >>> import numpyro, ppl_flows as pf
        >>> from ppl_flows.numpyro import flow
        >>> def model():
        ...     return numpyro.sample("z", flow("prior", pf.nsf(2)))
    """
    bijection = Batched(bijection, batch=batch_shape) if batch_shape else bijection
    check_flow_start(bijection, params, start)
    check_name(name, flow_recipe(bijection, base))
    base = stored_base(f"{name}_base", base, base_params, seed)
    fresh: list[Params] = []

    def initialise(_: Any = None) -> Params:
        if params is None:
            check_trained(name)
        initial = initial_params(bijection, seed) if params is None else params
        arrays: Params = map_params(lambda _, a: to_array(a), initial)
        if start is not None:
            batch = to_array(start) if support is None else support_transform(support, bijection).inv(to_array(start))
            given = None if context is None else to_array(context)
            arrays = bijection.observe(arrays, batch, given, stage="start")[0]
        weights, state = split(arrays)
        fresh.append(state)
        return weights

    # under a handler as a function of the key, as a dict is no array that the host's `param` could check
    weights = numpyro.param(name, initialise if _PYRO_STACK else initialise())
    if not is_stateful(bijection):
        check_fit(name, bijection, weights)
        return Flow(bijection, weights, base=base, support=support, context=context)
    holder = mutable(f"{name}$state", {"params": fresh[0]} if fresh else None)
    if holder is None:
        raise ValueError(
            f"flow: the parameters {name!r} come without their state; pass both, as in "
            "{**result.params, **result.state.mutable_state} of the host's SVI, or FitResult.params of fit."
        )
    both = merge(weights, holder["params"])
    check_fit(name, bijection, both)
    density = Flow(bijection, both, base=base, support=support, context=context)
    density._holder = holder if training and _in_training() else None
    return density


def _in_training() -> bool:
    """Whether a flow that asks for training mode gets it: not inside ``EvaluationMode``."""
    message = {"type": IN_TRAINING, "fn": lambda: True, "args": (), "kwargs": {}, "value": None}
    return bool(apply_stack(message)["value"]) if _PYRO_STACK else True


def random_flow(
    name: str,
    bijection: Bijection,
    prior: dist.Distribution | Callable[[str, tuple[int, ...]], dist.Distribution],
    *,
    base: dist.Distribution | None = None,
    support: Constraint | Pieces | None = None,
    context: Any = None,
) -> Flow:
    """Like ``flow``, but the parameters are sampled: a Bayesian flow, whose weights have priors and a posterior.

    They are latent sites ``{name}.…``, one for every array. In a plate, or under vectorised particles, every element
    has a flow of its own, as in ``pf.Batched``.

    Args:
        name: of the sites.
        prior: of the weights: a distribution such as ``dist.Normal(0.0, 1.0)`` for every number; or a function of an
            array's dotted name and its shape that gives a distribution over the array.
        bijection, base, support, context: as in ``Flow``; the base is a distribution of the language.

    Returns:
        A ``Flow`` whose parameters are draws of the prior.

    Raises:
        ValueError: the bijection keeps state, such as running averages, which is no parameter; or a prior of the wrong
            event shape.

    Example:
        >>> import numpy as np, numpyro, ppl_flows as pf
        >>> import numpyro.distributions as dist
        >>> from ppl_flows.numpyro import random_flow
        >>> def model(data):
        ...     density = random_flow("density", pf.iaf(2, hidden=(4,)), dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", len(data)):
        ...         numpyro.sample("data", density, obs=data)
    """
    bijection, params = sample_params(name, bijection, prior, sample=numpyro.sample, distribution=dist.Distribution)
    return Flow(bijection, params, base=base, support=support, context=context)
