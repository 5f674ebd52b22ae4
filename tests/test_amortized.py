"""Posteriors that share a flow: between the rows of a plate, and between data sets. Both languages, exact oracles."""

from __future__ import annotations

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as tdist
import pytest
import torch
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.contrib.module import eqx_module
from numpyro.infer import Trace_ELBO as NumPyroELBO
from pyro import poutine
from pyro.infer import Trace_ELBO as PyroELBO
from scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro as pfn
import ppl_flows.pyro as pfp
from ppl_flows.core.params import flatten
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.local_flow import LocalStart

ROWS = 12
Y = np.random.default_rng(0).normal(1.5, 1.1, ROWS)
COVARIANCE = 4.0 * np.ones((ROWS, ROWS)) + 1.25 * np.eye(ROWS)
LOG_EVIDENCE = stats.multivariate_normal(np.zeros(ROWS), COVARIANCE).logpdf(Y)
MU_VARIANCE = 1 / (1 / 4 + ROWS / 1.25)
MU = MU_VARIANCE * Y.sum() / 1.25
Z = (MU + 4 * Y) / 5  # means of the local latents; their variances are 0.2 and that of mu / 25


def small(dim: int, *, context_dim: int) -> pf.Bijection:
    return pf.Elementwise(dim, pf.Affine(), context_dim=context_dim, conditioner=pf.MLP((4,)))


def small_iaf(dim: int) -> pf.Bijection:
    return pf.iaf(dim, flow_layers=1, hidden=(4,))


def numpyro_model(size=None):
    mu = numpyro.sample("mu", ndist.Normal(0.0, 2.0))
    with numpyro.plate("rows", ROWS, subsample_size=size) as rows:
        z = numpyro.sample("z", ndist.Normal(mu, 1.0))
        numpyro.sample("y", ndist.Normal(z, 0.5), obs=jnp.asarray(Y)[rows])


def pyro_model(size=None):
    mu = pyro.sample("mu", tdist.Normal(0.0, 2.0))
    with pyro.plate("rows", ROWS, subsample_size=size) as rows:
        z = pyro.sample("z", tdist.Normal(mu, 1.0))
        pyro.sample("y", tdist.Normal(z, 0.5), obs=torch.as_tensor(Y).to(mu)[rows])


LANGUAGES = {"pyro": (pfp, pyro_model), "numpyro": (pfn, numpyro_model)}


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()


# --- local latents


def numpyro_gradients(size, features, n):
    """Gradients of the ELBO, ``(n, parameters)``, away from the start."""
    guide = pfn.AutoLocalFlow(numpyro_model, "rows", features=features, flow=small_iaf, local_flow=small, start="init")
    trace = handlers.trace(handlers.seed(guide, 0)).get_trace(size)
    params = {name: site["value"] for name, site in trace.items() if site["type"] == "param"}
    flat, unflatten = ravel_pytree(params)
    flat = 0.3 * jax.random.normal(jax.random.key(1), flat.shape)  # the same for all minibatches, unlike the start

    def loss(vector, key):
        return NumPyroELBO().loss(key, unflatten(vector), numpyro_model, guide, size)

    return np.asarray(jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(flat, jax.random.split(jax.random.key(2), n)))


def pyro_gradients(size, features, n):
    pyro.clear_param_store()
    features = None if features is None else torch.as_tensor(features).to(torch.get_default_dtype())
    guide = pfp.AutoLocalFlow(pyro_model, "rows", features=features, flow=small_iaf, local_flow=small, start="init")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        guide(size)
        parameters = list(guide.parameters())
        with torch.no_grad():
            torch.manual_seed(1)
            for p in parameters:  # the same for all minibatches, unlike the start
                p.copy_(0.3 * torch.randn_like(p))
        torch.manual_seed(2)
        rows = []
        for _ in range(n):
            loss = PyroELBO(max_plate_nesting=1).differentiable_loss(pyro_model, guide, size)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            rows.append(
                torch.cat(
                    [
                        torch.zeros(p.numel()) if g is None else g.reshape(-1)
                        for p, g in zip(parameters, found, strict=True)
                    ]
                )
            )
    return torch.stack(rows).double().numpy()


@pytest.mark.long
@pytest.mark.parametrize("features", [None, pytest.param(Y[:, None], marks=pytest.mark.slow)], ids=["free", "features"])
@pytest.mark.parametrize(("gradients", "n"), [(pyro_gradients, 500), (numpyro_gradients, 5_000)], ids=LANGUAGES)
@pytest.mark.slow_in_numpyro
def test_a_minibatch_gives_an_unbiased_gradient_of_the_whole_elbo(gradients, n, features):
    full, part = gradients(None, features, n), gradients(3, features, n)
    error = np.sqrt((full.var(0) + part.var(0)) / n)
    assert np.all(np.abs(full.mean(0) - part.mean(0)) <= 5 * error + 1e-6)
    assert part.var(0).sum() > full.var(0).sum(), "a minibatch adds noise"
    assert np.abs(full.mean(0)).max() > 1


@pytest.mark.parametrize(
    ("language", "start"),
    [("pyro", "auto"), ("numpyro", "auto"), pytest.param("pyro", "init", marks=pytest.mark.slow)],
)
@pytest.mark.slow_in_numpyro
def test_global_and_local_posteriors_are_found(language, start):
    shell, model = LANGUAGES[language]
    guide = shell.AutoLocalFlow(model, "rows", flow=small_iaf, local_flow=small, start=start)
    steps = 500 if start == "init" else 20
    result = shell.fit(model, guide, steps=steps, num_particles=16, draws=2_000, lr=2e-2, progress=False)
    assert guide.start == {"auto": "full_rank"}.get(start, start)
    if start == "init":
        assert result.losses[-50:].mean() < result.losses[:20].mean() - 1
    assert -4 * result.elbo.se < LOG_EVIDENCE - result.elbo.mean < (0.2 if start == "init" else 0.02)
    draws = {name: np.asarray(value) for name, value in result.sample(2_000).items()}
    assert draws["mu"].mean() == pytest.approx(MU, abs=0.15 * MU_VARIANCE**0.5)
    np.testing.assert_allclose(draws["z"].mean(0), Z, atol=0.15 * 0.2**0.5)
    np.testing.assert_allclose(draws["z"].std(0), (0.2 + MU_VARIANCE / 25) ** 0.5, rtol=0.15)


def test_local_latents_start_at_the_conditional_of_a_gaussian_of_all():
    jacobian = np.concatenate([0.2 * np.ones((ROWS, 1)), np.ones((1, 1))])  # of z, then mu, which come in this order
    covariance = MU_VARIANCE * jacobian @ jacobian.T + np.diag([*np.full(ROWS, 0.2), 0.0])
    gaussian = Gaussian(np.append(Z, MU), np.linalg.cholesky(covariance))
    start = LocalStart.from_gaussian(gaussian, {"z": np.arange(ROWS), "mu": np.array(ROWS)}, ["z"])
    np.testing.assert_allclose(start.weight, [[0.2]], rtol=1e-6)
    np.testing.assert_allclose(start.loc[:, 0], 0.8 * Y, rtol=1e-6)
    np.testing.assert_allclose(start.log_scale, np.full((ROWS, 1), 0.5 * np.log(0.2)), rtol=1e-6)
    np.testing.assert_allclose(start.globals_.mean, [MU])
    np.testing.assert_allclose(start.globals_.factor, [[MU_VARIANCE**0.5]])
    wide = LocalStart.from_gaussian(Gaussian(gaussian.mean, np.arange(1.0, ROWS + 2)), {"z": np.arange(ROWS)}, ["z"])
    np.testing.assert_allclose(np.exp(wide.log_scale[:, 0]), np.arange(1, ROWS + 1))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.slow_in_numpyro
def test_a_sub_sampled_fit_moves_every_row_and_draws_all_of_them(language):
    shell, model = LANGUAGES[language]
    guide = shell.AutoLocalFlow(model, "rows", flow=small_iaf, local_flow=small)
    result = shell.fit(model, guide, size=4, steps=150, num_particles=4, draws=200, lr=3e-2, progress=False)
    assert result.losses[-50:].mean() < result.losses[:20].mean() - 1
    assert np.isnan(result.khat)
    z = np.asarray(result.sample(500)["z"])
    assert z.shape == (500, ROWS)
    assert np.corrcoef(z.mean(0), Z)[0, 1] > 0.9


@pytest.mark.parametrize("language", LANGUAGES)
def test_rows_that_it_cannot_serve_are_errors(language):
    shell, model = LANGUAGES[language]

    def call(guide):
        return guide() if language == "pyro" else handlers.seed(guide, 0)()

    with pytest.raises(ValueError, match="no latent site is in a plate named 'people'"):
        call(shell.AutoLocalFlow(model, "people"))
    with pytest.raises(ValueError, match="has 12 rows, but features 3"):
        call(shell.AutoLocalFlow(model, "rows", features=np.zeros((3, 1))))
    with pytest.raises(ValueError, match=r"features must have shape \(rows, size\)"):
        shell.AutoLocalFlow(model, "rows", features=np.zeros(ROWS))
    with pytest.raises(ValueError, match="AutoLocalFlow: unknown quality 'best'; choose one of"):
        shell.AutoLocalFlow(model, "rows", quality="best")
    with pytest.raises(TypeError, match="AutoLocalFlow: seed must be a whole number"):
        shell.AutoLocalFlow(model, "rows", seed="x")


# --- one posterior for all data

DESIGN = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]])
POSTERIOR = np.linalg.inv(np.eye(2) + DESIGN.T @ DESIGN / 0.25)


def numpyro_linear(y):
    theta = numpyro.sample("theta", ndist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", ndist.Normal(jnp.asarray(DESIGN) @ theta, 0.5).to_event(1), obs=y)


def pyro_linear(y):
    theta = pyro.sample("theta", tdist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", tdist.Normal(theta @ torch.as_tensor(DESIGN).to(theta).T, 0.5).to_event(1), obs=y)


def numpyro_mixture(y):
    """The sign of the latent is seen only through its square and one vague number."""
    theta = numpyro.sample("theta", ndist.Uniform(-2.0, 2.0))
    numpyro.sample("y", ndist.Normal(jnp.stack([theta**2, theta]), jnp.array([0.3, 2.0])).to_event(1), obs=y)


def pyro_mixture(y):
    theta = pyro.sample("theta", tdist.Uniform(-2.0, 2.0))
    mean = torch.stack([theta**2, theta], dim=-1)
    pyro.sample("y", tdist.Normal(mean, torch.tensor([0.3, 2.0])).to_event(1), obs=y)


def small_maf(dim, *, context_dim):
    return pf.maf(dim, flow_layers=2, hidden=(32,), context_dim=context_dim)


def small_nsf(dim, *, context_dim):
    return pf.nsf(dim, flow_layers=2, hidden=(32, 32), context_dim=context_dim)


def normal_given(dim, *, context_dim):
    """A normal, its location and log scale linear in the context."""
    return pf.Elementwise(dim, pf.Affine(), context_dim=context_dim, conditioner=pf.MLP(()))


AMORTIZED = {
    "pyro": (pfp.fit_amortized, pyro_linear, pyro_mixture, lambda y: torch.tensor(y, dtype=torch.float32)),
    "numpyro": (pfn.fit_amortized, numpyro_linear, numpyro_mixture, jnp.asarray),
}


@pytest.mark.slow
@pytest.mark.parametrize("language", AMORTIZED)
def test_the_amortized_posterior_of_a_linear_model_is_the_exact_one(language):
    fit_amortized, model, _, array = AMORTIZED[language]
    result = fit_amortized(model, array(np.zeros(3)), flow=small_maf, steps=800, lr=3e-3, progress=False)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * POSTERIOR)[1]
    assert result.density.validation_losses.min() == pytest.approx(entropy, abs=0.1), "held-out rows: se 0.02"
    rng, errors, ranks = np.random.default_rng(1), [], []
    for seed in range(60):
        theta = rng.normal(size=2)
        y = DESIGN @ theta + 0.5 * rng.normal(size=3)
        draws = np.asarray(result.sample(1_000, array(y), seed=seed)["theta"])
        errors.append((draws.mean(0) - POSTERIOR @ DESIGN.T @ y / 0.25) / np.sqrt(np.diag(POSTERIOR)))
        ranks.append((draws < theta).mean(0))
    assert np.sqrt(np.mean(np.square(errors))) < 0.1
    assert stats.kstest(np.concatenate(ranks), "uniform").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("language", AMORTIZED)
def test_the_amortized_posterior_of_a_bimodal_model_is_calibrated(language):
    fit_amortized, _, model, array = AMORTIZED[language]
    result = fit_amortized(model, array(np.zeros(2)), flow=small_nsf, steps=800, lr=3e-3, progress=False)
    rng, ranks, split = np.random.default_rng(2), [], []
    for seed in range(100):
        theta = rng.uniform(-2, 2)
        y = np.array([theta**2, theta]) + np.array([0.3, 2.0]) * rng.normal(size=2)
        draws = np.asarray(result.sample(500, array(y), seed=seed)["theta"])
        assert np.all(np.abs(draws) < 2)
        ranks.append((draws < theta).mean())
        split.append((draws < 0).mean())
    assert stats.kstest(ranks, "uniform").pvalue > 1e-3
    assert np.median(np.minimum(split, 1 - np.array(split))) > 0.1, "both modes are there"


def pyro_cubes(y):
    theta = pyro.sample("theta", tdist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", tdist.Normal(theta**3, 0.1).to_event(1), obs=y)


def numpyro_cubes(y):
    theta = numpyro.sample("theta", ndist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", ndist.Normal(theta**3, 0.1).to_event(1), obs=y)


@pytest.mark.parametrize("language", AMORTIZED)
def test_an_amortized_posterior_trains_and_follows_the_data(language):
    fit_amortized, _, _, array = AMORTIZED[language]
    calls = []
    result = fit_amortized(
        pyro_cubes if language == "pyro" else numpyro_cubes,
        array(np.zeros(2)),
        flow=small_maf,
        simulations=1_000,
        steps=100,
        lr=1e-2,
        progress=False,
        callback=lambda *call: calls.append(call[2]),
    )
    assert result.density.losses[-20:].mean() < result.density.losses[:10].mean() - 0.5
    assert result.density.validation_losses.min() < result.density.losses[:10].mean() - 0.5
    first, last = (dict(flatten(params)) for params in (calls[0], calls[-1]))
    moved = [np.any(np.asarray(first[n]) != np.asarray(last[n])) for n in first if "state" not in n]
    assert all(moved)
    draws = [np.asarray(result.sample(500, array([s, -s]))["theta"]) for s in (1.0, -1.0)]
    assert draws[0].shape == (500, 2)
    assert np.all(draws[0].mean(0) * [1, -1] > draws[1].mean(0) * [1, -1] + 0.5)


@pytest.mark.parametrize("language", AMORTIZED)
def test_models_that_cannot_be_amortized_are_errors(language):
    fit_amortized, model, _, array = AMORTIZED[language]
    with pytest.raises(ValueError, match=r"needs sites with obs, got \[\]"):
        fit_amortized(model, None)
    with pytest.raises(ValueError, match="simulations must be at least 100, got 5"):
        fit_amortized(model, array(np.zeros(3)), simulations=5)


# --- an encoder that trains with the flow

MEMBERS = 8  # each two numbers, given the latents: a set, whose order says nothing


def pyro_sets(y):
    theta = pyro.sample("theta", tdist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", tdist.Normal(theta.unsqueeze(-2).expand(*theta.shape[:-1], MEMBERS, 2), 1.0).to_event(2), obs=y)


def numpyro_sets(y):
    theta = numpyro.sample("theta", ndist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", ndist.Normal(jnp.broadcast_to(theta, (MEMBERS, 2)), 1.0).to_event(2), obs=y)


class DeepSet(torch.nn.Module):
    """A network per member, then their mean."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.member = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.SiLU(), torch.nn.Linear(32, 4))

    def forward(self, data):
        return self.member(data["y"]).mean(-2)


MEMBER = eqx.nn.MLP(2, 4, 32, 1, jax.nn.silu, key=jax.random.key(0))


def deep_set(data):
    """Of NumPyro, as ``DeepSet``."""
    return jax.vmap(jax.vmap(eqx_module("member", MEMBER)))(data["y"]).mean(-2)


ENCODED = {
    "pyro": (pfp.fit_amortized, pyro_sets, DeepSet(), lambda y: torch.tensor(y, dtype=torch.float32)),
    "numpyro": (pfn.fit_amortized, numpyro_sets, deep_set, jnp.asarray),
}


@pytest.mark.slow
@pytest.mark.parametrize("language", ENCODED)
def test_an_encoder_of_sets_trains_with_the_flow_and_finds_the_exact_posterior(language):
    fit_amortized, model, encoder, array = ENCODED[language]
    options = {"flow": normal_given, "encoder": encoder, "steps": 700, "batch_size": 256, "lr": 2e-2}
    options |= {"validation": 0.0, "progress": False}
    if language == "pyro":
        options["compile"] = "jit"
    result = fit_amortized(model, array(np.zeros((MEMBERS, 2))), **options)
    assert result.density.losses[-100:].mean() < result.density.losses[:50].mean() - 1
    probe = {"y": array(np.random.default_rng(0).normal(size=(3, MEMBERS, 2)))}
    start = encoder(probe).detach() if language == "pyro" else jax.vmap(jax.vmap(MEMBER))(probe["y"]).mean(-2)
    assert np.abs(np.asarray(result.density.encoder(probe)) - np.asarray(start)).max() > 0.1, "it did not train"
    rng, errors, ranks = np.random.default_rng(1), [], []
    for seed in range(40):
        theta = rng.normal(size=2)
        y = theta + rng.normal(size=(MEMBERS, 2))
        draws = np.asarray(result.sample(1_000, array(y), seed=seed)["theta"])
        errors.append((draws.mean(0) - y.sum(0) / (MEMBERS + 1)) * (MEMBERS + 1) ** 0.5)
        ranks.append((draws < theta).mean(0))
    assert np.sqrt(np.mean(np.square(errors))) < 0.1
    assert stats.kstest(np.concatenate(ranks), "uniform").pvalue > 1e-3
    shuffled = np.asarray(result.sample(1_000, array(y[::-1].copy()), seed=seed)["theta"])
    np.testing.assert_allclose(shuffled, draws, atol=1e-5)


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("language", ENCODED)
def test_an_encoder_of_sets_moves_with_the_flow_and_the_order_says_nothing(language):
    fit_amortized, model, encoder, array = ENCODED[language]
    options = {"flow": normal_given, "encoder": encoder, "simulations": 1_000, "steps": 60, "lr": 2e-2}
    result = fit_amortized(model, array(np.zeros((MEMBERS, 2))), progress=False, **options)
    assert result.density.losses[-10:].mean() < result.density.losses[:5].mean() - 0.5
    y = np.random.default_rng(0).normal(size=(3, MEMBERS, 2))
    start = encoder({"y": array(y)}).detach() if language == "pyro" else jax.vmap(jax.vmap(MEMBER))(array(y)).mean(-2)
    moved = np.asarray(result.density.encoder({"y": array(y)})) - np.asarray(start)
    assert np.abs(moved).max() > 0.1, "it did not train"
    one, shuffled = (np.asarray(result.sample(10, array(v.copy()), seed=0)["theta"]) for v in (y[0], y[0, ::-1]))
    np.testing.assert_allclose(shuffled, one, atol=1e-5)


PAIRS = np.random.default_rng(3).normal(size=(300, 2, 2))  # two members of two numbers each, in no site
SUMS = PAIRS.sum((1, 2))[:, None] + 0.1 * np.random.default_rng(4).normal(size=(300, 1))


def test_a_density_given_an_encoder_trains_a_copy_of_it_in_pyro():
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.01), torch.nn.Linear(4, 3))
    before = [p.detach().clone() for p in encoder.parameters()]
    fit = pfp.fit_density(
        normal_given(1, context_dim=3), SUMS, context=PAIRS, encoder=encoder, steps=100, lr=2e-2, progress=False
    )
    assert fit.losses[-20:].mean() < fit.losses[:20].mean() - 1
    assert all(torch.equal(p, b) for p, b in zip(encoder.parameters(), before, strict=True))
    assert all(not torch.equal(p, b) for p, b in zip(fit.encoder.parameters(), before, strict=True))
    assert not fit.encoder.training
    context = fit.encoder(torch.tensor(PAIRS, dtype=torch.float32))
    scored = pfp.Flow(fit.bijection, fit.params, context=context).log_prob(torch.tensor(SUMS, dtype=torch.float32))
    assert -scored.mean() < fit.losses[-20:].mean(), "which has the dropout's noise"


class AsItIs(torch.nn.Module):
    def forward(self, data):
        return data["y"]


def test_encoders_that_cannot_train_are_errors():
    fit_torch = partial(pfp.fit_amortized, pyro_sets, torch.zeros(MEMBERS, 2), simulations=100)
    fit_jax = partial(pfn.fit_amortized, numpyro_sets, jnp.zeros((MEMBERS, 2)), simulations=100)
    for fit, encoder in ((fit_torch, AsItIs()), (fit_jax, lambda data: data["y"])):
        with pytest.raises(ValueError, match=r"must give shape \(2, context_dim\), but gave \(2, 8, 2\)"):
            fit(encoder=encoder)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, or it would not train; got function"):
        fit_torch(encoder=lambda data: data["y"].mean(-2))
    with pytest.raises(ValueError, match="no parameters to train"):
        fit_jax(encoder=lambda data: data["y"].mean(-2))


# --- an encoder in a guide of the user's own


def test_the_gradient_reaches_an_encoder_in_pyro():
    x = torch.tensor(Y, dtype=torch.float32)[:, None]
    encoder = torch.nn.Linear(1, 3)

    def guide(size=None):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", ROWS):
            pyro.sample("z", pfp.flow("q", pf.iaf(1, flow_layers=1, context_dim=3), context=encoder(x)).to_event(0))

    def model(size=None):
        with pyro.plate("rows", ROWS):
            z = pyro.sample("z", tdist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("y", tdist.Normal(z, 0.5).to_event(1), obs=x)

    before = [p.detach().clone() for p in encoder.parameters()]
    result = pfp.fit(model, guide, steps=200, num_particles=4, draws=500, estimator="path", progress=False)
    assert all(not torch.equal(p, b) for p, b in zip(encoder.parameters(), before, strict=True))
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 1
    assert poutine.trace(guide).get_trace().nodes["z"]["fn"].batch_shape == (ROWS,)


@pytest.mark.slow
def test_the_gradient_reaches_an_encoder_in_numpyro():
    x = jnp.asarray(Y)[:, None]

    def guide():
        weights = numpyro.param("encoder", jnp.full((1, 3), 0.1))
        with numpyro.plate("rows", ROWS):
            numpyro.sample("z", pfn.flow("q", pf.iaf(1, flow_layers=1, context_dim=3), context=x @ weights))

    def model():
        with numpyro.plate("rows", ROWS):
            z = numpyro.sample("z", ndist.Normal(jnp.zeros(1), 1.0).to_event(1))
            numpyro.sample("y", ndist.Normal(z, 0.5).to_event(1), obs=x)

    result = pfn.fit(model, guide, steps=200, num_particles=4, draws=500, estimator="path", progress=False)
    assert not np.allclose(result.params["encoder"], 0.1, atol=1e-3)
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 1
