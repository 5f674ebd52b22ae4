"""Handlers that replace the flows at sample sites: for path gradients, and for a measure in evaluation mode."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger

from ppl_flows.inference.gradient_estimators import replace_flows, takes_path_gradients
from ppl_flows.pyro.distribution import Flow
from ppl_flows.pyro.mixture import ApartFlows, MixtureFlow

FLOWS = Flow, MixtureFlow, ApartFlows


class PathGradients(Messenger):
    """Around a guide: the flows of its latent sites score their draws as ``fit(estimator=)`` says.

    Args:
        estimator: ``"path"``: all of them with ``Flow(path_gradients=True)``. None: those at sites with
            ``infer={"near_posterior": True}``, as ``AutoFlow`` marks its own. ``"reparam"``: as they are. A flow is
            reached where it is the site's distribution, also inside ``Independent``, masks and expansions, and not as
            a component of a mixture.
    """

    def __init__(self, *, estimator: str | None) -> None:
        super().__init__()
        self.estimator = estimator

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and takes_path_gradients(self.estimator, msg["infer"]):
            msg["fn"] = replace_flows(msg["fn"], FLOWS, lambda flow: flow.with_path_gradients())


class EvaluationMode(Messenger):
    """Around a model or guide: no ``flow(...)`` made inside is in training mode, nor a flow at a sample site."""

    def _pyro_flow_in_training(self, msg: Any) -> None:
        msg["value"], msg["done"] = False, True

    def _pyro_sample(self, msg: Any) -> None:
        msg["fn"] = replace_flows(msg["fn"], FLOWS, lambda flow: flow.in_evaluation_mode())
