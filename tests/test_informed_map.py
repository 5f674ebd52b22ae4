"""The map of a model, law by law over all kinds of models; in both languages where both have the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pyro.contrib.autoname
import pytest
import torch
from languages import LANGUAGES
from numpyro import handlers
from numpyro.contrib.control_flow import cond, scan
from numpyro.distributions.transforms import biject_to as numpyro_biject_to
from numpyro.infer.reparam import LocScaleReparam as NumPyroLocScale
from numpyro.infer.reparam import TransformReparam as NumPyroTransform
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam as PyroLocScale
from pyro.infer.reparam import TransformReparam as PyroTransform
from torch.distributions import biject_to as pyro_biject_to

import ppl_flows.numpyro.informed
import ppl_flows.pyro.informed
from ppl_flows.core.params import map_params
from ppl_flows.pyro.log_density import LogDensity

MODELS = {}  # by name: a model of a language, the sites it places, the languages that have it


def of(*placed, only=None):
    def register(make):
        MODELS[make.__name__] = make, placed, only
        return make

    return register


def two_scales(lang):
    """A location and a scale, which other sites depend on."""
    mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(1.0), 2.0))
    return mu, lang.ppl.sample("s", lang.dist.HalfNormal(lang.array(1.5)))


# --- what is placed


@of("theta")
def schools(lang):
    mu, s = two_scales(lang)
    with lang.ppl.plate("rows", 3):
        theta = lang.ppl.sample("theta", lang.dist.Normal(mu, s))
        lang.ppl.sample("y", lang.dist.Normal(theta, 1.0), obs=lang.array([0.0, 1.0, 4.0]))


@of("theta")
def latents_that_come_late(lang):
    """The sites of the vector are not sorted by name, and there are some after the placed one."""
    s = lang.ppl.sample("z_scale", lang.dist.LogNormal(lang.array(0.0), 1.0))
    lang.ppl.sample("theta", lang.dist.Normal(lang.array([0.0, 1.0]), s).to_event(1))
    lang.ppl.sample("a", lang.dist.Beta(lang.array(2.0), lang.array(3.0)))


@of("loc", "row")
def nested_plates(lang):
    mu, s = two_scales(lang)
    with lang.ppl.plate("columns", 2, dim=-1):
        loc = lang.ppl.sample("loc", lang.dist.Normal(mu, s))
        with lang.ppl.plate("rows", 3, dim=-2):
            row = lang.ppl.sample("row", lang.dist.Normal(loc, 1.0))
            lang.ppl.sample("y", lang.dist.Normal(row, 0.5), obs=lang.array(np.arange(6.0).reshape(3, 2)))


@of("z")
def plates_with_events(lang):
    mu, s = two_scales(lang)
    with lang.ppl.plate("rows", 2):
        lang.ppl.sample("z", lang.dist.Normal(mu + lang.array([0.0, 1.0, 2.0]), s).to_event(1))


TRIL = np.array([[1.0, 0.0], [0.8, 0.5]])


@of("z")
def one_multivariate_normal(lang):
    mu, s = two_scales(lang)
    lang.ppl.sample("z", lang.dist.MultivariateNormal(mu + lang.array([0.0, 1.0]), scale_tril=s * lang.array(TRIL)))


@of("z")
def multivariate_normals_in_a_plate(lang):
    mu, s = two_scales(lang)
    with lang.ppl.plate("rows", 3):
        z = lang.dist.MultivariateNormal(mu + lang.array([0.0, 1.0]), scale_tril=s * lang.array(TRIL))
        lang.ppl.sample("z", z)


@of("z")
def multivariate_normals_that_differ(lang):
    s = lang.ppl.sample("s", lang.dist.HalfNormal(lang.array([1.0, 2.0, 3.0])).to_event(1))
    with lang.ppl.plate("rows", 3):
        tril = s[..., None, None] * lang.array(TRIL)
        lang.ppl.sample("z", lang.dist.MultivariateNormal(lang.array([0.0, 1.0]), scale_tril=tril))


@of("x0", "x1", "x2")
def a_chain_written_as_a_loop(lang):
    x, s = two_scales(lang)
    for t in range(3):
        x = lang.ppl.sample(f"x{t}", lang.dist.Normal(0.9 * x, s))


REAL = ["Normal", "StudentT", "Cauchy", "Laplace", "Logistic", "Gumbel", "SoftLaplace"]
POSITIVE = ["LogNormal", "HalfNormal", "HalfCauchy", "Exponential", "Gamma", "InverseGamma", "Weibull"]
PARAMETERS = {
    "HalfNormal": lambda s: (s,),
    "HalfCauchy": lambda s: (s,),
    "Exponential": lambda s: (s,),
    "Gamma": lambda s: (s + 1, s),
    "InverseGamma": lambda s: (s + 1, s),
}


@of(*REAL)
def real_sites(lang):
    mu, s = two_scales(lang)
    for name in REAL:
        if hasattr(lang.dist, name):
            df = (lang.array(4.0),) if name == "StudentT" else ()
            lang.ppl.sample(name, getattr(lang.dist, name)(*df, mu, s))


@of(*POSITIVE)
def positive_sites(lang):
    _, s = two_scales(lang)
    for name in POSITIVE:
        parameters = PARAMETERS.get(name, lambda s: (s, s))(s)
        lang.ppl.sample(name, getattr(lang.dist, name)(*parameters).expand([2]).to_event(1))


@of("z")
def where_on_latents(lang):
    mu, s = two_scales(lang)
    lang.ppl.sample("z", lang.dist.Normal(lang.xp.where(mu > 0, mu, -2 * mu), s))


@of("z")
def a_factor(lang):
    mu, s = two_scales(lang)
    z = lang.ppl.sample("z", lang.dist.Normal(mu, s))
    lang.ppl.factor("tilt", -(z**4))


@of("z", "masked")
def masks(lang):
    mu, s = two_scales(lang)
    z = lang.ppl.sample("z", lang.dist.Normal(mu, s).mask(lang.array(1.0) > 0))
    with handlers.mask(mask=False) if lang.ppl is numpyro else poutine.mask(mask=torch.tensor(False)):
        lang.ppl.sample("masked", lang.dist.Normal(z, s))


@of("z", "y_unobserved")
def an_observed_mask(lang):
    mu, s = two_scales(lang)
    with lang.ppl.plate("rows", 3):
        z = lang.ppl.sample("z", lang.dist.Normal(mu, s))
        seen = lang.array([1.0, 0.0, 1.0]) > 0
        lang.ppl.sample("y", lang.dist.Normal(z, 1.0), obs=lang.array([0.0, 1.0, 2.0]), obs_mask=seen)


@of("one/z", "two/z")
def scopes(lang):
    prefix = handlers.scope if lang.ppl is numpyro else pyro.contrib.autoname.scope
    for name in ("one", "two"):
        with prefix(prefix=name):
            mu, s = two_scales(lang)
            lang.ppl.sample("z", lang.dist.Normal(mu, s))


@of("z")
def conditioned(lang):
    def model():
        mu, s = two_scales(lang)
        a = lang.ppl.sample("a", lang.dist.Normal(mu, s))
        lang.ppl.sample("z", lang.dist.Normal(a, s))

    condition = handlers.condition if lang.ppl is numpyro else poutine.condition
    condition(model, data={"a": lang.array(0.3)})()


@of("steps", only="numpyro")
def gaussian_random_walk(lang):
    _, s = two_scales(lang)
    lang.ppl.sample("steps", lang.dist.GaussianRandomWalk(s, num_steps=4))


@of("steps", only="numpyro")
def gaussian_random_walks_in_a_plate(lang):
    _, s = two_scales(lang)
    with lang.ppl.plate("rows", 2):
        lang.ppl.sample("steps", lang.dist.GaussianRandomWalk(s, num_steps=3).expand([2]))


def scanned(transition, first=0.0, length=4):
    """A chain, seen with noise."""

    def step(x, y):
        x = transition(x)
        numpyro.sample("y", numpyro.distributions.Normal(x, 1.0), obs=y)
        return x, None

    scan(step, first, jnp.arange(float(length)))


@of("x", only="numpyro")
def scanned_autoregression(lang):
    mu, s = two_scales(lang)
    phi = numpyro.sample("phi", numpyro.distributions.Uniform(-1, 1))
    scanned(lambda x: numpyro.sample("x", numpyro.distributions.Normal(mu + phi * (x - mu), s)))


@of("start", "x", only="numpyro")
def scanned_random_walk(lang):
    mu, s = two_scales(lang)
    start = numpyro.sample("start", numpyro.distributions.Normal(mu, 1.0))
    scanned(lambda x: numpyro.sample("x", numpyro.distributions.Normal(x, s)), start)
    numpyro.sample("after", numpyro.distributions.Normal(0.0, 1.0))


@of("x", "after", only="numpyro")
def a_site_after_a_scan(lang):
    _, s = two_scales(lang)

    def step(x, _):
        x = numpyro.sample("x", numpyro.distributions.Normal(x, s))
        return x, x

    last, _ = scan(step, 0.0, None, length=3)
    numpyro.sample("after", numpyro.distributions.Normal(last, s))


@of("x", only="numpyro")
def a_scan_of_positive_sites(lang):
    _, s = two_scales(lang)
    scanned(lambda x: numpyro.sample("x", numpyro.distributions.LogNormal(jnp.log(x), s)), 1.0)


@of("x", "w", only="numpyro")
def a_scan_after_a_scan(lang):
    _, s = two_scales(lang)

    def step(name):
        return lambda x, _: 2 * (numpyro.sample(name, numpyro.distributions.Normal(x, s)),)

    last, _ = scan(step("x"), 0.0, None, length=3)
    scan(step("w"), last, None, length=2)


@of("after", only="numpyro")
def sites_in_a_cond(lang):
    mu, s = two_scales(lang)
    ways = [lambda _, sign=sign: numpyro.sample("z", numpyro.distributions.Normal(sign * mu, s)) for sign in (1, -1)]
    numpyro.sample("after", numpyro.distributions.Normal(cond(mu > 0, *ways, None), s))


@of("z", only="numpyro")
def a_cond_without_sites(lang):
    mu, s = two_scales(lang)
    numpyro.sample("z", numpyro.distributions.Normal(cond(mu > 0, lambda v: v, lambda v: -v, mu), s))


@of("z", only="numpyro")
def a_scope_around_a_scan(lang):
    """The host itself does not find the site inside."""
    mu, s = two_scales(lang)
    with handlers.scope(prefix="one"):
        scan(lambda x, _: 2 * (numpyro.sample("x", numpyro.distributions.Normal(x, s)),), 0.0, None, length=3)
    numpyro.sample("z", numpyro.distributions.Normal(mu, s))


@of(only="numpyro")
def a_scan_backwards(lang):
    _, s = two_scales(lang)
    scan(lambda x, _: 2 * (numpyro.sample("x", numpyro.distributions.Normal(x, s)),), 0.0, None, length=3, reverse=True)


@of(only="numpyro")
def two_sites_in_a_scan(lang):
    _, s = two_scales(lang)

    def step(x, _):
        v = numpyro.sample("v", numpyro.distributions.Normal(0.0, s))
        return numpyro.sample("x", numpyro.distributions.Normal(x + v, s)), None

    scan(step, 0.0, None, length=3)


@of(only="numpyro")
def a_scan_that_is_not_linear(lang):
    _, s = two_scales(lang)
    scanned(lambda x: numpyro.sample("x", numpyro.distributions.Normal(jnp.sin(x) + x, s)))


@of(only="numpyro")
def a_scan_whose_scale_depends_on_the_state(lang):
    _, s = two_scales(lang)
    scanned(lambda x: numpyro.sample("x", numpyro.distributions.Normal(x, s * (1 + x**2))))


@of(only="numpyro")
def a_scan_that_looks_back_two_steps(lang):
    _, s = two_scales(lang)

    def step(carry, _):
        x = numpyro.sample("x", numpyro.distributions.Normal(0.5 * carry[0] + 0.3 * carry[1], s))
        return (x, carry[0]), None

    scan(step, (0.0, 0.0), None, length=4)


@of(only="numpyro")
def vectors_in_a_scan(lang):
    _, s = two_scales(lang)
    scanned(lambda x: numpyro.sample("x", numpyro.distributions.Normal(x, s).to_event(1)).sum() + 0 * x, jnp.zeros(2))


# --- what stays as it is


@of()
def sites_without_parents(lang):
    mu, s = two_scales(lang)
    z = lang.ppl.sample("z", lang.dist.Normal(lang.array([0.0, 1.0]), 1.0).to_event(1))
    lang.ppl.sample("y", lang.dist.Normal(mu + s * z, 1.0).to_event(1), obs=lang.array([1.0, 2.0]))


@of("other")
def an_enumerated_parent(lang):
    mu, s = two_scales(lang)
    k = lang.ppl.sample("k", lang.dist.Categorical(lang.array([0.3, 0.7])), infer={"enumerate": "parallel"})
    lang.ppl.sample("z", lang.dist.Normal(lang.xp.where(k == 0, mu, mu + 4), s))
    lang.ppl.sample("other", lang.dist.Normal(mu, s))


@of()
def transformed(lang):
    mu, s = two_scales(lang)
    dist, t = lang.dist, lang.dist.transforms
    lang.ppl.sample("affine", dist.TransformedDistribution(dist.Normal(lang.array(0.0), 1.0), t.AffineTransform(mu, s)))
    lang.ppl.sample("exp", dist.TransformedDistribution(dist.Normal(mu, s), [t.ExpTransform()]))
    lang.ppl.sample("softplus", dist.TransformedDistribution(dist.Normal(mu, s), [t.SoftplusTransform()]))
    base = dist.Normal(mu + lang.array([0.0, 1.0, 2.0]), s).to_event(1)
    lang.ppl.sample("ordered", dist.TransformedDistribution(base, [t.OrderedTransform()]))


@of()
def other_supports(lang):
    _, s = two_scales(lang)
    dist = lang.dist
    lang.ppl.sample("lkj", dist.LKJCholesky(3, s))
    lang.ppl.sample("beta", dist.Beta(s, s + 1))
    lang.ppl.sample("simplex", dist.Dirichlet(s * lang.array([1.0, 2.0, 3.0])))
    scale = lang.ppl.sample("pareto", dist.Pareto(lang.array(1.0), s))
    lang.ppl.sample("bounded", dist.Uniform(-scale, scale + s))


@of(only="numpyro")
def distributions_of_numpyro_alone(lang):
    mu, s = two_scales(lang)
    dist = lang.dist
    lang.ppl.sample("zero_sum", dist.ZeroSumNormal(s, (3,)))
    lang.ppl.sample("improper", dist.ImproperUniform(dist.constraints.real, (), ()))
    lang.ppl.sample("truncated", dist.TruncatedNormal(mu, s, low=0.0))
    lang.ppl.sample(
        "mixture", dist.MixtureSameFamily(dist.Categorical(probs=jnp.ones(2) / 2), dist.Normal(mu + jnp.arange(2.0), s))
    )


@of()
def several_degrees_of_freedom(lang):
    mu, s = two_scales(lang)
    lang.ppl.sample(
        "z", lang.dist.MultivariateStudentT(lang.array(5.0), mu + lang.array([0.0, 1.0]), s * lang.array(TRIL))
    )


@of()
def a_class_of_ones_own(lang):
    mu, s = two_scales(lang)
    fn = type("Normal", (lang.dist.Normal,), {})(mu, s)  # what its parameters mean, no one knows
    lang.ppl.sample("z", fn)


@of()
def reparametrised(lang):
    """Their new sites have no parents."""

    def model():
        mu, s = two_scales(lang)
        dist = lang.dist
        lang.ppl.sample("z", dist.Normal(mu, s))
        base = dist.Normal(lang.array(0.0), 1.0)
        lang.ppl.sample("t", dist.TransformedDistribution(base, dist.transforms.AffineTransform(mu, s)))

    if lang.ppl is numpyro:
        config = {"z": NumPyroLocScale(centered=0.0), "t": NumPyroTransform()}
        return handlers.reparam(model, config=config)()
    return poutine.reparam(model, config={"z": PyroLocScale(centered=0.0), "t": PyroTransform()})()


# --- the laws


class Found:
    """The map of a model, its parameters far from those it starts at, and ways that take and give NumPy."""

    def __init__(self, lang, model, *args, block=()):
        self.lang = lang
        find = numpyro_map if lang.ppl is numpyro else pyro_map
        found, self.latents = find(model, *args)
        self.map = found.with_block(block)
        rng = np.random.default_rng(3)
        moved = map_params(lambda _, a: a + rng.standard_normal(np.shape(a)), self.map.init(rng))
        moved["state"] = {name: np.exp(value) for name, value in moved["state"].items()}
        if block:
            moved["state"]["block"] = self.map.block_at
        self.params = map_params(lambda _, a: lang.array(a), moved)
        self.x = rng.standard_normal(self.map.dim)

    def run(self, way, x):
        """``(y, log_det)``, and the Jacobian."""
        f = lambda x: getattr(self.map, way)(self.params, x)  # noqa: E731
        if self.lang.ppl is numpyro:
            jacobian, (y, log_det) = jax.jit(jax.jacfwd(lambda x: (f(x)[0], f(x)), has_aux=True))(jnp.asarray(x))
            return np.asarray(y), float(log_det), np.asarray(jacobian)
        x = torch.tensor(x)
        jacobian = torch.autograd.functional.jacobian(lambda x: f(x)[0], x)
        y, log_det = f(x)
        return y.numpy(), log_det.item(), jacobian.numpy()


def numpyro_map(model, *args):
    filled = handlers.substitute(model, {"improper": jnp.asarray(0.3)})  # what none can draw
    trace = handlers.trace(handlers.seed(filled, 0)).get_trace(*args)
    latents = {n: s for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"] and n != "k"}
    init = [np.ravel(numpyro_biject_to(s["fn"].support).inv(s["value"])) for s in latents.values()]
    init = np.asarray(np.concatenate(init), np.float64)
    params = {n: s["value"] for n, s in trace.items() if s["type"] == "param"}
    found = ppl_flows.numpyro.informed.model_map(model, args, {}, latents=latents, init=init, params=params)
    return found, [*latents]


def pyro_map(model, *args):
    nodes = poutine.trace(model).get_trace(*args).nodes
    latents = {
        n: s
        for n, s in nodes.items()
        if s["type"] == "sample" and not s["is_observed"] and n != "k" and not poutine.util.site_is_subsample(s)
    }
    init = torch.cat([pyro_biject_to(s["fn"].support).inv(s["value"]).reshape(-1) for s in latents.values()])

    def unpack(vector):
        first = 0
        for name, site in latents.items():
            u = pyro_biject_to(site["fn"].support).inv(site["value"])
            events = site["fn"].event_dim + u.ndim - site["value"].ndim
            shape = torch.broadcast_shapes(u.shape, vector.shape[:-1] + (1,) * events)
            yield site | {"name": name}, vector[..., first : first + u.numel()].reshape(shape)
            first += u.numel()

    density = LogDensity(lambda: model(*args), unpack, init)
    return ppl_flows.pyro.informed.model_map(model, args, {}, latents=latents, init=init, density=density), [*latents]


# in NumPyro their programs take long to compile, and its own code has seen others like them
LONG_IN_NUMPYRO = {
    "other_supports",
    "transformed",
    "where_on_latents",
    "a_factor",
    "masks",
    "scopes",
    "sites_without_parents",
    "one_multivariate_normal",
    "multivariate_normals_that_differ",
    "a_chain_written_as_a_loop",
    "several_degrees_of_freedom",
    "positive_sites",
    "scanned_random_walk",
    "a_site_after_a_scan",
    "a_scope_around_a_scan",
    "vectors_in_a_scan",
    "a_scan_after_a_scan",
    "a_scan_of_positive_sites",
    "a_scan_that_looks_back_two_steps",
    "real_sites",
    "gaussian_random_walk",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow_in_numpyro if n in LONG_IN_NUMPYRO else ()) for n in MODELS]
)
def test_the_map_of_a_model_is_exact_and_triangular_and_places_what_it_should(lang, name):
    make, placed, only = MODELS[name]
    if only not in (None, lang.ppl.__name__):
        pytest.skip(f"of {only} alone.")
    found = Found(lang, lambda: make(lang))
    expected = {site for site in placed if site in found.latents}
    assert expected or not placed
    if not expected:
        assert found.map.placed == ()
        return
    assert set(found.map.placed) == expected
    assert [site.name for site in found.map.sites] == found.latents
    x = found.x
    y, log_det, jacobian = found.run("forward", x)
    again, back, _ = found.run("inverse", y)
    np.testing.assert_allclose(again, x, atol=1e-9)
    assert back == pytest.approx(-log_det, abs=1e-9)
    np.testing.assert_allclose(np.triu(jacobian, 1), 0, atol=1e-10)
    assert log_det == pytest.approx(np.log(np.diag(jacobian)).sum(), abs=1e-9)
    for site in found.map.sites:
        moves = not np.array_equal(y[site.at], x[site.at])
        assert moves == (site.name in expected), site.name


NORMAL = {
    "latents_that_come_late": (pytest.mark.slow_in_numpyro,),
    "multivariate_normals_in_a_plate": (pytest.mark.slow_in_numpyro,),
    "a_chain_written_as_a_loop": (pytest.mark.slow_in_numpyro,),
    "gaussian_random_walk": (pytest.mark.slow_in_numpyro,),
    "gaussian_random_walks_in_a_plate": (pytest.mark.slow_in_numpyro,),
    "a_site_after_a_scan": (pytest.mark.slow_in_numpyro,),
    "a_scan_after_a_scan": (),
}


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks) for name, marks in NORMAL.items()])
def test_without_observations_the_coordinates_of_normal_sites_are_standard_normal(lang, name):
    """Given those of the sites before, by the host's own densities."""
    make, placed, only = MODELS[name]
    if only not in (None, lang.ppl.__name__):
        pytest.skip(f"of {only} alone.")
    model = lambda: make(lang)  # noqa: E731
    found, rng = Found(lang, model), np.random.default_rng(0)
    found.params = map_params(lambda _, a: lang.array(a), found.map.init(rng))
    first, second = found.x, found.x.copy()
    for site in found.map.sites:
        if site.name in placed:
            second[site.at] = rng.standard_normal(site.size)

    def log_density(x):
        y, log_det, _ = found.run("forward", x)
        transforms = found.map.walk._transforms
        values = {s.name: transforms[s.name](lang.array(y[s.at].reshape(s.numbers))) for s in found.map.sites}
        own = sum(d for _, d in lang.unconstrained(model, values).values())
        return lang.log_joint(model, values) + float(own) + log_det

    expected = 0.5 * (first @ first - second @ second)
    assert log_density(second) - log_density(first) == pytest.approx(expected, rel=1e-8)


# their parameters, of so many rows, do not broadcast with events; Pyro's own particles do not either
ONE_BY_ONE = {
    "latents_that_come_late",
    "plates_with_events",
    "one_multivariate_normal",
    "multivariate_normals_in_a_plate",
    "multivariate_normals_that_differ",
    "positive_sites",
}


@pytest.mark.parametrize("name", [n for n, (_, _, only) in MODELS.items() if only is None])
def test_pyro_places_many_rows_as_it_places_one(name, float64):
    lang = LANGUAGES["pyro"]
    found = Found(lang, lambda: MODELS[name][0](lang))
    if not found.map.placed:
        return
    assert found.map.walk.vectorizes == (name not in ONE_BY_ONE)
    rows = torch.tensor(np.random.default_rng(5).standard_normal((2, 3, found.map.dim)))
    for way in ("forward", "inverse"):
        y, log_det = getattr(found.map, way)(found.params, rows)
        assert (y.shape, log_det.shape) == (rows.shape, rows.shape[:-1])
        for i in np.ndindex(2, 3):
            alone, own = getattr(found.map, way)(found.params, rows[i])
            np.testing.assert_allclose(y[i], alone, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(log_det[i], own, rtol=1e-10, atol=1e-12)


def test_pyros_maps_are_the_same_in_float32():
    lang = LANGUAGES["pyro"]
    for name, (make, placed, only) in MODELS.items():
        found = Found(lang, lambda make=make: make(lang)) if only is None else None
        if found is None or not found.map.placed:
            assert only or not placed, name
            continue
        assert set(found.map.placed) == {*placed} & {*found.latents}, name
        assert found.map.walk.vectorizes == (name not in ONE_BY_ONE), name
        x = torch.tensor(found.x, dtype=torch.float32)
        y, log_det = found.map.forward(found.params, x)
        again, back = found.map.inverse(found.params, y)
        assert y.dtype == log_det.dtype == again.dtype == torch.float32, name
        np.testing.assert_allclose(again, x, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(back, -log_det, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("convert", [float, int, lambda v: v.item(), lambda v: v + 1 if v > 0 else v], ids=range(4))
def test_pyro_places_rows_one_by_one_where_the_model_cannot_run_for_many(float64, convert):
    def model():
        mu = pyro.sample("mu", pyro.distributions.Normal(1.0, 2.0))
        s = 1.0 + 0.0 * convert(mu.detach())
        pyro.sample("z", pyro.distributions.Normal(mu, s))

    found = Found(LANGUAGES["pyro"], model)
    assert found.map.placed == ("z",)
    assert not found.map.walk.vectorizes
    rows = torch.randn(3, 2)
    y, log_det = found.map.forward(found.params, rows)
    again, back = found.map.inverse(found.params, y)
    np.testing.assert_allclose(again, rows, atol=1e-10)
    np.testing.assert_allclose(back, -log_det, atol=1e-10)


def test_pyro_leaves_plates_and_its_stack_as_they_were(float64):
    """A run ends at the last site that is placed, inside of plates."""

    def model():
        mu, s = two_scales(LANGUAGES["pyro"])
        with pyro.plate("columns", 2):
            for i in pyro.plate("rows", 2):
                pyro.sample(f"z{i}", pyro.distributions.Normal(mu, s))
        assert not ending, "the run goes on"

    ending = []
    found = Found(LANGUAGES["pyro"], model)
    ending.append(True)
    for _ in range(2):
        found.map.forward(found.params, torch.tensor(found.x))
    assert not pyro.poutine.runtime._PYRO_STACK
    assert not any(pyro.poutine.runtime._DIM_ALLOCATOR._stack)


def test_pyros_model_may_branch_and_leave_sites_out(float64):
    def model(at):
        a = pyro.sample("a", pyro.distributions.Normal(torch.tensor(at), 0.01))
        s = pyro.sample("s", pyro.distributions.HalfNormal(torch.tensor(1.0)))
        if a < 0.2:
            pyro.sample("b", pyro.distributions.Normal(a, s))
        pyro.sample("c", pyro.distributions.Normal(a, s))

    for at, placed in ((0.1, ("c",)), (-3.0, ("b", "c"))):  # of a, in the run that shows the sites
        found = Found(LANGUAGES["pyro"], model, at)
        assert found.map.placed == placed
        rows = torch.tensor(np.random.default_rng(0).standard_normal((20, 4)))
        y, log_det = found.map.forward(found.params, rows)
        again, back = found.map.inverse(found.params, y)
        torch.testing.assert_close(again, rows)
        torch.testing.assert_close(back, -log_det)


def test_runs_of_the_model_are_in_no_trace(lang):
    model = lambda: schools(lang)  # noqa: E731
    found = Found(lang, model)

    def placing():
        found.map.forward(found.params, lang.array(found.x))
        return model()

    if lang.ppl is numpyro:
        trace = handlers.trace(handlers.seed(placing, 0)).get_trace()
    else:
        trace = poutine.trace(placing).get_trace().nodes
    assert {"mu", "s", "theta", "y"} <= trace.keys()


def test_other_arguments_make_another_map(lang):
    def model(rows):
        mu, s = two_scales(lang)
        lang.ppl.sample("z", lang.dist.Normal(mu * rows, s).to_event(1))

    first, second = lang.array([1.0, 2.0]), lang.array([-3.0, 0.5])
    found, other = Found(lang, model, first), Found(lang, model, second)
    y, log_det, _ = found.run("forward", found.x)
    found.map = found.map.with_arguments((second,), {})
    moved, own, _ = found.run("forward", found.x)
    assert not np.allclose(moved, y)
    np.testing.assert_array_equal(moved, other.run("forward", found.x)[0])
    assert own == log_det, "it does not depend on the location"
