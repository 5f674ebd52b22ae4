"""What a ``Flow`` is after NumPyro's ``scan``: importing this module tells the host."""

from __future__ import annotations

from numpyro.distributions.batch_util import promote_batch_shape

from ppl_flows.combinators.batched import with_batch
from ppl_flows.numpyro.base_distribution import BaseDistribution
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.transform import FlowTransform


@promote_batch_shape.register
def _promoted(d: Flow) -> Flow:
    """What the host's scan left, with parameters stacked over the steps: a batch of flows, one for every step."""
    transform, *outer = d.transforms
    bijection, params = with_batch(transform.bijection, transform.params)
    if bijection is transform.bijection:
        return d
    if isinstance(d.base_dist, BaseDistribution):
        raise NotImplementedError("Flow: a ppl_flows base such as pf.StudentT cannot be in a scan; use a host's own.")
    promoted = Flow(
        FlowTransform(bijection, params, context=transform.context),
        base=promote_batch_shape(d.base_dist),
        path_gradients=d.path_gradients,
        path_context=d.path_context,
    )
    promoted.transforms += outer
    return promoted
