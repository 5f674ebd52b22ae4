"""``flow`` and ``random_flow``: flows inside models and guides, with parameters that train or have priors."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import effectful
from torch.distributions.constraints import Constraint

from ppl_flows.combinators.batched import Batched
from ppl_flows.core.bijection import Bijection
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.params import map_params
from ppl_flows.core.types import Params
from ppl_flows.inference.flow_checks import (
    check_flow_start,
    flow_recipe,
)
from ppl_flows.inference.gradient_estimators import IN_TRAINING
from ppl_flows.inference.random_flow import sample_params
from ppl_flows.inference.support_constraints import Pieces
from ppl_flows.pyro.base_distribution import AnyBase, stored_base
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.flow_checks import check_name, check_trained
from ppl_flows.pyro.params import is_stored, stored_params
from ppl_flows.pyro.support import support_transform
from ppl_flows.pyro.transform import FlowTransform
from ppl_flows.torch.params import to_tensor


def flow(
    name: str,
    bijection: Bijection,
    *,
    params: Params | None = None,
    start: torch.Tensor | None = None,
    training: bool = False,
    base: AnyBase = None,
    base_params: Params | None = None,
    support: Constraint | Pieces | None = None,
    context: torch.Tensor | None = None,
    batch_shape: tuple[int, ...] = (),
    seed: int = 0,
) -> Flow:
    """A trainable ``Flow`` inside a model or guide; for priors, likelihoods and hand-written guides alike.

    Its parameters are ``pyro.param`` sites ``{name}.…``: flows of one name share them, in a model or between model and
    guide. In MCMC, which trains nothing, they are those in the store. State, such as running averages, is in Pyro's
    store as ``{name}$state.…``, but is no site. Outside a model
    ``flow(name, bijection).transforms[0].params`` are the trained parameters, which ``pf.save`` keeps.

    Args:
        name: of the parameters in the store.
        params: what they start at, used where they are first made; None draws them from ``seed``.
        start: a batch of data from which layers such as ``ActNorm`` take their start, where the parameters are first
            made; not with ``params``.
        base_params: what the parameters of a base start at, which are sites ``{name}_base.…``.
        training: ``log_prob`` is a training pass: layers such as ``BatchNorm`` use the statistics of the batch that is
            scored, and move their running averages. By default they use the averages. Vectorised particles are one
            batch; particles one by one each move the averages.
        batch_shape: for a batch of independent flows, each with parameters of its own, such as ``(8,)`` in a plate of
            8: the flow is that of ``pf.Batched(bijection, batch=batch_shape)``.
        bijection, base, support, context, seed: as in ``Flow``.

    Returns:
        A ``Flow`` of these parameters, to sample from or to score by.

    Raises:
        ValueError: another flow of that name, with another bijection or kind of base, in one run of a model, or with
            other shapes in the store; both ``params`` and ``start``.

    Warns:
        UserWarning: MCMC begins with the initial parameters.

    Example:
        >>> import pyro, ppl_flows as pf
        >>> from ppl_flows.pyro import flow
        >>> def model():
        ...     return pyro.sample("z", flow("prior", pf.nsf(2)))
    """
    bijection = Batched(bijection, batch=batch_shape) if batch_shape else bijection
    check_flow_start(bijection, params, start)
    check_name(name, flow_recipe(bijection, base))
    base = stored_base(f"{name}_base", base, base_params, seed)
    initial = initial_params(bijection, seed) if params is None else params
    if start is not None and not is_stored(name, initial):
        start = to_tensor(start) if support is None else support_transform(support, bijection).inv(to_tensor(start))
        initial = map_params(lambda _, a: to_tensor(a).to(start.device), initial)
        context = None if context is None else to_tensor(context)
        with torch.no_grad():
            initial = bijection.observe(initial, start.to(torch.get_default_dtype()), context, stage="start")[0]
    stored = stored_params(name, initial)
    if params is None:
        check_trained(name, initial, stored)
    transform = FlowTransform(bijection, stored, context=context)
    return Flow(transform.train(training and _in_training()), base=base, support=support)


@effectful(type=IN_TRAINING)
def _in_training() -> bool:
    """Whether a flow that asks for training mode gets it: not inside ``EvaluationMode``."""
    return True


def random_flow(
    name: str,
    bijection: Bijection,
    prior: dist.Distribution | Callable[[str, tuple[int, ...]], dist.Distribution],
    *,
    base: dist.Distribution | None = None,
    support: Constraint | Pieces | None = None,
    context: torch.Tensor | None = None,
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
        >>> import numpy as np, pyro, ppl_flows as pf
        >>> import pyro.distributions as dist
        >>> from ppl_flows.pyro import random_flow
        >>> def model(data):
        ...     density = random_flow("density", pf.iaf(2, hidden=(4,)), dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", len(data)):
        ...         pyro.sample("data", density, obs=data)
    """
    bijection, params = sample_params(name, bijection, prior, sample=pyro.sample, distribution=dist.Distribution)
    return Flow(bijection, params, base=base, support=support, context=context)
