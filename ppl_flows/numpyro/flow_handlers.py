"""Handlers that replace the flows at sample sites: for path gradients, and for a measure in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpyro.primitives import Messenger

from ppl_flows.inference.gradient_estimators import IN_TRAINING, replace_flows, takes_path_gradients
from ppl_flows.numpyro.distribution import Flow
from ppl_flows.numpyro.mixture import MixtureFlow, RegionFlow

FLOWS = Flow, MixtureFlow, RegionFlow


class PathGradients(Messenger):
    """Around a guide: the flows of its latent sites score their draws as ``fit(estimator=)`` says.

    Args:
        fn: the guide; None where the handler is a context.
        estimator: ``"path"``: all of them with ``Flow(path_gradients=True)``. None: those at sites with
            ``infer={"near_posterior": True}``, as ``AutoFlow`` marks its own. ``"reparam"``: as they are. A flow is
            reached where it is the site's distribution, also inside ``Independent``, masks and expansions, and not as
            a component of a mixture.
    """

    def __init__(self, fn: Callable[..., Any] | None = None, *, estimator: str | None) -> None:
        super().__init__(fn)
        self.estimator = estimator

    def process_message(self, msg: dict[str, Any]) -> None:
        latent = msg["type"] == "sample" and not msg["is_observed"]
        if latent and takes_path_gradients(self.estimator, msg["infer"]):
            msg["fn"] = replace_flows(msg["fn"], FLOWS, lambda flow: flow.with_path_gradients())


class EvaluationMode(Messenger):
    """Around a model or guide: no ``flow(...)`` made inside is in training mode, nor a flow at a sample site."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == IN_TRAINING:
            msg["value"] = False
        elif msg["type"] == "sample":
            msg["fn"] = replace_flows(msg["fn"], FLOWS, lambda flow: flow.in_evaluation_mode())
