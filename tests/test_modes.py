"""Several modes: looked for where a guide lacks them, and covered by a flow each under one mixture density."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pyro
import pytest
import torch
from languages import LANGUAGES, SHORT, Language, identity_flow, small
from numpyro.infer.reparam import NeuTraReparam as NumPyroNeuTra
from pyro.infer.reparam import NeuTraReparam as PyroNeuTra
from scipy import stats
from scipy.special import logsumexp

import ppl_flows as pf
from ppl_flows.core.params import map_params
from ppl_flows.inference.cover_modes import mixture_weights
from ppl_flows.inference.gaussian import Gaussian
from ppl_flows.inference.lbfgs import maximise

MEANS, WEIGHTS = np.array([[0.0, 0.0], [8.0, 2.0]]), np.array([0.7, 0.3])


def two_modes(lang: Language, means=MEANS, weights=WEIGHTS, scale=1.0):
    """Their mixture is the posterior, and log Z is 0."""

    def model():
        prior = lang.dist.Normal(lang.array(np.zeros(2)), 10.0).to_event(1)
        x = lang.ppl.sample("x", prior)
        parts = lang.dist.Normal(lang.array(means), scale).to_event(1).log_prob(x[..., None, :])
        terms = parts + lang.array(np.log(weights))
        log_p = terms.logsumexp(-1) if lang.xp is torch else jax.nn.logsumexp(terms, -1)
        lang.ppl.factor("target", log_p - prior.log_prob(x))

    return model


@pytest.fixture(scope="module")
def covered(tmp_path_factory):
    """Of a language: a guide with two modes, its fit, and the fit's file; made once."""
    made = {}

    def of(lang):
        if name_of(lang) not in made:
            path = tmp_path_factory.mktemp(name_of(lang)) / "fit.safetensors"
            guide = lang.AutoFlow(two_modes(lang), identity_flow, modes="auto")
            result = lang.fit(two_modes(lang), guide, steps=60, draws=2_000, progress=False)
            result.save(path)
            made[name_of(lang)] = guide, result, path
        return made[name_of(lang)]

    return of


def name_of(lang):
    return lang.ppl.__name__


def numbers(tree):
    return map_params(lambda _, a: np.asarray(a.detach() if torch.is_tensor(a) else a), tree)


@pytest.mark.slow_in_numpyro
def test_two_modes_are_covered_in_their_weights(lang, covered):
    guide, result, _ = covered(lang)
    assert guide.num_modes == 2
    assert result.grade == "good", result
    assert result.log_evidence.mean == pytest.approx(0, abs=3 * result.log_evidence.se + 1e-3)
    assert "no other mode found from 48 starts" in result.verdict
    near_first = np.asarray(result.sample(4_000)["x"])[:, 0] < 4
    assert near_first.mean() == pytest.approx(0.7, abs=0.03)  # 4 standard errors


def test_every_fit_begins_its_flows_in_turn_with_the_first_one(covered):
    guide = covered(LANGUAGES["pyro"])[0]
    firsts = []
    for _ in range(2):
        with pyro.get_param_store().scope(), guide.in_fit(apart=True):
            for _ in range(3):
                guide()
            firsts.append(next(guide._turns) % 2)
    assert firsts == [1, 1]


@pytest.mark.slow_in_numpyro
def test_the_density_of_a_guide_is_that_of_the_mixture(lang, covered):
    guide, result, _ = covered(lang)
    with pyro.get_param_store().scope():
        args = (result.params,) if name_of(lang) == "numpyro" else ()
        flows, posterior = guide.components(*args), guide.get_posterior(*args)
        x = np.random.default_rng(0).normal(3.0, 3.0, (20, 2))
        params, log_weights = numbers(flows.params), np.asarray(numbers({"w": flows.log_weights})["w"])
        each = []
        for k in range(2):
            z, log_det = flows.bijection.inverse(map_params(lambda _, a, k=k: a[k], params), x)
            each.append(stats.norm.logpdf(z).sum(-1) + log_det)
        log_prob = posterior.log_prob(lang.array(x))
    expected = logsumexp(np.stack(each, -1) + log_weights, axis=-1)
    np.testing.assert_allclose(np.asarray(numbers({"p": log_prob})["p"]), expected, rtol=1e-4, atol=1e-4)  # float32
    assert np.exp(log_weights) == pytest.approx(WEIGHTS, abs=0.01)


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("loaded_by", ["pyro", "numpyro"])
def test_a_file_keeps_all_modes_in_either_language(lang, covered, loaded_by):
    _, result, path = covered(lang)
    other = LANGUAGES[loaded_by]
    model = two_modes(other)
    pyro.clear_param_store()
    guide, loaded = other.AutoFlow.load(path, model)
    assert guide.num_modes == 2
    assert loaded.verdict == result.verdict
    draws, log_q = loaded._fitted.draw_with_log_q(500, 0)
    x, flows = np.asarray(draws["x"]), pf.load(path)
    each = []
    for k in range(2):
        z, log_det = flows.bijection.part.inverse(map_params(lambda _, a, k=k: a[k], flows.params), x)
        each.append(stats.norm.logpdf(z).sum(-1) + log_det)
    np.testing.assert_allclose(log_q, logsumexp(np.stack(each, -1) + flows.log_weights, axis=-1), rtol=1e-4, atol=1e-4)
    weighed = loaded._fitted.weigh(500, 0)
    assert weighed.log_weights.mean() == pytest.approx(0, abs=0.05)


@pytest.mark.slow_in_numpyro
def test_what_wants_one_transform_says_the_way_out(lang, covered):
    guide, result, _ = covered(lang)
    if name_of(lang) == "pyro":
        with pytest.raises(ValueError, match="modes=1"):
            guide.get_transform()
        with pytest.raises(ValueError, match="modes=1"):
            PyroNeuTra(guide).reparam(two_modes(lang))()
        svi = pyro.infer.SVI(two_modes(lang), guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
        with pytest.raises(NotImplementedError, match="fit"):
            svi.step()
    else:
        with pytest.raises(ValueError, match="modes=1"):
            guide.get_transform(result.params)
        with pytest.raises(ValueError, match="modes=1"):
            numpyro.handlers.seed(NumPyroNeuTra(guide, result.params).reparam(two_modes(lang)), 0)()
        svi = numpyro.infer.SVI(two_modes(lang), guide, numpyro.optim.Adam(0.01), numpyro.infer.Trace_ELBO())
        with pytest.raises(NotImplementedError, match="fit"):
            svi.init(jax.random.key(0))


@pytest.mark.slow_in_numpyro
def test_options_that_modes_do_not_have_are_named(lang, covered):
    model, (guide, _, _) = two_modes(lang), covered(lang)
    with pytest.raises(ValueError, match="modes must be"):
        lang.AutoFlow(model, modes=0)
    with pytest.raises(ValueError, match="informed"):
        lang.AutoFlow(model, modes="auto", informed=True)
    with pytest.raises(ValueError, match="start='auto'"):
        lang.AutoFlow(model, modes=2, start="laplace")
    with pytest.raises(ValueError, match="checkpoint"):
        lang.fit(model, guide, checkpoint="fit.safetensors", **SHORT)


@pytest.mark.slow_in_numpyro
def test_one_mode_gives_the_ordinary_guide(lang):
    def model():
        lang.ppl.sample("z", lang.dist.Normal(lang.array(3.0), 1.0))

    guide = lang.AutoFlow(model, small, modes="auto")
    lang.set_up(guide)
    assert guide.num_modes == 1
    assert guide.start == "full_rank"


@pytest.mark.slow_in_numpyro
def test_the_verdict_names_a_mode_that_the_guide_lacks(lang):
    start = Gaussian(MEANS[0], np.ones(2))
    options = {"steps": 20, "num_particles": 16, "draws": 1_000, "progress": False}
    model = two_modes(lang)
    result = lang.fit(model, lang.AutoFlow(model, identity_flow, start=start), **options)
    assert result.grade == "do not trust"
    assert "30% of the posterior is somewhere this guide does not reach: x[0] near 8" in result.verdict
    assert "modes='auto'" in result.verdict
    assert result._modes.missed == pytest.approx(0.3, abs=0.05)
    assert np.isnan(result.log_evidence.mean)
    assert result.kl.mean == pytest.approx(-np.log(0.7), abs=0.05)


@pytest.mark.long
def test_a_mixture_models_labels_are_all_covered(lang):
    y = np.random.default_rng(0).normal(np.repeat([-3.0, 0.0, 3.0], 12), 1.0)

    def model():
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(np.zeros(3)), 5.0).to_event(1))
        parts = lang.dist.Normal(mu[..., None, :], 1.0).log_prob(lang.array(y)[:, None])
        log_p = parts.logsumexp(-1) if lang.xp is torch else jnp.logaddexp.reduce(parts, axis=-1)
        lang.ppl.factor("y", (log_p - np.log(3)).sum(-1))

    guide = lang.AutoFlow(model, modes="auto")
    result = lang.fit(model, guide, progress=False)
    assert guide.num_modes >= 6
    assert result.kl.mean < 0.1
    np.testing.assert_allclose(np.asarray(result.sample(4_000)["mu"]).mean(0), 0, atol=0.3)


def mirrored(lang):
    """A hierarchy with a neck, whose signs the data do not tell: half of the posterior has all of them turned."""
    y = lang.array(np.array([9.0, 8.0, 10.0, 9.5, 8.5, 9.0, 7.5, 10.5]))

    def model():
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 5.0))
        tau = lang.ppl.sample("tau", lang.dist.HalfNormal(lang.array(1.0)))
        with lang.ppl.plate("rows", 8):
            theta = lang.ppl.sample("theta", lang.dist.Normal(mu, tau))
            lang.ppl.sample("y", lang.dist.Normal(theta**2, 1.5), obs=y)

    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "at_least"),
    [({}, 0.2), ({"informed": False}, 0.01), ({"start": "init"}, 0.01)],
    ids=["informed", "not informed", "no start"],
)
def test_the_other_half_of_a_hierarchy_is_named(lang, options, at_least):
    """In its latent space all optimisations end in the neck, and see no other mode."""
    model = mirrored(lang)
    guide = lang.AutoFlow(model, **options)
    result = lang.fit(model, guide, steps=400, progress=False)
    assert bool(guide.informed) == (not options)
    assert result.grade == "do not trust"
    assert at_least < result._modes.missed < 0.5
    on_the_right = np.asarray(result.sample(100)["mu"]).mean() > 0
    assert ("mu near -" in result.verdict) == on_the_right
    assert "mu near " in result.verdict


@pytest.mark.long
def test_both_halves_of_a_hierarchy_are_covered(lang):
    model = mirrored(lang)
    guide = lang.AutoFlow(model, modes="auto")
    result = lang.fit(model, guide, progress=False)
    assert guide.num_modes == 2
    assert result.kl.mean < 0.1
    assert (np.asarray(result.reweighted(4_000)["mu"]) > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert "no other mode found" in result.verdict


@pytest.mark.long
def test_funnels_raise_no_alarm(lang):
    def model():
        v = lang.ppl.sample("v", lang.dist.Normal(lang.array(0.0), 3.0))
        with lang.ppl.plate("rows", 9):
            lang.ppl.sample("x", lang.dist.Normal(0.0, lang.xp.exp(v / 2)))

    for informed in ("auto", False):
        pyro.clear_param_store()
        result = lang.fit(model, lang.AutoFlow(model, informed=informed), progress=False)
        assert not result._modes.missed, result
        assert "no other mode" in result.verdict


# --- in no language


def test_weights_of_overlapping_components_count_nothing_twice():
    rng = np.random.default_rng(0)
    means, weights = np.array([0.0, 1.5, 8.0]), np.array([0.5, 0.2, 0.3])
    x = rng.normal(np.repeat(means, 4_000), 1.0)
    log_q = stats.norm.logpdf(x[:, None], means)
    log_p = logsumexp(log_q + np.log(weights), axis=1) + 3.0  # any log Z
    found = mixture_weights(log_p, log_q)
    np.testing.assert_allclose(found, weights, atol=0.03)


class Valleys:
    """Rosenbrock's, upside down; not finite left of -3."""

    evaluations = 0

    def value_and_gradient(self, z):
        self.evaluations += len(z)
        x, y = z.T
        value = -((1 - x) ** 2) - 10 * (y - x**2) ** 2
        gradient = np.stack([2 * (1 - x) + 40 * x * (y - x**2), -20 * (y - x**2)], axis=-1)
        return np.where(x < -3, np.nan, value), gradient


def test_optimisations_in_lockstep_end_at_the_maximum():
    density = Valleys()
    starts = np.array([[-1.0, 1.0], [2.0, -3.0], [0.0, 0.0], [-2.9, 8.0], [-4.0, 0.0]])
    ends, values = maximise(density, starts)
    np.testing.assert_allclose(ends[:4], 1.0, atol=1e-2)
    assert values[4] == -np.inf
    assert density.evaluations < 5 * 200
