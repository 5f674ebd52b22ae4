"""Log evidence of a model from the importance weights of its guide, and models compared by it. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

from ppl_flows.numerics.pareto_smoothing import pareto_log_mean, smoothed_log_weights

UNSEEN = 0.2  # of the KL: what the weights may be short of
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

    def attributes(self) -> dict[str, Any]:
        """As ArviZ has them among those of draws."""
        return {"log_evidence": self.mean, "log_evidence_se": self.se, "log_evidence_method": self.method}


def importance_evidence(log_weights: np.ndarray, kl: float) -> Evidence:
    """From finite log weights ``log p(z, data) - log q(z)`` of draws z from q, ``(n,)``, and an estimate of q's KL.

    The variance has three parts: that of the mean weight; the square of what it makes whether the largest weights have
    the mean of the Pareto tail fitted to them, or its quantiles; and the square of a fifth of the KL. The last is for
    the neck of a posterior that no draw of the guide has entered, which biases every mean of weights downwards, by a
    tenth to a quarter of the KL where it was measured.
    """
    n = len(log_weights)
    plain = logsumexp(log_weights) - np.log(n)
    of_mean = np.exp(log_weights - plain).std(ddof=1) / n**0.5
    mean = float(logsumexp(smoothed_log_weights(log_weights)[0]) - np.log(n))
    se = np.sqrt(of_mean**2 + (pareto_log_mean(log_weights) - mean) ** 2 + (UNSEEN * max(kl, 0.0)) ** 2)
    return Evidence(mean, float(se), METHOD)


def withheld(reason: str) -> Evidence:
    """No evidence, and why."""
    return Evidence(np.nan, np.nan, f"withheld: {reason}")


class ComparedModel(NamedTuple):
    """A row of ``Comparison``.

    Attributes:
        name: of the model.
        log_evidence, se: of it, in nats.
        log_bayes_factor, bayes_factor_se: its log evidence minus that of the most probable model, and the error of the
            difference; 0 for that one.
        probability, probability_se: of the model, given the data and that one of these is true.
    """

    name: str
    log_evidence: float
    se: float
    log_bayes_factor: float
    bayes_factor_se: float
    probability: float
    probability_se: float


class Comparison(tuple[ComparedModel, ...]):
    """Models of the same data, the most probable first; prints as a table."""

    def __repr__(self) -> str:
        rows = [("model", "log evidence", "log Bayes factor", "probability")]
        for m in self:
            difference = f"{m.log_bayes_factor:.3f} ± {m.bayes_factor_se:.3f}" if m is not self[0] else "0"
            probability = f"{m.probability:.3f} ± {m.probability_se:.3f}"
            rows.append((m.name, f"{m.log_evidence:.3f} ± {m.se:.3f}", difference, probability))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)


def compare(results: Mapping[str, Any], *, prior: Mapping[str, float] | None = None) -> Comparison:
    """Compares models by their evidence. That they are of the same data is yours to see to.

    Args:
        results: of ``fit``, by the name of the model, or an ``Evidence`` itself.
        prior: positive weights of the models; None: all alike.

    Returns:
        The models, the most probable first, with log Bayes factors against it.

    Raises:
        ValueError: the evidence of a model is withheld; no models; other names, or no positive number, in ``prior``.
        TypeError: no results by name.

    Example:
        >>> import ppl_flows as pf
        >>> from ppl_flows.inference.evidence import Evidence
        >>> pf.compare({"line": Evidence(-310.1, 0.01, ""), "curve": Evidence(-301.7, 0.01, "")})
        model  log evidence      log Bayes factor  probability
        curve  -301.700 ± 0.010  0                 1.000 ± 0.000
        line   -310.100 ± 0.010  -8.400 ± 0.014    0.000 ± 0.000
    """
    if not isinstance(results, Mapping):
        raise TypeError(f'compare takes {{"name": result, ...}}, got {type(results).__name__}.')
    if not results:
        raise ValueError('compare takes {"name": result, ...}, and got no models.')
    found = {str(name): _evidence(name, result) for name, result in results.items()}
    weights = _prior_weights(found, prior)
    means = np.array([evidence.mean for evidence in found.values()])
    variances = np.array([evidence.se**2 for evidence in found.values()])
    log_posterior = means + np.log(weights)
    p = softmax(log_posterior)
    order = np.argsort(-log_posterior, kind="stable")
    first = order[0]
    spread = np.sqrt(np.where(np.arange(len(p)) == first, 0.0, variances + variances[first]))
    slopes = p[:, None] * (np.eye(len(p)) - p)  # of the probabilities in the log evidences
    of_p = (slopes**2 @ variances) ** 0.5
    names, columns = [*found], (means, variances**0.5, means - means[first], spread, p, of_p)
    return Comparison(ComparedModel(names[i], *(float(column[i]) for column in columns)) for i in order)


def _prior_weights(found: Mapping[str, Evidence], prior: Mapping[str, float] | None) -> np.ndarray:
    if prior is None:
        return np.ones(len(found))
    given = {str(name): weight for name, weight in prior.items()} if isinstance(prior, Mapping) else {}
    numbers = [w for w in given.values() if isinstance(w, int | float | np.number) and np.isfinite(w) and w > 0]
    if given.keys() != found.keys() or len(numbers) < len(given):
        raise ValueError(f"compare: prior takes a positive weight for each of {', '.join(found)}, got {prior!r}.")
    return np.array([float(given[name]) for name in found])


def _evidence(name: str, result: Any) -> Evidence:
    evidence = result if isinstance(result, Evidence) else getattr(result, "log_evidence", None)
    if not isinstance(evidence, Evidence):
        raise TypeError(f"compare: {name!r} must be a result of fit, got {type(result).__name__}.")
    if not (np.isfinite(evidence.mean) and np.isfinite(evidence.se)):
        raise ValueError(f"compare: the evidence of {name!r} is {evidence.method}.")
    return evidence
