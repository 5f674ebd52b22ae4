"""Pareto k-hat against ArviZ, on weights of known and unknown tails."""

import arviz as az
import numpy as np
import pytest
from scipy import stats

from ppl_flows.numerics.pareto_smoothing import pareto_khat


@pytest.mark.parametrize("shape", [-0.3, 0.1, 0.5, 0.9, 1.3])
@pytest.mark.parametrize("n", [500, 4_000])
def test_khat_is_arvizs_and_near_the_true_tail(shape, n):
    weights = stats.genpareto(shape).rvs(n, random_state=0)
    log_weights = np.log(weights) + 1234.5
    khat = pareto_khat(log_weights)
    assert khat == pytest.approx(float(az.psislw(log_weights)[1]), abs=1e-6)
    if n == 4_000:  # of 500 weights only 68 are the tail
        assert khat == pytest.approx(shape, abs=0.3)


def test_weights_without_a_tail_or_not_finite_give_infinity():
    assert pareto_khat(np.zeros(1_000)) == np.inf
    assert pareto_khat(np.array([0.0] * 999 + [np.inf])) == np.inf
    assert pareto_khat(np.array([0.0] * 999 + [np.nan])) == np.inf
