"""``fit_likelihood``: learned densities of rows against known ones, in plates, under NUTS and ``fit``, and in files."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import numpyro.infer
import pyro
import pyro.distributions as tdist
import pyro.infer
import pytest
import torch
from scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp

ROWS, SCALE = 20, 0.8
DATA = np.random.default_rng(1).normal([0.7, -0.4], SCALE, (ROWS, 2)).astype(np.float32)
VARIANCE = 1 / (1 + ROWS / SCALE**2)  # of the posterior of each mean, whose prior is standard normal
MEAN = VARIANCE * DATA.sum(0) / SCALE**2


def pyro_simulator(y):
    """Two means seen through noise that is a site of its own, in which no density is left: the data are a Delta."""
    mu = pyro.sample("mu", tdist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", 2):
        noise = pyro.sample("noise", tdist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", tdist.Delta(mu + SCALE * noise, event_dim=1), obs=y)


def numpyro_simulator(y):
    mu = numpyro.sample("mu", ndist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", 2):
        noise = numpyro.sample("noise", ndist.Normal(jnp.zeros(2), 1.0).to_event(1))
        numpyro.sample("y", ndist.Delta(mu + SCALE * noise, event_dim=1), obs=y)


def pyro_tensor(y):
    return torch.tensor(np.asarray(y), dtype=torch.float32)


LANGUAGES = {"pyro": (pfp, pyro_simulator, pyro_tensor), "numpyro": (pfn, numpyro_simulator, jnp.asarray)}


def normal_given(dim, *, context_dim):
    """A normal, its location and log scale linear in the context."""
    return pf.Elementwise(dim, pf.Affine(), context_dim=context_dim, conditioner=pf.MLP(()))


def small(dim, *, context_dim):
    return pf.maf(dim, flow_layers=2, hidden=(32,), context_dim=context_dim)


@cache
def learned(language, steps=300, flow=normal_given):
    shell, simulator, array = LANGUAGES[language]
    options = {"flow": flow, "steps": steps, "lr": 1e-2, "simulations": 4_000, "progress": False}
    return shell.fit_likelihood(simulator, array(np.zeros((2, 2))), **options)


def posterior(language, likelihood):
    """The model of any number of rows, with the likelihood in the place of the simulator."""

    def of_pyro(y):
        mu = pyro.sample("mu", tdist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", likelihood.condition(mu=mu), obs=y)

    def of_numpyro(y):
        mu = numpyro.sample("mu", ndist.Normal(jnp.zeros(2), 1.0).to_event(1))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", likelihood.condition(mu=mu), obs=y)

    return {"pyro": of_pyro, "numpyro": of_numpyro}[language]


def draw(distribution, n):
    """Draws of a distribution of either language."""
    if hasattr(distribution, "has_rsample") and isinstance(distribution, torch.distributions.Distribution):
        return distribution.sample((n,)).numpy()
    return np.asarray(distribution.sample(jax.random.key(0), (n,)))


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_learned_likelihood_is_the_known_one_for_one_row_and_for_many(language):
    fit, array = learned(language), LANGUAGES[language][2]
    assert [site.name for site in fit.sites] == ["mu"], "noise belongs to the rows, and is integrated out"
    assert fit.density.losses[-30:].mean() < fit.density.losses[:10].mean() - 0.3
    assert len(fit.density.validation_losses) == 20
    for mu in ([0.5, -0.5], [-1.0, 1.0]):
        own = fit.condition(mu=mu)
        assert tuple(own.batch_shape) == ()
        assert tuple(own.event_shape) == (2,)
        rows = (DATA - DATA.mean(0) + mu).astype(np.float32)
        known = stats.norm(mu, SCALE).logpdf(rows).sum(-1)
        # the location and the log scale are learned to some hundredths
        np.testing.assert_allclose(np.asarray(own.log_prob(array(rows))), known, rtol=0.1, atol=0.1)
        assert abs(np.asarray(own.log_prob(array(rows))).mean() - known.mean()) < 0.05
        np.testing.assert_allclose(draw(own, 5_000).mean(0), mu, atol=0.1)
    batch = fit.condition(mu=np.zeros((4, 1, 2), np.float32))  # such as of particles, beside a plate of rows
    assert tuple(batch.batch_shape) == (4, 1)
    assert np.asarray(batch.log_prob(array(DATA))).shape == (4, ROWS)
    assert np.asarray(batch.expand((4, ROWS)).log_prob(array(DATA))).shape == (4, ROWS)


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("language", LANGUAGES)
def test_files_carry_a_likelihood_between_the_languages(language, tmp_path):
    fit = learned(language)
    fit.save(tmp_path / "likelihood")
    assert isinstance(pf.load(tmp_path / "likelihood"), pf.SavedLikelihood)
    score = np.asarray(fit.condition(mu=[0.5, -0.5]).log_prob(LANGUAGES[language][2](DATA)))
    for shell, _, array in LANGUAGES.values():
        again = shell.load_likelihood(tmp_path / "likelihood")
        np.testing.assert_allclose(np.asarray(again.condition(mu=[0.5, -0.5]).log_prob(array(DATA))), score, atol=1e-4)
        again.save(tmp_path / "again")
        assert (tmp_path / "again").exists()
    pf.save(tmp_path / "flow", fit.density.bijection, fit.density.params)
    with pytest.raises(ValueError, match="holds no learned likelihood"):
        pfp.load_likelihood(tmp_path / "flow")


@pytest.mark.long
@pytest.mark.parametrize("language", LANGUAGES)
def test_nuts_and_fit_with_a_learned_likelihood_find_the_closed_posterior_of_twenty_rows(language):
    shell, _, array = LANGUAGES[language]
    model = posterior(language, learned(language, 2_000, small))
    y = array(DATA)
    if language == "pyro":
        options = {"warmup_steps": 150, "num_samples": 400, "disable_progbar": True}
        chain = pyro.infer.MCMC(pyro.infer.NUTS(model, jit_compile=True, ignore_jit_warnings=True), **options)
        chain.run(y)
    else:
        chain = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=200, num_samples=500, progress_bar=False)
        chain.run(jax.random.key(0), y)
    result = shell.fit(model, shell.AutoFlow(model), y, progress=False)
    assert result.grade == "good"
    for draws in map(np.asarray, (chain.get_samples()["mu"], result.sample(2_000)["mu"])):
        # errors of a likelihood learned from 4,000 simulations add up over 20 rows
        assert np.all(np.abs(draws.mean(0) - MEAN) < 0.5 * VARIANCE**0.5)
        np.testing.assert_allclose(draws.std(0), VARIANCE**0.5, rtol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
def test_scales_and_positive_data_are_learned_on_the_unconstrained_scale(language):
    def of_pyro(y):
        loc, scale = pyro.sample("loc", tdist.Uniform(-2.0, 2.0)), pyro.sample("scale", tdist.LogNormal(-1.0, 0.5))
        pyro.sample("y", tdist.LogNormal(loc, scale), obs=y)

    def of_numpyro(y):
        loc = numpyro.sample("loc", ndist.Uniform(-2.0, 2.0))
        scale = numpyro.sample("scale", ndist.LogNormal(-1.0, 0.5))
        numpyro.sample("y", ndist.LogNormal(loc, scale), obs=y)

    shell, _, array = LANGUAGES[language]
    model, y = {"pyro": of_pyro, "numpyro": of_numpyro}[language], np.array([0.8, 1.5, 3.0])
    options = {"flow": normal_given, "steps": 400, "lr": 2e-2, "simulations": 4_000, "progress": False}
    fit = shell.fit_likelihood(model, array(1.0), **options)
    assert fit.row.support == {"name": "positive"}
    own = fit.condition(loc=0.5, scale=0.4)  # log y is normal, its log scale linear in that of the context
    known = stats.lognorm(0.4, scale=np.exp(0.5)).logpdf(y)
    np.testing.assert_allclose(np.asarray(own.log_prob(array(y))), known, atol=0.2)
    assert draw(own, 1_000).min() > 0
    assert np.asarray(own.log_prob(array(1.0))).shape == ()


def test_models_without_a_likelihood_to_learn_are_errors():
    def fit(site, **options):
        def model():
            z = pyro.sample("z", tdist.Normal(0.0, 1.0))
            site(z)

        return pfp.fit_likelihood(model, progress=False, **options)

    one = torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"'y' are discrete.*Let the model observe them with noise"):
        fit(lambda z: pyro.sample("y", tdist.Poisson(z.exp()), obs=one))
    with pytest.raises(ValueError, match=r"must have one site with obs, got \[\]"):
        fit(lambda z: None)
    with pytest.raises(ValueError, match=r"given names \['x'\], but the model's latents are \['z'\]"):
        fit(lambda z: pyro.sample("y", tdist.Normal(z, 1.0), obs=one), given=["x"])
    with pytest.raises(ValueError, match="simulations must be at least 100, got 5"):
        fit(lambda z: pyro.sample("y", tdist.Normal(z, 1.0), obs=one), simulations=5)
    with pytest.raises(ValueError, match="fit_likelihood: some numbers of 'y' are the same in all simulations"):
        fit(lambda z: pyro.sample("y", tdist.Delta(0.0 * z), obs=one), simulations=100)

    def loose(y):
        mu = numpyro.sample("mu", ndist.Normal(0.0, 1.0))
        numpyro.sample("y", ndist.Normal(mu * jnp.ones(3), 1.0), obs=y)

    with pytest.raises(ValueError, match=r"the axes \[-1\] of the batch are in no plate.*\.to_event\(1\)"):
        pfn.fit_likelihood(loose, jnp.zeros(3))


def test_latents_that_a_likelihood_is_not_given_are_errors():
    fit = learned("pyro")
    with pytest.raises(ValueError, match=r"is given \['mu'\], got \['nu'\]"):
        fit.condition(nu=0.0)
    with pytest.raises(ValueError, match=r"'mu' must have shape \(\*batch, \*\(2,\)\), got \(3,\)"):
        fit.condition(mu=np.zeros(3))


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("language", LANGUAGES)
def test_latents_outside_of_their_support_are_errors_and_gradients_pass(language):
    shell, _, array = LANGUAGES[language]
    ppl, dist = {"pyro": (pyro, tdist), "numpyro": (numpyro, ndist)}[language]

    def model(y):
        s, m = ppl.sample("s", dist.HalfNormal(1.0)), ppl.sample("m", dist.Uniform(0.0, 1.0))
        ppl.sample("y", dist.Normal(m, s), obs=y)

    options = {"flow": normal_given, "simulations": 200, "steps": 2, "progress": False}
    fit = shell.fit_likelihood(model, array(0.0), **options)
    for wrong, words in (
        ({"s": -1.0, "m": 0.5}, r"'s' must lie in its support, positive.*got -1"),
        ({"s": 1.0, "m": array([0.5, 7.0])}, r"'m' must lie in its support, unit_interval.*got \[0.5 7"),
        ({"s": 1.0, "m": np.nan}, "'m' must lie in its support"),
    ):
        with pytest.raises(ValueError, match=words):
            fit.condition(**wrong)
    if language == "pyro":
        outside = torch.tensor(7.0, requires_grad=True)  # as of NUTS, which may stray
        fit.condition(s=1.0, m=outside).log_prob(array(0.3)).backward()
        assert torch.isfinite(outside.grad)
    else:
        assert jnp.isfinite(jax.grad(lambda m: fit.condition(s=1.0, m=m).log_prob(0.3))(7.0))
