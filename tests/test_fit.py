"""``fit``: its budget, its measure, annealing, and its end; in both languages alike."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from languages import MEAN, SHORT, STILL, Regression, correlated, identity_flow, normal, small, sub_sampled

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.inference import look_around
from ppl_flows.inference.auto_flow import QUALITIES, Quality, fit_budget, sized
from ppl_flows.inference.kl_estimate import WideSample
from ppl_flows.inference.schedule import has_converged, learning_rate


@pytest.mark.slow_in_numpyro
def test_the_quality_says_the_flow_and_the_fit_budget(lang, monkeypatch):
    for i, name in enumerate(("quick", "standard", "thorough"), 1):
        monkeypatch.setitem(QUALITIES, name, Quality(flow_layers=2 * i, steps=5 + i, num_particles=1 + i))
        guide = lang.AutoFlow(correlated(lang), quality=name, start="init")
        pyro.clear_param_store()
        lang.set_up(guide)
        assert lang.transform(guide, None).bijection.parts[0] == pf.guide_flow(2, flow_layers=2 * i)
        assert fit_budget(guide, None, None) == (5 + i, 1 + i)
        assert fit_budget(guide, 3, 4) == (3, 4)
    guide = lang.AutoFlow(correlated(lang), identity_flow, quality="thorough", start="init")
    pyro.clear_param_store()
    assert len(lang.fit(correlated(lang), guide, draws=10, progress=False).losses) == 8
    assert fit_budget(lambda: None, None, None) == (7, 3), "of a guide without a quality: the standard"


# --- what a result says


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize(
    ("scale", "verdict"), [(1.0, "good"), (0.65, "usable after reweighting"), (0.1, "do not trust")]
)
def test_the_verdict_is_that_of_the_kl(lang, scale, verdict):
    init = lang.init_to({"z": lang.array(0.0)})
    guide = lang.AutoFlow(normal(lang), identity_flow, start="init", init_loc_fn=init, init_scale=scale)
    result = lang.fit(normal(lang), guide, **STILL)
    assert result.verdict.startswith(verdict)
    exact = 0.5 * (scale**2 - 1 - 2 * np.log(scale))  # the KL of two normals
    assert result.elbo.mean == pytest.approx(-exact, abs=max(5 * result.elbo.se, 1e-9))
    if scale >= 0.65:  # the draws of a guide a tenth as wide do not reach far enough
        assert result.kl.mean == pytest.approx(exact, abs=4 * result.kl.se + 1e-3)
    assert 0 < result.ess <= 1 + 1e-9
    if scale == 1.0:
        assert result.ess == pytest.approx(1)
    assert verdict in repr(result)


def test_a_guide_of_points_is_never_good(lang):
    model = correlated(lang)
    result = lang.fit(model, lang.autoguide.AutoDelta(model), **SHORT)
    assert result.ess == pytest.approx(1), "all weights are one"
    assert result.kl.mean == np.inf
    assert result.verdict.startswith("do not trust")
    assert "one point for z" in result.verdict


def test_draws_that_are_impossible_under_the_model_are_not_to_be_trusted(lang):
    def model():
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))
        lang.ppl.factor("positive", lang.xp.where(z > 0, lang.array(0.0), lang.array(-np.inf)))

    guide = lang.AutoFlow(
        model, identity_flow, start="init", init_loc_fn=lang.init_to({"z": lang.array(1.0)}), init_scale=1.0
    )
    result = lang.fit(model, guide, **STILL)
    assert result.verdict.startswith("do not trust: KL inf")
    assert "impossible under the model" in result.verdict
    assert 0 < result.ess < 1


def half_seen(lang):
    """A model, and a guide that draws but one half of its posterior."""

    def model():
        lang.ppl.sample("z", lang.dist.Normal(0.0, 1.0))

    def guide():
        scale = lang.ppl.param("scale", lang.array(1.0))
        lang.ppl.sample("z", lang.dist.HalfNormal(scale))

    return model, guide


def test_half_of_a_posterior_is_not_enough(lang):
    result = lang.fit(*half_seen(lang), **STILL)
    assert result.ess == pytest.approx(1), "the guide's own draws see nothing"
    assert not result.verdict.startswith("good")


@pytest.mark.parametrize("sites", ["real", "bounded", "local"])
@pytest.mark.slow_in_numpyro
def test_a_guide_scores_its_own_draws_as_it_scores_others(lang, sites, monkeypatch):
    seen = []

    def model():
        if sites == "bounded":
            scale = lang.ppl.sample("scale", lang.dist.Gamma(lang.array(2.0), lang.array(1.0)))
            lang.ppl.sample("p", lang.dist.Dirichlet(lang.array([2.0, 3.0, 4.0])))
        else:
            scale = 1.0
        a = lang.ppl.sample("a", lang.dist.Normal(0.0, 1.0))
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("b", lang.dist.Normal(a, scale))

    class Remember(WideSample):
        def __init__(self, vectors, own):
            super().__init__(vectors, own)
            self.first = vectors[:60], [scores[:60] for scores in own]

        def add(self, near, score, *rest):
            super().add(near, score, *rest)
            seen.append(self.first[0].shape[1])
            for one, other in zip(self.first[1], score(self.first[0]), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)  # float32

    def small_local(dim, context_dim):
        return pf.Elementwise(dim, context_dim=context_dim, conditioner=pf.MLP((8,)))

    monkeypatch.setattr(look_around, "WideSample", Remember)
    shell = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}[lang.ppl.__name__]
    guide = (
        shell.AutoLocalFlow(model, "rows", local_flow=small_local) if sites == "local" else lang.AutoFlow(model, small)
    )
    lang.fit(model, guide, **SHORT)
    assert seen == [7 if sites == "bounded" else 4]


def test_a_sub_sampled_likelihood_is_not_judged(lang):
    guide = lang.AutoFlow(sub_sampled(lang), identity_flow)
    result = lang.fit(sub_sampled(lang), guide, **(SHORT | {"steps": 5, "draws": 50}))
    assert result.verdict.startswith("not judged")
    assert np.isnan(result.khat)
    assert np.isnan(result.ess)
    with pytest.raises(ValueError, match="the likelihood is sub-sampled"):
        result.reweighted(10)


@pytest.mark.slow_in_numpyro
def test_the_elbo_is_not_above_the_evidence(lang):
    target = Regression(lang)
    guide = lang.AutoFlow(target.model, identity_flow, start="init", init_scale=1e-3)
    result = lang.fit(target.model, guide, **(SHORT | {"steps": 50}))
    assert result.elbo.mean < target.log_evidence + 4 * result.elbo.se


@pytest.mark.slow_in_numpyro
def test_reweighted_draws_correct_a_guide_that_is_wrong(lang):
    init = lang.init_to({"z": lang.array(MEAN + 0.5)})
    guide = lang.AutoFlow(correlated(lang), identity_flow, start="init", init_loc_fn=init, init_scale=1.0)
    result = lang.fit(correlated(lang), guide, **(STILL | {"draws": 500}))
    plain = np.asarray(result.sample(2_000)["z"])
    np.testing.assert_allclose(plain.mean(0), MEAN + 0.5, atol=0.1)
    weighed = result.reweighted(2_000)
    assert set(weighed) == {"z"}
    z = np.asarray(weighed["z"])
    assert z.shape == (2_000, 2)
    # of 8,000 draws of a mean field some 30 % are effective; the correlation is what it cannot have
    np.testing.assert_allclose(z.mean(0), MEAN, atol=0.1)
    assert np.corrcoef(plain.T)[0, 1] == pytest.approx(0, abs=0.1)
    assert np.corrcoef(z.T)[0, 1] == pytest.approx(0.9, abs=0.05)
    np.testing.assert_array_equal(weighed["z"], result.reweighted(2_000)["z"])
    assert not np.array_equal(weighed["z"], result.reweighted(2_000, seed=2)["z"])


# --- annealing


def two_modes(lang):
    """Two normals of equal weight; log evidence 0. As a factor, as Pyro's mixtures have no unconstrained form."""

    def model():
        wide = lang.dist.Normal(lang.array(0.0), 10.0)
        z = lang.ppl.sample("z", wide)
        modes = (lang.dist.Normal(lang.array(loc), 0.4).log_prob(z) + np.log(0.5) for loc in (-1.5, 1.5))
        lang.ppl.factor("modes", lang.xp.logaddexp(*modes) - wide.log_prob(z))

    return model


@pytest.mark.slow_in_numpyro
def test_annealing_finds_the_mode_that_a_plain_fit_misses(lang):
    found = {}
    for anneal in (1.0, 0.02):
        pyro.clear_param_store()
        init = lang.init_to({"z": lang.array(-1.5)})
        spline = partial(pf.nsf, flow_layers=1)
        guide = lang.AutoFlow(two_modes(lang), spline, start="init", init_loc_fn=init, init_scale=0.4)
        options = SHORT | {"steps": 300, "num_particles": 16, "lr": 5e-2, "draws": 2_000, "seed": 1}
        result = lang.fit(two_modes(lang), guide, anneal=anneal, **options)
        found[anneal] = float((np.asarray(result.sample(2_000)["z"]) > 0).mean()), result.elbo.mean
    (plain, plain_elbo), (annealed, annealed_elbo) = found[1.0], found[0.02]
    assert plain < 0.01, "the trap: one of two modes"
    assert plain_elbo == pytest.approx(-np.log(2), abs=0.05), "half of the mass is missing"
    assert 0.2 < annealed < 0.8
    assert annealed_elbo > plain_elbo + 0.3


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"anneal": 0.0}, "anneal must be above 0"),
        ({"anneal": 1.5}, "anneal must be above 0 and at most 1"),
        ({"draws": 1}, "draws must be at least 2"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
        ({"estimator": "score"}, "estimator must be .*got 'score'"),
        ({"num_particles": 0}, "at least 1"),
    ],
)
def test_options_that_fit_does_not_have_are_errors(lang, option, match):
    with pytest.raises(ValueError, match=match):
        lang.fit(correlated(lang), lang.AutoFlow(correlated(lang), small, start="init"), **(SHORT | option))


# --- when a fit ends


@pytest.mark.slow_in_numpyro
def test_a_fit_ends_when_it_has_converged(lang):
    options = SHORT | {"steps": 400, "num_particles": 32, "lr": 3e-3, "draws": 2_000}
    fits = []
    for tolerance in (1e-3, None):
        pyro.clear_param_store()
        guide = lang.AutoFlow(correlated(lang), identity_flow, start="laplace")
        fits.append(lang.fit(correlated(lang), guide, tolerance=tolerance, **options))
    early, full = fits
    assert len(full.losses) == 400
    assert 40 <= len(early.losses) < 400
    assert len(early.losses) % 20 == 0
    assert early.elbo.mean == pytest.approx(full.elbo.mean, abs=5e-3)


def test_convergence_wants_both_a_narrow_spread_and_an_elbo_that_stands_still():
    rng = np.random.default_rng(0)
    narrow, wide = 1 + 1e-3 * rng.standard_normal(100), 1 + rng.standard_normal(100)
    still = partial(has_converged, steps=1_000, num_particles=10, anneal=1.0, tolerance=1e-3)
    assert still(narrow)
    assert not still(wide), "log weights spread"
    assert not still(np.append(narrow[:50] + 0.01, narrow[50:])), "the ELBO still rises"
    assert not still(narrow[:50]), "one block has nothing to be compared with"
    assert not still(narrow, num_particles=100_000)
    assert not still(narrow, tolerance=None)
    assert not still(narrow, anneal=0.5), "the tempered ELBO is another one"
    assert still(np.tile(narrow, 6), anneal=0.5)
    assert not still(np.where(np.arange(100) == 70, np.inf, narrow)), "a step was skipped"
    assert not still(narrow, steps=100), "five steps are too few to know a spread"


def test_a_first_look_ends_a_training_that_left_little_and_else_the_rate_rises_once_more():
    rng = np.random.default_rng(0)
    looked = partial(has_converged, steps=1_000, num_particles=2, anneal=1.0, tolerance=1e-6, look=200)
    narrow, wide = 1 + 0.05 * rng.standard_normal(200), 1 + rng.standard_normal(200)
    assert looked(narrow)
    assert not looked(wide)
    assert not looked(narrow[:150]), "before the look"
    rates = learning_rate(np.arange(1_000), 1_000, np, look=200)
    np.testing.assert_allclose(rates[:200], learning_rate(np.arange(200), 200, np))
    np.testing.assert_allclose(rates[200:], learning_rate(np.arange(800), 800, np))
    near, far = sized("standard", 0.1, 10, None), sized("standard", 1.0, 10, None)
    assert (near.look, near.steps, far.look, far.steps) == (1_000, 2_000, None, 2_000)


def test_a_fit_returns_the_mean_of_the_last_twentieth_of_its_steps(lang):
    def model():
        lang.ppl.factor("parabola", -0.5 * (lang.ppl.param("p", lang.array(0.0)) - 3.0) ** 2)

    steps, lr = 120, 0.5
    result = lang.fit(model, lambda: None, steps=steps, lr=lr, num_particles=1, tolerance=None, progress=False)
    p, m, v, iterates = 0.0, 0.0, 0.0, []
    for step in range(steps):  # Adam, by hand
        gradient = p - 3.0
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        rate = lr * learning_rate(step, steps, np)
        p -= rate * m / (1 - 0.9 ** (step + 1)) / ((v / (1 - 0.99 ** (step + 1))) ** 0.5 + 1e-8)
        iterates.append(p)
    assert float(result.params["p"]) == pytest.approx(np.mean(iterates[-6:]), abs=1e-9)
    assert abs(np.mean(iterates[-6:]) - p) > 1e-6, "or the last iterate would pass too"


# --- deterministic sites


def with_deterministic_sites(lang):
    def model(x):
        b = lang.ppl.sample("b", lang.dist.Normal(lang.array(0.0), 1.0))
        a = lang.ppl.sample("a", lang.dist.Normal(lang.array(np.zeros(2)), 1.0).to_event(1))
        lang.ppl.deterministic("total", b + a.sum(-1))
        lang.ppl.deterministic("pair", lang.xp.stack([b, 2 * b]))  # which many draws at once would put the wrong way
        lang.ppl.deterministic("fixed", 3 * x)
        with lang.ppl.plate("rows", 4):
            lang.ppl.deterministic("mean", b * x)

    return model


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.slow_in_numpyro
def test_the_model_s_deterministic_sites_come_with_all_draws(lang, by_hand):
    x, model = lang.array(np.arange(4.0)), with_deterministic_sites(lang)

    def guide(x):
        lang.ppl.sample("b", lang.dist.Normal(lang.ppl.param("loc", lang.array(0.1)), 1.0))
        lang.ppl.sample("a", lang.dist.Normal(lang.array(np.zeros(2)), 1.0).to_event(1))

    result = lang.fit(model, guide if by_hand else lang.AutoFlow(model, small, start="init"), x, **SHORT)
    for found in (result.sample(6), result.reweighted(6)):
        draws = {name: np.asarray(value) for name, value in found.items()}
        assert draws.keys() == {"a", "b", "total", "pair", "fixed", "mean"}
        np.testing.assert_allclose(draws["total"], draws["b"] + draws["a"].sum(-1))
        np.testing.assert_allclose(draws["pair"], draws["b"][:, None] * [1, 2])
        np.testing.assert_allclose(draws["mean"], draws["b"][:, None] * np.arange(4.0))
        np.testing.assert_allclose(draws["fixed"], np.tile(3 * np.arange(4.0), (6, 1)))


def test_deterministic_sites_that_are_the_same_for_many_draws_take_one_run(float64):
    from ppl_flows.pyro import AutoFlow, fit

    runs = []

    def model():
        runs.append(1)
        b = pyro.sample("b", pyro.distributions.Normal(0.0, 1.0))
        pyro.deterministic("double", 2 * b)
        pyro.deterministic("constant", torch.ones(3))

    result = fit(model, AutoFlow(model, small, start="init"), **SHORT)
    runs.clear()
    result.sample(50)
    assert len(runs) == 3, "the first, all at once, and the last"


@pytest.mark.slow_in_numpyro
def test_a_guide_that_draws_scales_of_zero_is_measured_and_not_trusted(lang):
    """The training is not lost for it, as it would be by an error of the host's validation."""

    def model():
        scale = lang.ppl.sample("scale", lang.dist.HalfNormal(lang.array(1.0)))
        lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), scale))

    def guide():
        loc = lang.ppl.param("loc", lang.array(0.0))
        lang.ppl.sample("scale", lang.dist.LogNormal(loc, 1.0))
        lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))

    result = lang.fit(model, guide, **STILL)
    moved = replace(result._fitted, params={"loc": lang.array(-800.0)})
    assert not np.isfinite(moved.weigh(20, 0).log_weights).any()


def rows_of_a_model(rows, at_once):
    """A model with so many rows of data, that notes how many draws it is run for; and a fit of it."""
    from ppl_flows.pyro import AutoFlow, fit

    data = torch.zeros(rows)

    def model():
        b = pyro.sample("b", pyro.distributions.Normal(0.0, 1.0))
        with pyro.plate("rows", rows):
            at_once.append(b.numel())
            pyro.deterministic("mean", b + data)
            pyro.sample("y", pyro.distributions.Normal(b, 1.0), obs=data)

    return fit(model, AutoFlow(model, small, start="init"), **SHORT | {"steps": 2, "draws": 20})


def test_many_draws_are_weighed_and_completed_in_few_runs(float64):
    at_once = []
    result = rows_of_a_model(1, at_once)
    at_once.clear()
    weighted = result._fitted.weigh(40_000, 1)
    assert at_once[-2:] == [SHORT["num_particles"], 40_000 - SHORT["num_particles"]]
    assert len(at_once) == 2
    b = weighted.draws["b"].numpy()
    np.testing.assert_allclose(weighted.scores.log_p, -0.5 * (2 * b**2 + 2 * np.log(2 * np.pi)))
    at_once.clear()
    result.reweighted(10_000)
    assert at_once == [SHORT["num_particles"], 40_000 - SHORT["num_particles"], 1, 10_000, 1]
    at_once.clear()
    result.sample(10_000)
    assert at_once == [1, 10_000, 1]


@pytest.mark.parametrize("work", ["weigh", "sample"])
def test_no_run_takes_more_memory_than_it_may(work, float64, monkeypatch):
    from ppl_flows.pyro import run_size

    rows, at_once = 1_000, []
    result = rows_of_a_model(rows, at_once)
    at_once.clear()
    monkeypatch.setattr(run_size, "MOST_BYTES", 2**22)
    with run_size.PeakBytes() as memory:
        found = result._fitted.weigh(2_000, 1).draws if work == "weigh" else result.sample(2_000)
    results = sum(value.nbytes for value in found.values())
    assert memory.peak - 2 * results < 2**23  # as the blocks are there while they are joined
    assert 20 < max(at_once) < 2**22 / 8 / rows
    assert sum(at_once) in (2_000, 2_002)


def test_the_memory_of_a_run_is_what_is_alive_at_a_time():
    from ppl_flows.pyro import run_size

    kept = torch.zeros(5)
    with run_size.PeakBytes() as memory:
        a = torch.zeros(1_000)
        a[:10].add_(1.0)  # a view, in place
        b = a + 1
        del a
        c = b.view(10, 100) * kept[0]
        del b
    assert memory.peak == pytest.approx(8_000, abs=100)
    assert memory._now == c.nbytes


def test_minibatches_have_no_deterministic_sites(lang):
    data = lang.array(np.zeros(10))

    def model():
        mu = lang.ppl.sample("mu", lang.dist.Normal(lang.array(0.0), 1.0))
        with lang.ppl.plate("rows", 10, subsample_size=5) as rows:
            lang.ppl.deterministic("shifted", mu + data[rows])

    def guide():
        lang.ppl.sample("mu", lang.dist.Normal(lang.ppl.param("loc", lang.array(0.1)), 1.0))

    assert lang.fit(model, guide, **SHORT).sample(3).keys() == {"mu"}
