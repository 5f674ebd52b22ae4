"""Base distributions: their densities against other libraries, their draws and gradients against quadrature."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import JAX, LIBRARIES, TORCH, name_of, perturbed
from numpyro.infer import Trace_ELBO, TraceGraph_ELBO
from pyro.infer import Trace_ELBO as PyroTraceELBO
from scipy import stats

import ppl_flows as pf
import ppl_flows.numpyro as pf_numpyro
import ppl_flows.pyro as pf_pyro
from ppl_flows.core.params import flatten, map_params
from ppl_flows.jax.random import JaxRandom
from ppl_flows.torch.random import TorchRandom

RESAMPLED = {"truncation": 4, "nodes": 1024, "hidden": (8,)}
BASES = [pf.DiagonalNormal(2), pf.StudentT(2, df=3.0), pf.NormalMixture(2, components=3)]
BASES += [pf.ResampledNormal(2, **RESAMPLED)]
REPARAMETERIZED = [b for b in BASES if b.reparameterized]
SHELLS = pytest.mark.parametrize("shell", [pf_pyro, pf_numpyro], ids=["pyro", "numpyro"])
each_base = pytest.mark.parametrize("base", BASES, ids=name_of)


def strong(base):
    """Parameters away from the start, also those of a network that starts small."""
    params = perturbed(base, 0.4)
    if "net" in params:
        params["net"]["w1"] *= 4.0
    return params


def draws(library, base, params, n, seed=0):
    if library is TORCH:
        torch.manual_seed(seed)
        return base.sample(library.params(params), TorchRandom(torch.zeros((), dtype=torch.float64)), (n,)).numpy()
    return np.asarray(base.sample(library.params(params), JaxRandom(jax.random.key(seed), "float64"), (n,)))


def grid(n=241, wide=9.0):
    """Points of the plane and the area of each."""
    t = np.linspace(-wide, wide, n)
    return np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 2), (t[1] - t[0]) ** 2


def flat(params):
    return np.concatenate([np.asarray(a).ravel() for _, a in sorted(flatten(params))])  # JAX sorts dicts


# --- densities


@each_base
def test_the_log_density_is_the_same_in_every_library(base):
    x = 2.0 * np.random.default_rng(0).standard_normal((5, 2))
    results = [np.asarray(lib.run(lambda p, x: (base.log_prob(p, x),), lib.params(strong(base)), lib.array(x))[0])
               for lib in LIBRARIES]  # fmt: skip
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-12)


def test_the_student_t_and_the_normal_are_those_of_scipy():
    x = np.array([[-30.0, 0.1], [0.0, 2.0], [1.0, 1e6]])
    for df in (0.5, 2.0, 39.9, 40.1, 1e3, 1e9):  # on both sides of where the series takes over
        base = pf.StudentT(2, df=df)
        params = strong(base) | {"log_df": np.full(2, np.log(df))}
        expected = stats.t(df, params["loc"], np.exp(params["log_scale"])).logpdf(x).sum(-1)
        np.testing.assert_allclose(base.log_prob(params, x), expected, rtol=1e-8 if df > 1e6 else 1e-12)  # scipy's own
    base = pf.DiagonalNormal(2)
    params = strong(base)
    expected = stats.norm(params["loc"], np.exp(params["log_scale"])).logpdf(x).sum(-1)
    np.testing.assert_allclose(base.log_prob(params, x), expected, rtol=1e-12)


def test_the_mixture_is_pyros():
    base = pf.NormalMixture(2, components=3)
    params = TORCH.params(strong(base))
    host = dist.MixtureOfDiagNormals(params["loc"], params["log_scale"].exp(), params["logits"])
    x = 3.0 * torch.randn(50, 2, dtype=torch.float64)
    torch.testing.assert_close(base.log_prob(params, x), host.log_prob(x), rtol=1e-12, atol=0)


@each_base
def test_the_density_integrates_to_one(base):
    x, area = grid(wide=60.0, n=1201) if isinstance(base, pf.StudentT) else grid()
    # what a Student-t of df 2.5 has beyond 60; the error of the mean over the nodes
    tolerance = {"StudentT": 1e-3, "ResampledNormal": 3e-3}.get(type(base).__name__, 1e-6)
    assert abs(np.exp(base.log_prob(strong(base), x)).sum() * area - 1) < tolerance


@each_base
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_out_the_log_density_and_its_gradients_are_finite(base, dtype):
    x = np.array([[0.0, 0.0], [1e6, -1e6], [-1e6, 0.0], [-1e6, -1e6]])
    params = map_params(lambda _, a: a.requires_grad_(), TORCH.params(strong(base), dtype))
    at = TORCH.array(x, dtype).requires_grad_()
    value = base.log_prob(params, at)
    gradients = torch.autograd.grad(value.sum(), [at, *(a for _, a in flatten(params))])
    assert all(t.isfinite().all() for t in (value, *gradients))
    grad = jax.jit(jax.grad(lambda p, x: base.log_prob(p, x).sum(), argnums=(0, 1)))
    found = grad(JAX.params(strong(base), dtype), JAX.array(x, dtype))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


# --- draws


@each_base
@pytest.mark.parametrize("library", [TORCH, JAX], ids=["torch", "jax"])
def test_draws_follow_the_density(base, library):
    """Kolmogorov and Smirnov's test of the marginals, whose CDFs are sums over a grid."""
    params = strong(base)
    x, area = grid(wide=60.0, n=1201) if isinstance(base, pf.StudentT) else grid()
    n = round(len(x) ** 0.5)
    density = np.exp(base.log_prob(params, x)).reshape(n, n) * area
    t, sample = x[:n, 1], draws(library, base, params, 4000)
    for i in range(2):
        mass = density.sum(1 - i)
        cdf = np.cumsum(mass) - 0.5 * mass
        assert stats.kstest(sample[:, i], lambda v, cdf=cdf: np.interp(v, t, cdf)).pvalue > 1e-3
    # and of the direction in which they hang together
    mixed = (np.cos(x @ [1.0, 1.0]) * density.ravel()).sum()
    found = np.cos(sample @ [1.0, 1.0])
    assert abs(found.mean() - mixed) < 4 * found.std() / len(found) ** 0.5


def bump(x):
    """Smooth, and 0 beyond the grid, so that quadrature of its mean is exact under heavy tails too."""
    z = x - 0.5
    return namespace_exp(-0.5 * (z * z).sum(-1)) * (1 + x[..., 0])


def namespace_exp(x):
    return x.exp() if isinstance(x, torch.Tensor) else jnp.exp(x)


def gradient_of_the_mean(base, params):
    """Of E[bump(x)] with respect to every parameter, by quadrature."""
    x, area = (torch.tensor(a) for a in grid())
    leaves = map_params(lambda _, a: a.requires_grad_(), TORCH.params(params))
    (bump(x) * base.log_prob(leaves, x).exp() * area).sum().backward()
    return flat(map_params(lambda _, a: a.grad, leaves))


@pytest.mark.parametrize("base", REPARAMETERIZED, ids=name_of)
@pytest.mark.parametrize("library", [TORCH, JAX], ids=["torch", "jax"])
def test_the_gradient_through_draws_is_that_of_the_mean(base, library):
    params, chunks, n = strong(base), 40, 1000
    if library is TORCH:
        torch.manual_seed(0)
        found = []
        for _ in range(chunks):
            made = pf_pyro.BaseDistribution(base, map_params(lambda _, a: a.requires_grad_(), TORCH.params(params)))
            bump(made.rsample((n,))).mean().backward()
            found.append(flat(map_params(lambda _, a: a.grad, made.params)))
    else:
        made = pf_numpyro.BaseDistribution(base, JAX.params(params))
        gradient = jax.jit(jax.vmap(jax.grad(lambda d, key: bump(d.sample(key, (n,))).mean()), (None, 0)))
        rows = gradient(made, jax.random.split(jax.random.key(0), chunks)).params
        found = [flat(map_params(lambda _, a, i=i: a[i], rows)) for i in range(chunks)]
    found, exact = np.array(found), gradient_of_the_mean(base, params)
    error = np.abs(found.mean(0) - exact) / (found.std(0, ddof=1) / chunks**0.5)
    assert np.abs(exact).max() > 0.01
    assert error.max() < 4.5


# --- distributions of the languages


@SHELLS
@each_base
def test_it_is_a_distribution_of_the_language(shell, base):
    made = shell.BaseDistribution(base, seed=3)
    wide = made.expand((5,))
    assert (made.batch_shape, made.event_shape, wide.batch_shape, wide.event_shape) == ((), (2,), (5,), (2,))
    assert made.has_rsample == base.reparameterized == wide.has_rsample
    if shell is pf_pyro:
        x = wide.sample((3,))
        assert not x.requires_grad
    else:
        x = wide.sample(jax.random.key(0), (3,))
    assert x.shape == (3, 5, 2)
    assert wide.log_prob(x).shape == (3, 5)
    assert wide.log_prob(x[0, 0]).shape == (5,)
    expected = base.log_prob(base.init(np.random.default_rng(3)), np.asarray(x.tolist()))
    np.testing.assert_allclose(made.log_prob(x).tolist(), expected, rtol=2e-4)
    with pytest.raises(ValueError, match=r"expects x of shape \(\*batch, 2\), got \(3, 5, 1\)"):
        base.log_prob(made.params, x[..., :1])


@each_base
def test_a_jitted_function_of_it_is_traced_once_and_its_gradient_reaches_all_parameters(base):
    traces = []

    @jax.jit
    def loss(made, x):
        traces.append(1)
        return made.log_prob(x).sum()

    x = jnp.ones((3, 2))
    for seed in (0, 1):
        loss(pf_numpyro.BaseDistribution(base, seed=seed), x)
    assert len(traces) == 1
    gradient = jax.grad(loss)(pf_numpyro.BaseDistribution(base, JAX.params(strong(base))), x)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    keys = jax.random.split(jax.random.key(0), 4)
    assert jax.vmap(pf_numpyro.BaseDistribution(base).sample)(keys).shape == (4, 2)


@each_base
def test_a_trained_base_moves_between_the_languages_in_a_file(base, tmp_path, float64):
    path = tmp_path / "base.safetensors"
    there = pf_pyro.BaseDistribution(base, strong(base))
    pf.save(path, there.base, there.params)
    back = pf_numpyro.BaseDistribution(*pf.load(path))
    assert back.base == base
    x = np.random.default_rng(0).standard_normal((4, 2))
    np.testing.assert_allclose(back.log_prob(x), there.log_prob(torch.tensor(x)).detach(), rtol=1e-12)


@SHELLS
def test_user_mistakes_are_errors_that_name_the_way_out(shell):
    with pytest.raises(ValueError, match=r"events of shape \(2,\), got a distribution or value of shape \(3,\)"):
        shell.Flow(pf.maf(2), base=pf.StudentT(3))
    with pytest.raises(ValueError, match="'log_df' should have shape"):
        shell.BaseDistribution(pf.StudentT(3), pf.DiagonalNormal(3).init(None))
    with pytest.raises(TypeError, match="expected a ppl_flows Base such as"):
        shell.BaseDistribution(pf.maf(2))
    with pytest.raises(ValueError, match="base_params are those of a ppl_flows Base"):
        shell.flow("f", pf.maf(2), base_params={})
    wrapped = pyro.poutine.trace if shell is pf_pyro else numpyro.handlers.trace
    with pytest.raises(ValueError, match="never train"):
        wrapped(lambda: shell.BaseDistribution(pf.StudentT(3))).get_trace()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.StudentT(0), "dim must be at least 1"),
        (lambda: pf.StudentT(2, df=0.0), "df must be positive and finite"),
        (lambda: pf.NormalMixture(2, components=0), "components must be at least 1"),
        (lambda: pf.ResampledNormal(2, truncation=1), "truncation must be at least 2"),
        (lambda: pf.ResampledNormal(2, nodes=1000), "nodes must be a power of 2"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- in guides


def target_log_prob(x):
    """Two modes, so that a mixture pays; not normalised."""
    log = torch.logaddexp if isinstance(x, torch.Tensor) else jnp.logaddexp
    return log(-((x - 2.0) ** 2).sum(-1), -((x + 1.0) ** 2).sum(-1))


def model(shell, base):
    """The target, as a factor on a flat latent."""
    host, sample, factor = (
        (pyro.distributions, pyro.sample, pyro.factor)
        if shell is pf_pyro
        else (numpyro.distributions, numpyro.sample, numpyro.factor)
    )
    zeros = torch.zeros(2) if shell is pf_pyro else jnp.zeros(2)
    z = sample("z", host.Normal(zeros, 10.0).to_event(1))
    factor("target", target_log_prob(z) + 0.5 * ((z / 10.0) ** 2).sum(-1))


def guide(shell, base):
    (pyro if shell is pf_pyro else numpyro).sample("z", shell.flow("q", pf.Elementwise(2), base=base))


@SHELLS
@pytest.mark.slow_in_numpyro
def test_a_base_trains_with_its_flow_in_a_guide(shell):
    base = pf.NormalMixture(2, components=3)
    result = shell.fit(
        partial(model, shell, base), partial(guide, shell, base), steps=100, num_particles=16, lr=0.03, progress=False
    )
    assert np.mean(result.losses[-20:]) < np.mean(result.losses[:5]) - 0.2
    start = base.init(np.random.default_rng(0))
    for name, first in flatten(start):
        now = result.params[f"q_base.{name}"] if shell is pf_pyro else dict(flatten(result.params["q_base"]))[name]
        assert np.abs(np.asarray(now) - first).min() > 1e-4, f"{name} did not train"


RING = pf.ResampledNormal(2, **RESAMPLED)


def exact_gradient():
    """Of the loss of the guide with base RING at its perturbed start, by quadrature: (Elementwise's, RING's)."""
    params = map_params(lambda _, a: a.requires_grad_(), TORCH.params({"base": strong(RING), "flow": start_of_flow()}))
    x, area = (torch.tensor(a) for a in grid())
    bijection = pf.Elementwise(2)
    z, log_det = bijection.inverse(params["flow"], x)
    log_q = RING.log_prob(params["base"], z) + log_det
    (log_q.exp() * (log_q - target_log_prob(x)) * area).sum().backward()
    return flat(map_params(lambda _, a: a.grad, params))


def start_of_flow():
    return perturbed(pf.Elementwise(2))


def assert_unbiased(found):
    found = np.array(found)
    error = np.abs(found.mean(0) - exact_gradient()) / (found.std(0, ddof=1) / len(found) ** 0.5)
    assert error.max() < 4.5


def test_in_pyro_a_resampled_base_has_the_unbiased_score_function_in_a_guide(float64):
    params = TORCH.params({"base": strong(RING), "flow": start_of_flow()})

    def guide():
        pyro.sample(
            "z", pf_pyro.flow("q", pf.Elementwise(2), params=params["flow"], base=RING, base_params=params["base"])
        )

    elbo, found = PyroTraceELBO(num_particles=500, vectorize_particles=True, max_plate_nesting=0), []
    for _ in range(40):
        pyro.clear_param_store()
        elbo.loss_and_grads(partial(model, pf_pyro, RING), guide)
        store = dict(pyro.get_param_store().named_parameters())
        names = [f"q_base.{n}" for n, _ in sorted(flatten(params["base"]))] + [
            f"q.{n}" for n, _ in sorted(flatten(params["flow"]))
        ]
        found.append(np.concatenate([store[n].grad.numpy().ravel() for n in names]))
    assert_unbiased(found)
    with pytest.raises(NotImplementedError, match="carry no gradients"):
        pf_pyro.Flow(pf.Elementwise(2), base=RING).rsample()


def test_in_numpyro_a_resampled_base_needs_the_elbo_that_has_the_score_function():
    params = {"q_base": JAX.params(strong(RING)), "q": JAX.params(start_of_flow())}
    models = partial(model, pf_numpyro, RING), partial(guide, pf_numpyro, RING)

    def loss(params, key, elbo):
        return elbo.loss(key, params, *models)

    gradient = jax.jit(jax.grad(loss), static_argnums=2)
    elbo, found = TraceGraph_ELBO(num_particles=500), []
    for key in jax.random.split(jax.random.key(0), 40):
        got = gradient(params, key, elbo)
        found.append(flat({"base": got["q_base"], "flow": got["q"]}))
    assert_unbiased(found)
    with pytest.raises(NotImplementedError, match=r"samples of ResampledNormal carry no gradients.*TraceGraph_ELBO"):
        gradient(params, jax.random.key(0), Trace_ELBO())


# --- maximum likelihood


@pytest.mark.slow
@SHELLS
def test_a_student_t_learns_the_tails_that_a_normal_cannot_have(shell):
    rng = np.random.default_rng(0)
    data, fresh = rng.standard_t(2.0, (2000, 2)), rng.standard_t(2.0, (2000, 2))
    fits = {}
    for base in (pf.StudentT(2, df=8.0), None):
        fits[base] = shell.fit_density(
            pf.maf(2, flow_layers=1, hidden=(8,)), data, base=base, steps=300, lr=0.03, progress=False
        )
    fit, normal = fits.values()
    df = np.exp(np.asarray(fit.base_params["log_df"]))
    assert (np.abs(df - 2.0) < 0.5).all()
    assert fit.losses[-50:].mean() < fit.losses[:10].mean() - 0.1
    rows = torch.tensor(fresh, dtype=torch.float32) if shell is pf_pyro else fresh
    ours, theirs = (np.mean(f.flow.log_prob(rows).tolist()) for f in (fit, normal))
    assert ours > theirs + 0.2
    assert fit.base == pf.StudentT(2, df=8.0)
    assert normal.base is normal.base_params is None


def test_a_resampled_base_learns_a_ring_and_stays_normalised():
    """In 6 dimensions, 4 of them noise: there a network trained at points that stay makes Z five times too small."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, 2000), 2 + 0.2 * rng.standard_normal(2000)
    ring = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    data = np.concatenate([ring, rng.standard_normal((2000, 4))], axis=1)
    base = pf.ResampledNormal(6, nodes=1024)
    fit = pf_pyro.fit_density(pf.Elementwise(6), data, base=base, steps=300, lr=0.02, progress=False)
    assert fit.losses[-50:].mean() < fit.losses[:10].mean() - 0.5
    params = map_params(lambda _, a: np.asarray(a, dtype=float), fit.base_params)
    for name, first in flatten(base.init(np.random.default_rng(0))):
        assert np.abs(dict(flatten(params))[name] - first).max() > 1e-3, f"{name} did not train"
    # of the density, importance sampling from its proposal, with fresh draws
    z = rng.standard_normal((100_000, 6))
    log_proposal = -0.5 * (z * z).sum(-1) - 3 * np.log(2 * np.pi)
    for nodes, error in ((1024, 0.1), (2**15, 0.03)):
        precise = replace(base, nodes=nodes)
        x = params["loc"] + np.exp(params["log_scale"]) * z
        ratio = np.exp(precise.log_prob(params, x) + params["log_scale"].sum() - log_proposal)
        assert abs(ratio.mean() - 1) < error + 3 * ratio.std() / len(z) ** 0.5


@pytest.mark.slow
def test_after_training_in_the_plane_the_resampled_density_integrates_to_one():
    rng = np.random.default_rng(0)
    data = rng.choice([-2.0, 2.0], (1000, 2)) + 0.5 * rng.standard_normal((1000, 2))
    base = pf.ResampledNormal(2, hidden=(32,))
    fit = pf_numpyro.fit_density(pf.Elementwise(2), data, base=base, steps=200, lr=0.02, progress=False)
    assert fit.losses[-20:].mean() < fit.losses[:10].mean() - 0.3
    x, area = grid()
    assert abs(np.exp(fit.flow.log_prob(data.std(0) * x)).sum() * area * data.std(0).prod() - 1) < 0.01


def test_a_sample_drawn_without_gradients_is_scored_with_them_in_pyro():
    flow = pf_pyro.Flow(pf.maf(2))
    y = flow.sample((3,))
    flow.log_prob(y).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in flow.transforms[0].parameters())
