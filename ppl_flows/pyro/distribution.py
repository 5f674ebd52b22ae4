"""``Flow`` and ``flow``: a base distribution seen through a bijection."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.poutine.runtime import am_i_wrapped

from ppl_flows.core.bijection import Bijection, Params
from ppl_flows.core.params import flatten, initial_params
from ppl_flows.pyro.params import stored_params
from ppl_flows.pyro.transform import FlowTransform


class Flow(dist.TransformedDistribution):
    """The distribution of ``y = f(x)`` with x from a base distribution.

    ``log_prob`` is one inverse pass, a sample with its score one forward pass. With a context of shape
    ``(*batch, context_dim)`` the batch shape is ``batch``, together with the base's.

    This class registers no parameters. To train a flow inside a model or guide use ``flow(name, ...)``; to use one as
    it is, give ``params``.

    Args:
        bijection: a bijection, or a ``FlowTransform`` that has its parameters already.
        params, context, seed: as in ``FlowTransform``; not with a ``FlowTransform``.
        base: distribution of x, with the bijection's event shape or scalar events over it; None: standard normal.

    Raises:
        ValueError: the base has the wrong shape, or the flow is made inside a model without parameters, where it
            would never train.
    """

    def __init__(
        self,
        bijection: Bijection | FlowTransform,
        params: Params | None = None,
        *,
        base: dist.Distribution | None = None,
        context: torch.Tensor | None = None,
        seed: int = 0,
        validate_args: bool | None = None,
    ) -> None:
        if isinstance(bijection, FlowTransform):
            if params is not None or context is not None:
                raise ValueError("Flow: a FlowTransform has its params and context already; give them to it instead.")
            transform = bijection
        else:
            if params is None and am_i_wrapped():
                raise ValueError(
                    "Flow(bijection) inside a model or guide would make new parameters at every call and never train "
                    "them; use flow(name, bijection), or give params."
                )
            transform = FlowTransform(bijection, params, context=context, seed=seed)
        super().__init__(_standard_normal(transform) if base is None else base, [transform], validate_args)

    def expand(self, batch_shape: torch.Size, _instance: Flow | None = None) -> Flow:
        return super().expand(batch_shape, self._get_checked_instance(Flow, _instance))


def flow(
    name: str,
    bijection: Bijection,
    *,
    params: Params | None = None,
    base: dist.Distribution | None = None,
    context: torch.Tensor | None = None,
    seed: int = 0,
) -> Flow:
    """A trainable ``Flow`` inside a model or guide; for priors, likelihoods and hand-written guides alike.

    Its parameters are ``pyro.param`` sites ``{name}.…``: two flows of one name share them.

    Args:
        name: of the parameters in the store.
        params: what they start at, used where they are first made; None draws them from ``seed``.
        bijection, base, context, seed: as in ``Flow``.

    Raises:
        ValueError: another flow, with other shapes, has that name.

    Example:
        >>> import pyro, ppl_flows as pf
        >>> from ppl_flows.pyro import flow
        >>> def model():
        ...     return pyro.sample("z", flow("prior", pf.nsf(2)))
    """
    start = initial_params(bijection, seed) if params is None else params
    return Flow(bijection, stored_params(name, start), base=base, context=context)


def _standard_normal(transform: FlowTransform) -> dist.Distribution:
    shape = transform.bijection.event_shape
    like = next((leaf for _, leaf in flatten(transform.params)), transform.context)
    like = torch.zeros(()) if like is None else like.detach()
    return dist.Normal(like.new_zeros(shape), like.new_ones(shape)).to_event(len(shape))
