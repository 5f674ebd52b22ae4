"""The same description and the same seed give the same numbers in Pyro and in NumPyro."""

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pytest
import torch
from cases import JAX, TORCH, perturbed
from sklearn.datasets import make_moons

import ppl_flows as pf
from ppl_flows import numpyro as in_numpyro
from ppl_flows import pyro as in_pyro

RECIPES = [pf.iaf, pf.maf, pf.real_nvp, pf.nice, pf.nsf, pf.guide_flow]
each = pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.__name__)


def log_probs(bijection, params, y, dtype):
    """log_prob of both languages, at the dtype."""
    a = in_pyro.Flow(bijection, TORCH.params(params, dtype)).log_prob(TORCH.array(y, dtype))
    flow = in_numpyro.Flow(bijection, JAX.params(params, dtype))
    b = jax.jit(lambda flow, y: flow.log_prob(y))(flow, JAX.array(y, dtype))
    return a.numpy(), np.asarray(b)


@each
def test_log_prob_is_the_same_in_float64(recipe):
    bijection = recipe(6)
    y = 2 * np.random.default_rng(0).standard_normal((100, 6))
    a, b = log_probs(bijection, perturbed(bijection, 0.1), y, "float64")
    np.testing.assert_allclose(a, b, rtol=1e-12)


@each
def test_in_float32_both_languages_are_within_rounding_of_float64(recipe, float64):
    """Rounding is amplified by a map's own conditioning, so this holds for well-conditioned weights."""
    bijection = recipe(6)
    y = np.random.default_rng(0).standard_normal((100, 6))
    params = perturbed(bijection, 0.03)
    exact = log_probs(bijection, params, y, "float64")[0]
    for rounded in log_probs(bijection, params, y, "float32"):
        assert rounded.dtype == np.float32
        np.testing.assert_allclose(rounded, exact, rtol=1e-6)


@each
def test_the_same_seed_starts_both_languages_at_the_same_flow(recipe):
    torch_start = in_pyro.FlowTransform(recipe(5), seed=3)
    jax_start = in_numpyro.FlowTransform(recipe(5), seed=3)
    x = np.random.default_rng(0).standard_normal((4, 5)).astype("float32")
    in_jax = jax.jit(lambda transform, x: transform(x))(jax_start, x)
    np.testing.assert_allclose(torch_start(torch.tensor(x)).detach(), in_jax, rtol=1e-5, atol=1e-6)


def table(rows=3_000):
    """Five dependent columns of different scales: a curve, a product and skew."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((rows, 5))
    columns = [z[:, 0], z[:, 1] + z[:, 0] ** 2, np.exp(0.5 * z[:, 2]), z[:, 3] * (1 + 0.5 * np.abs(z[:, 0])), z[:, 4]]
    return np.stack(columns, axis=-1) * [1, 2, 10, 0.1, 1] + [0, 5, 0, 0, -3]


def moons():
    return make_moons(3_000, noise=0.08, random_state=0)[0]


def gaussian_log_likelihood(train, test):
    mean, cov = train.mean(0), np.cov(train.T)
    difference = test - mean
    quadratic = np.einsum("ni,ij,nj->n", difference, np.linalg.inv(cov), difference)
    return float(np.mean(-0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * cov)[1])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "bijection"),
    [(moons(), pf.nsf(2, flow_layers=4, hidden=(16, 16))), (table(), pf.maf(5, flow_layers=2))],
    ids=["two moons", "table"],
)
def test_density_estimates_reach_the_same_test_likelihood(data, bijection, float64):
    """On the full batch the two languages take the same steps; minibatches are each language's own draws."""
    train, test = data[:1_000], data[1_000:]
    options = {"steps": 200, "batch_size": 1_000, "lr": 1e-2, "progress": False}
    torch_fit = in_pyro.fit_density(bijection, torch.from_numpy(train), **options)
    jax_fit = in_numpyro.fit_density(bijection, train, **options)
    with torch.no_grad():
        a = float(torch_fit.flow.log_prob(torch.tensor(test)).mean())
    b = float(jax_fit.flow.log_prob(jnp.asarray(test)).mean())
    assert a == pytest.approx(b, abs=0.02)
    assert min(a, b) > gaussian_log_likelihood(train, test) + 0.3
    for fitted in (torch_fit, jax_fit):
        assert fitted.losses[-100:].mean() < fitted.losses[:20].mean() - 0.2
        assert fitted.skipped == 0
        made = fitted.bijection
        assert pf.Chain(made.parts, names=("flow", "scaling")) == made


@pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])
def test_density_estimates_refuse_bad_data(shell):
    good = table(50)
    bad = good.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 50 rows are not \(the first is row 3\)"):
        shell.fit_density(pf.maf(5), bad)
    with pytest.raises(ValueError, match=r"data must have shape \(rows, 4\)"):
        shell.fit_density(pf.maf(4), good)
    with pytest.raises(ValueError, match=r"context must have shape \(50, 2\)"):
        shell.fit_density(pf.maf(5, context_dim=2), good)
    with pytest.raises(ValueError, match=r"context is not wanted by this bijection; leave it out.*got one of shape"):
        shell.fit_density(pf.maf(5), good, context=good)


@pytest.mark.parametrize("shell", [in_pyro, in_numpyro], ids=["pyro", "numpyro"])
def test_a_conditional_density_follows_its_context(shell):
    rng = np.random.default_rng(0)
    context = rng.uniform(-2, 2, (1_500, 1))
    data = np.concatenate([context**2, -context], axis=-1) + 0.1 * rng.standard_normal((1_500, 2))
    options = {"steps": 400, "lr": 2e-2, "progress": False}
    fitted = shell.fit_density(pf.maf(2, flow_layers=2, context_dim=1), data, context=context, **options)
    assert fitted.losses[-50:].mean() < fitted.losses[:10].mean() - 1
    assert not list(pyro.get_param_store().keys()), "Pyro's store is left as it was"
