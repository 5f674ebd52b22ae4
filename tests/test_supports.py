"""Flows that do not live on the reals: squashing transformers, parts of a vector, and hosts' constraints."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as ndist
import pyro
import pyro.distributions as pdist
import pytest
import torch
from cases import DIM, JAX, LIBRARIES, NET, NUMPY, TORCH, context, partly_bounded, perturbed, points, targets
from numpyro.distributions import constraints as nconstraints
from numpyro.infer import MCMC as NMCMC
from numpyro.infer import NUTS as NNUTS
from pyro.distributions import constraints as pconstraints
from pyro.infer import MCMC, NUTS
from scipy import special
from torch.distributions import biject_to as pbiject_to

import ppl_flows as pf
from ppl_flows import numpyro as shell_of_numpyro
from ppl_flows import pyro as shell_of_pyro
from ppl_flows.numpyro.support import Mixed
from ppl_flows.torch.params import to_tensor

SQUASHERS = {
    pf.Tanh: (np.tanh, lambda z: -2 * np.log(np.cosh(z))),
    pf.Sigmoid: (special.expit, lambda z: special.log_expit(z) + special.log_expit(-z)),
    pf.Softplus: (lambda z: np.logaddexp(z, 0), special.log_expit),
}
squasher = pytest.mark.parametrize("squasher", SQUASHERS, ids=lambda c: c.__name__)
nbiject_to = ndist.biject_to
UNIT = (0.0, 1.0)
POSITIVE = (0.0, np.inf)
REAL = (-np.inf, np.inf)


# --- transformers ---------------------------------------------------------------------------------------------------


@squasher
def test_a_squashing_transformer_is_scipys_function_of_an_affine_map(squasher):
    h, (function, log_slope) = squasher(max_log_scale=None), SQUASHERS[squasher]
    x, t, s = np.linspace(-6, 6, 41), 0.7, -0.3
    z = x * np.exp(s) + t
    y, got = h.forward(np.array([t, s]), x)
    np.testing.assert_allclose(y, function(z), rtol=1e-13)
    np.testing.assert_allclose(got, log_slope(z) + s, rtol=0, atol=1e-12)


@squasher
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda lib: lib.name)
def test_what_rounding_puts_on_an_end_is_finite_and_inside(squasher, dtype, library):
    h = squasher()
    low, high = h.codomain
    theta = np.zeros((8, 2))
    far = np.array([-1e6, -1e3, -100.0, -20.0, 20.0, 100.0, 1e3, 1e6])
    ends = np.array([low, high if np.isfinite(high) else 1e6] * 4)
    y, log_slope = library.run(h.forward, library.array(theta, dtype), library.array(far, dtype))
    x, inverse_log_slope = library.run(h.inverse, library.array(theta, dtype), library.array(ends, dtype))
    assert np.all((y > low) & (y < high))
    assert np.all(np.isfinite([log_slope, x, inverse_log_slope]))
    assert np.all(np.sign(x) == np.array([-1, 1] * 4))


@squasher
@pytest.mark.parametrize("wiring", [pf.Elementwise, pf.Coupling, pf.MaskedAutoregressive], ids=lambda c: c.__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_at_the_ends_are_finite_and_the_same_in_torch_and_jax(squasher, wiring, dtype):
    bijection = wiring(2, squasher(), conditioner=pf.MLP((4,)))
    params = perturbed(bijection)
    low, high = squasher.codomain
    y = np.array([[low, low], [min(high, 30.0), low], [min(high, 30.0), min(high, 30.0)]])

    def total(params, y):
        x, log_det = bijection.inverse(params, y)
        return x.sum() + log_det.sum()

    in_jax = jax.jit(jax.grad(total))(JAX.params(params, dtype), JAX.array(y, dtype))
    p = jax.tree.map(lambda a: a.requires_grad_(), TORCH.params(params, dtype))
    total(p, TORCH.array(y, dtype)).backward()
    for a, b in zip(jax.tree.leaves(in_jax), jax.tree.leaves(p), strict=True):
        assert np.all(np.isfinite(a))
        size = max(1.0, float(np.abs(a).max()))
        np.testing.assert_allclose(a, b.grad, rtol=0, atol=size * (1e-2 if dtype == "float32" else 1e-6))


@squasher
def test_a_value_outside_the_codomain_has_density_zero(squasher):
    outside = np.array([-1.5, -1e6])
    for library in (NUMPY, TORCH, JAX):
        log_slope = library.run(squasher().inverse, library.array(np.zeros((2, 2))), library.array(outside))[1]
        assert np.all(log_slope == -np.inf)


# --- supports of bijections -----------------------------------------------------------------------------------------


def test_bijections_know_their_supports():
    squashed = pf.Elementwise(2, pf.Tanh())
    assert pf.nsf(3).domain is None
    assert pf.nsf(3).codomain is None
    assert squashed.codomain == ((-1.0, 1.0),) * 2
    assert pf.Inverse(squashed).domain == ((-1.0, 1.0),) * 2
    assert pf.Inverse(squashed).codomain is None
    assert pf.Coupling(3, pf.Sigmoid()).codomain == (REAL, UNIT, UNIT)
    assert pf.Coupling(3, pf.Sigmoid(), flip=True).codomain == (UNIT, REAL, REAL)
    assert pf.MaskedAutoregressive(2, pf.Softplus()).codomain == (POSITIVE,) * 2
    assert pf.Chain([pf.nsf(2), squashed]).codomain == squashed.codomain
    assert pf.Chain([pf.Inverse(squashed), pf.nsf(2)]).domain == squashed.codomain
    chain = pf.Chain([pf.nsf(DIM), partly_bounded()])
    assert chain.domain == (REAL,) * DIM
    assert chain.codomain == (UNIT, REAL, POSITIVE, POSITIVE)
    assert pf.Chain([pf.Inverse(chain), chain]).domain == chain.codomain


@pytest.mark.parametrize(
    "make",
    [
        lambda: pf.Chain([pf.Elementwise(2, pf.Tanh()), pf.Coupling(2)]),
        lambda: pf.Chain([pf.Elementwise(2, pf.Tanh()), pf.Inverse(pf.Elementwise(2, pf.Sigmoid()))]),
        lambda: pf.Chain(
            [pf.Partial(pf.Elementwise(1, pf.Tanh()), dim=2, index=(0,)), pf.Partial(pf.nsf(1), dim=2, index=(0,))]
        ),
        lambda: pf.Chain([pf.nsf(2), pf.Inverse(pf.Elementwise(2, pf.Sigmoid()))]),
    ],
)
def test_a_chain_whose_supports_do_not_fit_is_refused(make):
    with pytest.raises(ValueError, match="takes coordinate 0 in"):
        make()


def test_a_repeat_that_changes_the_support_is_refused():
    with pytest.raises(ValueError, match="must map a support onto itself"):
        pf.Repeat(pf.Elementwise(2, pf.Tanh()), times=2)


# --- Partial --------------------------------------------------------------------------------------------------------


def test_partial_is_its_part_on_the_index_and_lets_the_rest_pass():
    part = pf.Coupling(2, context_dim=3, **NET)
    bijection = pf.Partial(part, dim=DIM, index=(3, 1))
    params, x, c = perturbed(bijection), points(bijection), context(bijection)
    y, log_det = bijection.forward(params, x, c)
    expected, expected_log_det = part.forward(params, x[:, [3, 1]], c)
    np.testing.assert_array_equal(y[:, [3, 1]], expected)
    np.testing.assert_array_equal(y[:, [0, 2]], x[:, [0, 2]])
    np.testing.assert_array_equal(log_det, expected_log_det)


def test_partial_shows_its_part_the_batch():
    bijection = pf.Partial(pf.ActNorm(2), dim=3, index=(2, 0))
    batch = np.random.default_rng(0).normal([1.0, 2.0, 3.0], [0.1, 1.0, 10.0], (50, 3))
    params, x, _ = bijection.observe(bijection.init(np.random.default_rng(0)), batch, stage="start")
    assert set(params) == set(bijection.init(np.random.default_rng(0)))
    np.testing.assert_allclose(x[:, [0, 2]].std(0), 1.0, atol=1e-6)
    np.testing.assert_array_equal(x[:, 1], batch[:, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pf.Partial(pf.nsf(2), dim=3, index=(0, 3)), "index must hold different numbers of 0, ..., 2"),
        (lambda: pf.Partial(pf.nsf(2), dim=3, index=(1, 1)), "index must hold different numbers"),
        (lambda: pf.Partial(pf.nsf(3), dim=4, index=(0, 1)), r"needs a bijection of shape \(2,\), got one from \(3,\)"),
    ],
)
def test_a_partial_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- hosts ----------------------------------------------------------------------------------------------------------


class Pyro:
    shell, dist, constraints = shell_of_pyro, pdist, pconstraints
    biject_to = staticmethod(pbiject_to)

    @staticmethod
    def array(a):
        return torch.as_tensor(a, dtype=torch.float64)

    @staticmethod
    def sample(d, shape=()):
        return d.sample(shape)

    @staticmethod
    def params(bijection, scale=0.2):
        return TORCH.params(perturbed(bijection, scale))


class NumPyro:
    shell, dist, constraints = shell_of_numpyro, ndist, nconstraints
    biject_to = staticmethod(nbiject_to)

    @staticmethod
    def array(a):
        return jnp.asarray(a)

    @staticmethod
    def sample(d, shape=()):
        return d.sample(jax.random.key(0), shape)

    @staticmethod
    def params(bijection, scale=0.2):
        return JAX.params(perturbed(bijection, scale))


host = pytest.mark.parametrize("host", [Pyro, NumPyro], ids=lambda h: h.__name__)
BOUNDED = [
    pf.Chain([pf.Coupling(DIM, **NET), pf.Elementwise(DIM, pf.Tanh())]),
    pf.MaskedAutoregressive(DIM, pf.Softplus(), **NET),
    pf.Elementwise(1, pf.Sigmoid()),
    pf.Chain([pf.Coupling(DIM, **NET), partly_bounded()]),
    pf.Coupling(DIM, pf.Sigmoid(), mask="alternating", **NET),
]
bounded = pytest.mark.parametrize("bijection", BOUNDED, ids=lambda b: str(b.codomain))


def supports(c):
    """Name: (support, size of the flow, size of a value)."""
    mixed = [(c.positive, 1), (c.simplex, 3), (c.real, 2), (c.interval(-2.0, 3.0), 1)]
    return {
        "simplex": (c.simplex, 2, 3),
        "interval": (c.interval(-2.0, 3.0), 2, 2),
        "positive": (c.positive, 2, 2),
        "ordered": (c.ordered_vector, 3, 3),
        "mixed": (mixed, 6, 7),
        "real": (c.real, 2, 2),
        "corr_cholesky": (c.corr_cholesky, 3, (3, 3)),
    }


some_support = pytest.mark.parametrize("name", supports(pconstraints))


@bounded
@host
def test_a_flows_support_is_the_bijections_codomain(host, bijection, float64):
    d = host.shell.Flow(bijection, host.params(bijection), validate_args=True)
    y = host.sample(d, (7,))
    assert bool(d.support.check(y).all())
    onto = host.biject_to(d.support)
    np.testing.assert_allclose(onto(onto.inv(y)), y, rtol=1e-9)
    assert onto.log_abs_det_jacobian(onto.inv(y), y).shape == (7,)
    assert d.support.check(host.array(targets(bijection))).shape == (5,)
    expected = bijection.inverse(perturbed(bijection), np.asarray(y))
    normal = -0.5 * (expected[0] ** 2 + np.log(2 * np.pi)).sum(-1)
    np.testing.assert_allclose(d.log_prob(y), normal + expected[1], rtol=1e-9)
    outside = y - 1e3 if isinstance(y, torch.Tensor) else y.at[..., -1].add(-1e3)
    assert not bool(d.support.check(outside).any())
    error = (
        pytest.raises(ValueError, match="to be within the support")
        if host is Pyro
        else pytest.warns(UserWarning, match="Out-of-support")
    )
    with error:
        assert np.all(np.asarray(d.log_prob(outside)) == -np.inf)


@host
def test_a_base_must_lie_in_the_domain(host):
    bijection = pf.Inverse(pf.Elementwise(2, pf.Sigmoid()))
    with pytest.raises(ValueError, match="give a base that does"):
        host.shell.Flow(bijection)
    base = host.dist.Uniform(host.array([0.0, 0.0]), host.array([1.0, 1.0])).to_event(1)
    y = np.array([[0.3, -2.0]])
    got = host.shell.Flow(bijection, host.params(bijection, 0.0), base=base).log_prob(host.array(y))
    np.testing.assert_allclose(got, special.log_expit(y).sum() + special.log_expit(-y).sum())


@some_support
@host
def test_a_support_is_the_hosts_bijection_after_the_flow(host, name, float64):
    support, dim, size = supports(host.constraints)[name]
    bijection = pf.Coupling(dim, conditioner=pf.MLP((5,)))
    params = host.params(bijection)
    d = host.shell.Flow(bijection, params, support=support, validate_args=True)
    if name != "mixed":
        assert str(support) in str(d.support)
    assert tuple(d.event_shape) == (size if isinstance(size, tuple) else (size,))
    y = host.sample(d, (4,))
    assert bool(d.support.check(y).all())
    onto = host.biject_to(d.support)
    x = onto.inv(y)
    flow = host.shell.Flow(bijection, params)
    np.testing.assert_allclose(d.log_prob(y), flow.log_prob(x) - onto.log_abs_det_jacobian(x, y), rtol=1e-9, atol=1e-9)
    stock = host.dist.TransformedDistribution(flow.base_dist, [host.shell.FlowTransform(bijection, params), onto])
    np.testing.assert_allclose(d.log_prob(y), stock.log_prob(y), rtol=1e-9, atol=1e-9)


def test_supports_that_the_hosts_declare_wrongly_are_refused_or_put_right():
    with pytest.raises(ValueError, match="declares event_dim=0"):
        shell_of_pyro.Flow(pf.nsf(2), support=pconstraints.positive_ordered_vector)
    d = shell_of_numpyro.Flow(pf.nsf(2), support=nconstraints.positive_ordered_vector)
    assert not bool(d.support.check(jnp.array([2.0, 1.0])))


@host
def test_a_mixed_support_is_its_pieces(host, float64):
    support, dim, _ = supports(host.constraints)["mixed"]
    x = np.random.default_rng(0).standard_normal((5, dim))
    onto = host.shell.Flow(pf.nsf(dim), support=support).transforms[-1]
    y = np.asarray(onto(host.array(x)))
    log_det = np.asarray(onto.log_abs_det_jacobian(host.array(x), host.array(y)))
    sizes, start, expected = (1, 2, 2, 1), 0, 0.0
    for (constraint, size), unconstrained in zip(support, sizes, strict=True):
        piece, x = host.array(x[:, :unconstrained]), x[:, unconstrained:]
        bijection = host.biject_to(constraint)
        value = bijection(piece)
        np.testing.assert_allclose(y[:, start : start + size], value)
        expected += np.asarray(bijection.log_abs_det_jacobian(piece, value)).reshape(5, -1).sum(-1)
        start += size
    np.testing.assert_allclose(log_det, expected)


@host
def test_densities_integrate_to_one(host, float64):
    nodes, weights = np.polynomial.legendre.leggauss(200)
    u, w = 0.5 * (nodes + 1), 0.5 * weights
    bijection = pf.maf(2, hidden=(4,))
    params = host.params(bijection, 0.1)

    def integral(support, y, w):
        d = host.shell.Flow(bijection, params, support=support)
        return np.sum(w * np.exp(np.asarray(d.log_prob(host.array(y)))))

    square, area = np.stack(np.meshgrid(u, u), -1).reshape(-1, 2), np.outer(w, w).reshape(-1)
    a, b = square[:, 0], square[:, 1] * (1 - square[:, 0])
    triangle = np.stack([a, b, 1 - a - b], -1)
    assert integral(host.constraints.unit_interval, square, area) == pytest.approx(1, abs=1e-4)
    assert integral(host.constraints.simplex, triangle, area * (1 - a)) == pytest.approx(1, abs=1e-4)


@host
def test_a_support_that_does_not_fit_is_refused(host):
    c = host.constraints
    for support, dim, message in [
        ([(c.positive, 1), (c.simplex, 3)], 4, r"\(4,\) numbers of .*needs 3 numbers, got 4"),
        (c.corr_cholesky, 4, r"\(4,\) numbers"),
        (c.interval(host.array([0.0, 0.0]), host.array([1.0, 2.0])), 1, r"shape \(2,\), got .* shape \(1,\)"),
        (c.boolean, 2, "knows no bijection"),
        ([(c.corr_cholesky, 3)], 3, "must be vectors"),
    ]:
        with pytest.raises(ValueError, match=message):
            host.shell.Flow(pf.nsf(dim), support=support)
    with pytest.raises(ValueError, match="wants a bijection onto the reals"):
        host.shell.Flow(pf.Elementwise(2, pf.Tanh()), support=c.positive)
    with pytest.raises(TypeError, match=r"a list of \(constraint, size\)"):
        host.shell.Flow(pf.nsf(2), support=[c.positive, c.real])


def test_pyros_support_inside_a_plate_and_a_gradient_to_the_parameters():
    bijection = pf.Coupling(2, conditioner=pf.MLP((4,)))

    def model():
        with pyro.plate("rows", 3):
            return pyro.sample("w", shell_of_pyro.flow("prior", bijection, support=pconstraints.simplex))

    trace = pyro.poutine.trace(model).get_trace()
    assert trace.nodes["w"]["value"].shape == (3, 3)
    trace.compute_log_prob()
    assert trace.nodes["w"]["log_prob"].shape == (3,)
    trace.log_prob_sum().backward()
    weights = [v.unconstrained() for v in pyro.get_param_store().values() if hasattr(v, "unconstrained")]
    assert any(w.grad is not None and float(w.grad.abs().max()) > 0 for w in weights)


def test_numpyros_support_inside_a_plate_and_a_gradient_to_the_parameters():
    bijection = pf.Coupling(2, conditioner=pf.MLP((4,)))
    data = jnp.array([[0.2, 0.3, 0.5]] * 3)

    def model(y=None):
        with numpyro.plate("rows", 3):
            numpyro.sample("w", shell_of_numpyro.flow("prior", bijection, support=nconstraints.simplex), obs=y)

    trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace()
    assert trace["w"]["value"].shape == (3, 3)
    density = jax.grad(lambda p: numpyro.infer.util.log_density(model, (data,), {}, p)[0])
    gradient = density({"prior": trace["prior"]["value"]})
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) > 0


def test_a_sample_that_is_scored_is_one_pass_in_pyro_and_leaves_nothing_behind(monkeypatch):
    bijection = pf.iaf(2)
    d = shell_of_pyro.Flow(bijection, support=pconstraints.simplex)
    value = d.rsample((3,))
    expected = d.log_prob(value.clone())
    monkeypatch.setattr(pf.Chain, "_inverse", lambda *_: pytest.fail("inverted"))
    torch.testing.assert_close(d.log_prob(value), expected)
    copy.deepcopy(d)
    pickle.dumps(d)


def test_a_sample_is_scored_by_one_pass_in_numpyro(monkeypatch):
    d = shell_of_numpyro.Flow(pf.Coupling(2, conditioner=pf.MLP((4,))), support=nconstraints.simplex)
    value, intermediates = d.sample_with_intermediates(jax.random.key(0), (3,))
    with monkeypatch.context() as patch:
        patch.setattr(pf.Coupling, "_forward", lambda *_: pytest.fail("run forward"))
        expected = d.log_prob(value)
    monkeypatch.setattr(pf.Coupling, "_apply", lambda *_: pytest.fail("run again"))
    np.testing.assert_allclose(d.log_prob(value, intermediates), expected, rtol=1e-5)


def test_numpyros_mixed_support_is_a_pytree_and_equal_to_its_like():
    c = nconstraints
    make = lambda size: Mixed([(c.positive, 1), (c.simplex, size)])  # noqa: E731
    mixed = make(3)
    again = jax.tree.unflatten(jax.tree.structure(mixed), jax.tree.leaves(mixed))
    assert again == mixed
    assert make(4) != mixed
    onto = nbiject_to(mixed)
    assert jax.jit(lambda t, x: t(x))(onto, jnp.zeros(3)).shape == (4,)
    assert bool(mixed(mixed.feasible_like(jnp.zeros((2, 4)))).all())


def frozen(host):
    """Two priors of frozen flows: on a simplex, and on ``(0, 1) x R x (0, inf)``."""
    flow = pf.Coupling(2, conditioner=pf.MLP((4,)))
    unit, positive = pf.Elementwise(1, pf.Sigmoid()), pf.Elementwise(1, pf.Softplus())
    bounded = pf.Chain(
        [
            pf.Coupling(3, conditioner=pf.MLP((4,))),
            pf.Partial(unit, dim=3, index=(0,)),
            pf.Partial(positive, dim=3, index=(2,)),
        ]
    )
    simplex = host.shell.Flow(flow, host.params(flow), support=host.constraints.simplex)
    return simplex, host.shell.Flow(bounded, host.params(bounded))


def test_pyros_nuts_and_autoflow_run_over_frozen_flows(float64):
    simplex, bounded = frozen(Pyro)

    def model():
        w, z = pyro.sample("w", simplex), pyro.sample("z", bounded)
        pyro.sample("y", pdist.Normal(w[0] + z[0], 0.1), obs=torch.tensor(0.6))

    mcmc = MCMC(NUTS(model), num_samples=6, warmup_steps=6, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()
    guided = shell_of_pyro.AutoFlow(model, pf.Elementwise, start="init")()
    for drawn in (draws, guided):
        assert bool(simplex.support.check(drawn["w"]).all() & bounded.support.check(drawn["z"]).all())
    assert float(draws["w"][:, 0].std()) > 0
    assert float(draws["z"][:, 0].std()) > 0


@pytest.mark.slow
def test_numpyros_nuts_and_autoflow_run_over_frozen_flows():
    simplex, bounded = frozen(NumPyro)

    def model():
        w, z = numpyro.sample("w", simplex), numpyro.sample("z", bounded)
        numpyro.sample("y", ndist.Normal(w[0] + z[0], 0.1), obs=0.6)

    mcmc = NMCMC(NNUTS(model), num_warmup=6, num_samples=6, progress_bar=False)
    mcmc.run(jax.random.key(0))
    draws = mcmc.get_samples()
    guided = numpyro.handlers.seed(shell_of_numpyro.AutoFlow(model, pf.Elementwise, start="init"), 0)()
    for drawn in (draws, guided):
        assert bool(simplex.support.check(drawn["w"]).all() & bounded.support.check(drawn["z"]).all())
    assert float(draws["w"][:, 0].std()) > 0
    assert float(draws["z"][:, 0].std()) > 0


def test_a_start_is_a_batch_on_the_support():
    batch = np.random.default_rng(0).dirichlet([5.0, 2.0, 1.0], 64)
    bijection = pf.Chain([pf.ActNorm(2), pf.Reverse(2)])
    kwargs = {"start": to_tensor(batch), "support": pconstraints.simplex}
    in_pyro = shell_of_pyro.flow("prior", bijection, **kwargs).transforms[0].params
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        shell_of_numpyro.flow("prior", bijection, start=batch, support=nconstraints.simplex)
    for a, b in zip(jax.tree.leaves(in_pyro), jax.tree.leaves(trace["prior"]["value"]), strict=True):
        assert float(abs(a.detach()).max()) > 0.1
        np.testing.assert_allclose(a.detach(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shell", [shell_of_pyro, shell_of_numpyro], ids=["pyro", "numpyro"])
def test_fit_density_keeps_to_the_range_of_the_bijection(shell):
    y = np.random.default_rng(0).beta(2, 3, size=(300, 2)).astype("float32")
    flow = pf.Chain([pf.nsf(2, flow_layers=1), pf.Elementwise(2, pf.Sigmoid())])
    given = torch.tensor(y) if shell is shell_of_pyro else jnp.asarray(y)
    with pytest.raises(ValueError, match=r"pass standardize=False"):
        shell.fit_density(flow, given, steps=2, standardize=True, progress=False)
    with pytest.raises(ValueError, match=r"of 300 rows of data are not inside the bijection's range"):
        shell.fit_density(flow, given + 1, steps=2, progress=False)
    fit = shell.fit_density(flow, given, steps=60, progress=False)
    assert fit.losses[-20:].mean() < fit.losses[:5].mean() - 0.1
