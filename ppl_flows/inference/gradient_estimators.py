"""How the flows of a guide score their draws while ``fit`` trains them, as far as both shells share it.

With path gradients ("sticking the landing") a draw is scored with parameters that pass no gradient, so that the
gradient of the ELBO flows through the draw only: it has the same mean, and no variance where the flow is the posterior.
Far from it, and for splines, it can have more.

Reference: Roeder et al. (2017), Sticking the Landing, arXiv:1703.09194.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

ESTIMATORS = ("path", "reparam", None)  # of ``fit``

IN_TRAINING = "flow_in_training"  # type of the message by which ``flow(training=True)`` asks whether it may

NEAR_POSTERIOR = "near_posterior"  # key of a site's ``infer``: its flow started near the posterior


def takes_path_gradients(estimator: str | None, infer: Mapping[str, Any]) -> bool:
    """Whether a latent site of a guide, with this ``infer``, is scored with path gradients."""
    return estimator == "path" or (estimator is None and bool(infer.get(NEAR_POSTERIOR)))


def replace_flows(distribution: Any, flow_class: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    """The distribution with ``change(flow)`` for every flow in it, also inside ``Independent``, masks, expansions.

    A distribution without flows is returned as it is; nothing is changed in place.
    """
    inner = getattr(distribution, "base_dist", None)
    changed = None if inner is None else replace_flows(inner, flow_class, change)
    if changed is not inner:
        distribution = copy.copy(distribution)
        distribution.base_dist = changed
    return change(distribution) if isinstance(distribution, flow_class) else distribution
