"""Log evidence of a model from the importance weights of its guide. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from ppl_flows.numerics.pareto_smoothing import pareto_log_mean, smoothed_log_weights

METHOD = "importance sampling from the guide, Pareto-smoothed"


class Evidence(NamedTuple):
    """Log of the marginal likelihood ``p(data)``, in nats.

    Attributes:
        mean: the estimate; nan where it is withheld.
        se: its standard error, by which the method may be wrong included; nan likewise.
        method: what the estimate is, or why there is none.
    """

    mean: float
    se: float
    method: str


def importance_evidence(log_weights: np.ndarray) -> Evidence:
    """From finite log weights ``log p(z, data) - log q(z)`` of draws z from q, ``(n,)``.

    The standard error is that of the mean weight, joined with the distance between the plain mean and one whose largest
    weights have the mean of the Pareto tail fitted to them: what single large weights leave open.
    """
    n = len(log_weights)
    plain = logsumexp(log_weights) - np.log(n)
    of_mean = np.exp(log_weights - plain).std(ddof=1) / n**0.5
    mean = float(logsumexp(smoothed_log_weights(log_weights)[0]) - np.log(n))
    return Evidence(mean, float(np.hypot(of_mean, pareto_log_mean(log_weights) - plain)), METHOD)


def withheld(reason: str) -> Evidence:
    """No evidence, and why."""
    return Evidence(np.nan, np.nan, f"withheld: {reason}")
