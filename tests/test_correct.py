"""``AmortizedFit.correct``: amortised posteriors of a conjugate model, judged and corrected by its likelihood."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as tdist
import pytest
import torch
from scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows.core.params import flatten

DESIGN = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
COVARIANCE = np.linalg.inv(np.eye(2) + DESIGN.T @ DESIGN / 0.25)
Y = DESIGN @ np.array([1.0, -1.0]) + 0.3
MEAN, SD = COVARIANCE @ DESIGN.T @ Y / 0.25, np.sqrt(np.diag(COVARIANCE))
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(3), DESIGN @ DESIGN.T + 0.25 * np.eye(3)).logpdf(Y)
BARE = {"check_modes": False, "progress": False, "draws": 2_000}


def numpyro_model(y):
    """The second number first: hosts have sites in the order of the model, amortised flows may not."""
    b = numpyro.sample("b", ndist.Normal(0.0, 1.0))
    a = numpyro.sample("a", ndist.Normal(0.0, 1.0))
    numpyro.sample("y", ndist.Normal(jnp.asarray(DESIGN) @ jnp.stack([a, b]), 0.5).to_event(1), obs=y)


def pyro_model(y):
    b = pyro.sample("b", tdist.Normal(0.0, 1.0))
    a = pyro.sample("a", tdist.Normal(0.0, 1.0))
    mean = torch.stack([a, b], dim=-1) @ torch.as_tensor(DESIGN).to(a).T
    pyro.sample("y", tdist.Normal(mean, 0.5).to_event(1), obs=y)


LANGUAGES = {
    "pyro": (pfp, pyro_model, lambda y: torch.tensor(y, dtype=torch.float32)),
    "numpyro": (pfn, numpyro_model, jnp.asarray),
}


def small(dim, *, context_dim):
    return pf.maf(dim, flow_layers=2, hidden=(32,), context_dim=context_dim)


def numpyro_encoder(data):
    """The data as they are: a training with an encoder starts at no regression, which would be right at once."""
    return numpyro.param("scale", jnp.array(1.0)) * data["y"]


class PyroEncoder(torch.nn.Module):
    """Likewise."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, data):
        return self.scale * data["y"]


@cache
def trained(language, steps, *, encoder=True):
    """3 steps are hopeless, 60 poor, 300 good; without an encoder a regression is right at once."""
    shell, model, array = LANGUAGES[language]
    encoder = {} if not encoder else {"encoder": PyroEncoder() if language == "pyro" else numpyro_encoder}
    if language == "pyro":
        encoder["compile"] = False
    options = {"flow": small, "simulations": 5_000, "batch_size": 256, "lr": 3e-3, "progress": False, **encoder}
    return shell.fit_amortized(model, array(np.zeros(3)), steps=steps, **options)


def moments(draws):
    """By how many standard deviations the means are off, and by what factors the standard deviations are."""
    rows = np.stack([np.asarray(draws[name]) for name in "ab"], axis=-1)
    return np.abs(rows.mean(0) - MEAN) / SD, rows.std(0) / SD


def assert_exact(draws, tolerance=0.1):
    """5 standard errors of the mean of 2,000 draws and more; as many of the standard deviation."""
    off, factor = moments(draws)
    assert np.all(off < tolerance), off
    np.testing.assert_allclose(factor, 1, atol=tolerance)


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_poor_amortised_posterior_is_judged_reweighted_and_repaired(language):
    fit, array = trained(language, 60), LANGUAGES[language][2]
    before = {name: np.asarray(a).copy() for name, a in flatten(fit.density.params)}
    as_it_is = fit.correct(array(Y), **BARE)
    assert as_it_is.losses.shape == (0,)
    assert as_it_is.grade == "do not trust"
    assert "try correct with more steps" in as_it_is.verdict
    assert np.isnan(as_it_is.log_evidence.mean)
    assert moments(as_it_is.sample(2_000))[1].max() > 1.2
    assert as_it_is.khat < 0.7
    assert_exact(as_it_is.reweighted(4_000))
    repaired = fit.correct(array(Y), steps=100, num_particles=32, lr=5e-3, **BARE)
    assert repaired.grade == "good"
    assert repaired.losses[-20:].mean() < repaired.losses[:5].mean() - 0.1
    assert_exact(repaired.sample(4_000))
    assert repaired.log_evidence.mean == pytest.approx(LOG_EVIDENCE, abs=0.01)
    after = dict(flatten(fit.density.params))
    assert all(np.array_equal(np.asarray(after[name]), a) for name, a in before.items()), "it is as it was"


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_good_amortised_posterior_is_called_so_for_every_data_set(language):
    array = LANGUAGES[language][2]
    before = set(pyro.get_param_store())
    for scale in (1.0, -0.5):
        result = trained(language, 300).correct(array(scale * Y), **BARE)
        covariance = DESIGN @ DESIGN.T + 0.25 * np.eye(3)
        evidence = stats.multivariate_normal(np.zeros(3), covariance).logpdf(scale * Y)
        assert result.grade == "good"
        assert result.log_evidence.mean == pytest.approx(evidence, abs=0.02)
        own = trained(language, 300).sample(2_000, array(scale * Y))
        drawn = result.sample(2_000)
        for name in "ab":  # the same distribution, its sites in their places
            assert stats.ks_2samp(np.asarray(own[name]), np.asarray(drawn[name])).pvalue > 1e-4
    assert set(pyro.get_param_store()) == before, "Pyro's store is left alone"


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_hopeless_is_not_trusted_and_some_hundred_steps_repair_even_that(language):
    fit, array = trained(language, 3), LANGUAGES[language][2]
    hopeless = fit.correct(array(Y), progress=False)
    assert hopeless.grade == "do not trust"
    assert hopeless.kl.mean > 1
    repaired = fit.correct(array(Y), steps=400, progress=False)
    assert repaired.grade == "good", repaired.verdict
    assert repaired.log_evidence.mean == pytest.approx(LOG_EVIDENCE, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_exact_draws_start_from_an_amortised_posterior(language):
    draws = trained(language, 60).correct(LANGUAGES[language][2](Y), **BARE).exact(2_000)
    assert not draws.alarms
    assert_exact(draws.samples, tolerance=0.12)  # of an effective sample size of 2,000
    assert draws.log_evidence.mean == pytest.approx(LOG_EVIDENCE, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("written", "read"), [("pyro", "numpyro"), ("numpyro", "pyro")])
def test_files_of_either_language_are_corrected_in_the_other_and_results_are_files(tmp_path, written, read):
    trained(written, 300, encoder=False).save(tmp_path / "amortised")
    shell, model, array = LANGUAGES[read]
    result = shell.load_amortized(tmp_path / "amortised", model).correct(array(Y), **BARE)
    assert result.grade == "good"
    assert_exact(result.sample(4_000), tolerance=0.2)  # the flow itself is off by about a tenth
    result.save(tmp_path / "corrected")
    _, again = shell.AutoFlow.load(tmp_path / "corrected", model, array(Y))
    for name in "ab":
        np.testing.assert_allclose(np.asarray(again.sample(9)[name]).shape, (9,))
    assert "try correct with more steps" in replace(again, kl=again.kl._replace(mean=1.0)).verdict
    assert_exact(again.reweighted(4_000))
    shell, model, array = LANGUAGES[written]
    assert_exact(shell.AutoFlow.load(tmp_path / "corrected", model, array(Y))[1].reweighted(4_000))


@pytest.mark.slow
def test_an_encoder_makes_the_context_of_a_correction():
    encoder = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 4))

    class OfY(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = encoder

        def forward(self, data):
            return self.net(data["y"])

    y = torch.tensor(Y, dtype=torch.float32)
    options = {"flow": small, "steps": 800, "lr": 5e-3, "simulations": 5_000, "compile": False, "progress": False}
    fit = pfp.fit_amortized(pyro_model, torch.zeros(3), encoder=OfY(), **options)
    result = fit.correct(y, progress=False)
    assert result.kl.mean < 0.3
    assert_exact(result.reweighted(4_000))
    assert_exact({name: result.to_arviz(4_000, reweighted=True).posterior[name].values[0] for name in "ab"})


def test_a_model_that_only_simulates_has_nothing_to_correct_by():
    class OnlyDraws(tdist.Normal):
        def log_prob(self, value):
            raise NotImplementedError

    def model(y):
        pyro.sample("y", OnlyDraws(pyro.sample("z", tdist.Normal(0.0, 1.0)), 1.0), obs=y)

    fit = pfp.fit_amortized(model, torch.tensor(0.0), flow=pf.Elementwise, simulations=100, steps=2, progress=False)
    with pytest.raises(ValueError, match=r"'y' come from a OnlyDraws, which has no log_prob.*fit_likelihood"):
        fit.correct(torch.tensor(1.0))
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        fit.correct(torch.tensor(1.0), steps=-1)


def test_a_bijection_without_a_context_is_not_put_at_one():
    with pytest.raises(ValueError, match="takes no context"):
        pf.AtContext(pf.Coupling(2))
