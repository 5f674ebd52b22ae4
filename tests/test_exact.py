"""``result.exact`` and ``FlowKernel``: draws of the posterior itself, and what they say where they are not."""

import pickle

import arviz as az
import jax
import numpy as np
import pyro.infer
import pytest
from languages import LANGUAGES, SHORT, small
from numpyro.infer import MCMC

import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.inference.bridge_evidence import bridge_evidence
from ppl_flows.inference.exact import run_until_exact, start_chains
from ppl_flows.inference.flow_chains import Tilt, coordinate_names
from ppl_flows.inference.flow_moves import log_acceptance, set_out
from ppl_flows.numerics.chain_diagnostics import bulk_ess, effective_sample_size, rank_rhat

LOG_Z = 1.25


class Space:
    """Flows that are shifts of a standard normal; the posterior is a function of the latent vector."""

    def __init__(self, log_posterior, *, means=((0.0, 0.0),), shares=(1.0,)):
        self.log_posterior, self.means, self.shares = log_posterior, np.array(means), np.array(shares)
        self.coordinates = coordinate_names({"a": (), "b": (1,)})

    def log_q(self, u):
        each = -0.5 * ((u[:, None] - self.means) ** 2).sum(-1) + np.log(self.shares) - np.log(2 * np.pi)
        return each, np.logaddexp.reduce(each, axis=1)

    def to_latents(self, z, flow):
        return z + self.means[flow]

    def weigh(self, z, flow):
        def log_weight(z):
            u = self.to_latents(z, flow)
            return self.log_posterior(u) - self.log_q(u)[1]

        steps = 1e-6 * np.eye(2)
        ahead, behind = ([log_weight(z + sign * step) for step in steps] for sign in (1, -1))
        with np.errstate(invalid="ignore"):  # where there is no density
            return log_weight(z), (np.stack(ahead, -1) - np.stack(behind, -1)) / 2e-6

    def in_all_flows(self, z, flow):
        u = self.to_latents(z, flow)
        return u[:, None] - self.means, self.log_q(u)[0]


def normal(mean, sd, log_z=LOG_Z):
    mean, sd = np.array(mean), np.array(sd)
    constant = log_z - np.log(sd).sum() - np.log(2 * np.pi)
    return lambda u: constant - 0.5 * (((u - mean) / sd) ** 2).sum(-1)


def two_modes(u):
    left, right = normal([-3.0, 0.0], [1.0, 1.0]), normal([3.0, 0.0], [1.0, 1.0])
    return np.logaddexp(left(u) + np.log(0.7), right(u) + np.log(0.3))


def run(space, n=2_000, *, max_gradients=400_000, missed="", seed=0):
    return run_until_exact(space, n, num_chains=32, max_gradients=max_gradients, missed=missed, seed=seed)


@pytest.mark.parametrize("kick", [0.0, 0.35])
def test_a_move_and_its_way_back_have_opposite_ratios(kick):
    rng = np.random.default_rng(0)
    z, momentum, slope, new_slope = rng.standard_normal((4, 5, 3))
    angle, kick = np.full((5, 1), 0.7), np.full((5, 1), kick)
    there = set_out(z, slope, momentum, angle, kick)
    back = set_out(there.z, new_slope, -(there.momentum + kick * new_slope), angle, kick)
    np.testing.assert_allclose(back.z, z, atol=1e-12)
    w, new_w = rng.standard_normal((2, 5))
    ratio, ratio_back = log_acceptance(there, w, new_w, new_slope), log_acceptance(back, new_w, w, slope)
    np.testing.assert_allclose(ratio, -ratio_back, atol=1e-12)


def test_chains_have_the_posteriors_moments_and_evidence_where_the_flow_has_not():
    found = run(Space(normal([0.5, -0.4], [0.7, 0.8])), seed=1)
    draws = found.latents.reshape(-1, 2)
    error = 5 / found.checked.ess**0.5
    np.testing.assert_allclose(draws.mean(0), [0.5, -0.4], atol=error)
    np.testing.assert_allclose(draws.std(0), [0.7, 0.8], atol=error)
    assert not found.alarms
    assert found.checked.ess > 2_000
    assert found.checked.rhat < 1.01
    assert abs(found.evidence.mean - LOG_Z) < 4 * found.evidence.se < 0.1
    assert found.gradients < 40_000


def test_chains_go_from_one_flow_to_another_as_the_posterior_has_it():
    found = run(Space(two_modes, means=((-3.0, 0.0), (3.0, 0.0)), shares=(0.5, 0.5)))  # and not as the guide has it
    assert abs((found.latents[..., 0] < 0).mean() - 0.7) < 0.05
    assert not found.alarms
    assert abs(found.evidence.mean - LOG_Z) < 4 * found.evidence.se < 0.1


def test_what_the_guide_lacks_is_an_alarm_by_name():
    lacking = run(Space(normal([0.0, 0.0], [1.0, 4.0])), max_gradients=20_000)
    assert "b[0]" in lacking.alarms[0]
    assert np.isnan(lacking.evidence.mean)
    assert lacking.evidence.method.startswith("withheld: ")
    short = run(Space(normal([0.3, 0.0], [0.9, 0.9])), 100_000, max_gradients=20_000)
    assert "effective sample size" in short.alarms[0]
    assert "a mode near 3" in run(Space(normal([0, 0], [1, 1])), 100, missed="a mode near 3").alarms[0]


def test_a_guide_that_is_the_posterior_is_no_alarm():
    space = Space(normal([0.0, 0.0], [1.0, 1.0]))
    space.weigh = lambda z, flow: (np.full(len(z), LOG_Z), np.zeros_like(z))
    found = run(space)
    assert not found.alarms
    assert found.checked.ess > 2_000
    assert found.gradients < 20_000
    assert found.evidence.mean == pytest.approx(LOG_Z)
    assert found.evidence.se == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("budget", [276 * 32, 20_000])
def test_no_more_gradients_than_allowed_are_spent(budget):
    spaces = Space(normal([0.3, 0.0], [0.9, 0.9])), Space(normal([0.0, 0.0], [1.0, 1.4]))  # which is looked at twice
    assert all(run(space, n, max_gradients=budget).gradients <= budget for space in spaces for n in (10, 100_000))


def test_no_draw_with_a_density_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"0 of 1024 draws of the guide are possible .* train the guide longer"):
        run(Space(lambda u: np.full(len(u), -np.inf)))


def test_a_tilt_is_continuous_and_has_its_own_gradient():
    tilt, w = Tilt(1.0), np.linspace(-3, 20, 2_001)
    value, slope = tilt(w, np.ones((len(w), 1)))
    np.testing.assert_allclose(np.gradient(value, w)[::7], slope[::7, 0], atol=0.26)  # at its two corners
    np.testing.assert_array_equal(value[w < 3], w[w < 3])
    assert value[-1] == pytest.approx(24)


def test_bridge_sampling_knows_the_evidence_and_its_error():
    space, errors = Space(normal([0.4, 0.0], [1.0, 0.8])), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        z, flow = rng.standard_normal((500, 2)), np.zeros(500, int)
        u = np.array([0.4, 0.0]) + rng.standard_normal((500, 2)) * [1.0, 0.8]
        found = bridge_evidence(space.weigh(z, flow)[0], space.weigh(u, flow)[0].reshape(10, 50))
        errors.append((found.mean - LOG_Z) / found.se)
    assert np.mean(np.abs(errors) < 2) >= 0.88
    assert 0.4 < np.std(errors) < 1.3


@pytest.mark.parametrize("phi", [-0.4, 0.0, 0.6])
def test_diagnostics_of_chains_are_arvizs(phi):
    x = np.random.default_rng(3).standard_normal((4, 301, 2))
    for t in range(1, x.shape[1]):
        x[:, t] += phi * x[:, t - 1]
    x[..., 1] = np.exp(x[..., 1])
    data = az.convert_to_dataset({"x": x})
    np.testing.assert_allclose(rank_rhat(x), az.rhat(data)["x"], rtol=1e-12)
    np.testing.assert_allclose(bulk_ess(x), az.ess(data)["x"], rtol=1e-3)
    np.testing.assert_allclose(effective_sample_size(x)[0], az.ess(x[..., 0], method="identity"), rtol=1e-3)
    assert np.isnan(rank_rhat(np.ones((4, 10)))), "chains that stand still agree on nothing"


DATA = np.array([1.4, 0.2, 2.1])


@pytest.fixture(scope="module")
def gamma_fits():
    """A posterior known by conjugacy, Gamma(2 + 3, 1 + sum(DATA)), and a deterministic site; by language."""
    import torch

    fits, dtype = {}, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    for name, lang in LANGUAGES.items():

        def model(y, lang=lang):
            rate = lang.ppl.sample("rate", lang.dist.Gamma(lang.array(2.0), lang.array(1.0)))
            lang.ppl.deterministic("mean", 1 / rate)
            with lang.ppl.plate("rows", 3):
                lang.ppl.sample("y", lang.dist.Exponential(rate), obs=y)

        pyro.clear_param_store()
        y = lang.array(DATA)
        fits[name] = lang.fit(model, lang.AutoFlow(model, small, start="laplace"), y, seed=0, **SHORT), y
    torch.set_default_dtype(dtype)
    return fits


@pytest.fixture(params=["pyro", "numpyro"])
def gamma_fit(request, gamma_fits, float64):
    return request.param, *gamma_fits[request.param]


def test_exact_draws_of_a_conjugate_model(gamma_fit):
    _, result, _ = gamma_fit
    draws = result.exact(1_000)
    assert not draws.alarms
    rate = np.asarray(draws.samples["rate"])
    shape, total = 5.0, 1 + DATA.sum()
    error = 5 / draws.ess**0.5
    assert rate.mean() == pytest.approx(shape / total, abs=error * shape**0.5 / total)
    assert rate.std() == pytest.approx(shape**0.5 / total, rel=error)
    np.testing.assert_allclose(np.asarray(draws.samples["mean"]), 1 / rate, rtol=1e-12)
    log_z = np.log(24) - 5 * np.log(total)  # Gamma(5) / total^5
    assert abs(draws.log_evidence.mean - log_z) < 5 * draws.log_evidence.se < 0.05
    data = draws.to_arviz(prior=5)
    assert data.posterior["rate"].shape == (32, len(rate) // 32)
    np.testing.assert_array_equal(data.posterior["rate"].values.ravel(), rate)
    assert data.log_likelihood["y"].shape == (32, len(rate) // 32, 3)
    assert {"lp", "log_weight", "acceptance_rate"} <= {*data.sample_stats}
    assert len(data.prior["rate"].values.ravel()) == 5
    assert "draws of 32 chains" in repr(draws)


def test_strict_raises_with_the_draws(gamma_fit):
    language, result, _ = gamma_fit
    library = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}[language]
    with pytest.warns(UserWarning, match="effective sample size is .* give it more max_gradients"):
        draws = result.exact(5_000, num_chains=8, max_gradients=4_000)
    assert draws.alarms
    with pytest.raises(library.ExactError, match="effective sample size") as caught:
        result.exact(5_000, num_chains=8, max_gradients=4_000, strict=True)
    np.testing.assert_array_equal(caught.value.draws.samples["rate"], draws.samples["rate"])
    assert pickle.loads(pickle.dumps(draws.samples)).keys() == draws.samples.keys()
    with pytest.raises(ValueError, match="num_chains must be at least 2"):
        result.exact(100, num_chains=1)
    with pytest.raises(ValueError, match=r"at least 2,208 for 8 chains, .* got 2,000"):
        result.exact(100, num_chains=8, max_gradients=2_000)


def test_the_kernel_in_the_hosts_mcmc(gamma_fit):
    language, result, y = gamma_fit
    if language == "pyro":
        kernel = ppl_flows.pyro.FlowKernel(result)
        mcmc = pyro.infer.MCMC(kernel, num_samples=300, warmup_steps=50, disable_progbar=True)
        mcmc.run()
        data = az.from_pyro(mcmc)
        assert mcmc.diagnostics()["acceptance rate"]["chain 0"] > 0.5
        again = kernel
    else:
        mcmc = MCMC(ppl_flows.numpyro.FlowKernel(result), num_warmup=50, num_samples=300, progress_bar=False)
        mcmc.run(jax.random.key(0), y)
        data = az.from_numpyro(mcmc)
        np.testing.assert_allclose(mcmc.get_samples()["mean"], 1 / mcmc.get_samples()["rate"])
        again = ppl_flows.numpyro.FlowKernel(result)
    rate = data.posterior["rate"].values.ravel()
    error = 5 / float(az.ess(data.posterior)["rate"]) ** 0.5
    assert rate.mean() == pytest.approx(5 / (1 + DATA.sum()), abs=error * 5**0.5 / (1 + DATA.sum()))
    with pytest.raises(ValueError, match="arguments are not those of the fit"):
        again.model.check((y + 1,), {})
    with pytest.raises(TypeError, match="FlowKernel takes a result of fit, got float"):
        type(again)(1.0)


@pytest.mark.slow_in_numpyro
def test_only_a_flow_has_a_base_space(lang):
    def model():
        lang.ppl.sample("x", lang.dist.Normal(lang.array(0.0), 1.0))

    guide = lang.autoguide.AutoNormal(model)
    result = lang.fit(model, guide, steps=1, num_particles=2, draws=100, progress=False)
    with pytest.raises(TypeError, match=r"the guide is AutoNormal; fit AutoFlow\(model\)"):
        result.exact(10)


def test_starts_are_different_draws_of_the_guide():
    chains, log_weights = start_chains(Space(normal([0.2, 0.0], [1.0, 1.0])), 16, np.random.default_rng(0))
    assert len(np.unique(chains.z, axis=0)) == 16
    assert chains.gradients == len(log_weights) == 32 * 16
