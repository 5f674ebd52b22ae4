"""Log evidence by bridge sampling between a guide's draws and draws of the posterior itself. NumPy only."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from ppl_flows.inference.evidence import Evidence
from ppl_flows.numerics.chain_diagnostics import effective_sample_size
from ppl_flows.numerics.pareto_smoothing import pareto_log_mean

ITERATIONS = 100  # of a fixed point that a dozen usually reach
METHOD = "bridge sampling between the guide and exact draws"


def bridge_evidence(proposed: np.ndarray, chains: np.ndarray) -> Evidence:
    """From log weights ``log p(z, data) - log q(z)``, in nats.

    The variance has three parts: that of bridge sampling, with the chains' correlations; the squares of what it differs
    from importance sampling by the guide's draws alone, and of what that changes with the mean of a Pareto tail in
    place of the largest weights. Where a neck of the posterior is hardly visited, each is biased in its own way.

    Args:
        proposed: of draws from the guide, ``(m,)``.
        chains: of draws of the posterior, ``(chains, n)``.

    Reference: Meng & Wong (1996), Simulating ratios of normalizing constants via a simple identity, eq. 4.1, for the
    estimate; Frühwirth-Schnatter (2004), Estimating marginal likelihoods by bridge sampling, for its error.
    """
    m, n = len(proposed), float(effective_sample_size(chains) if np.ptp(chains) > 0 else chains.size)
    of_q, of_p = m / (m + n), n / (m + n)
    by_importance = float(logsumexp(proposed) - np.log(m))
    log_z, flat = by_importance, chains.ravel()
    for _ in range(ITERATIONS):
        over = proposed - np.logaddexp(np.log(of_p) + proposed, np.log(of_q) + log_z)
        under = -np.logaddexp(np.log(of_p) + flat, np.log(of_q) + log_z)
        new = float(logsumexp(over) - np.log(m) - logsumexp(under) + np.log(len(flat)))
        if abs(new - log_z) < 1e-10:
            break
        log_z = new
    f_q, f_p = np.exp(over - over.max()), np.exp(under - under.max()).reshape(chains.shape)
    parts = [
        f_q.std() / f_q.mean() / m**0.5,
        f_p.std() / f_p.mean() / float(effective_sample_size(f_p)) ** 0.5 if np.ptp(f_p) > 0 else 0.0,
        by_importance - log_z,
        pareto_log_mean(proposed) - by_importance,
    ]
    return Evidence(log_z, float(np.linalg.norm(parts)), METHOD)
