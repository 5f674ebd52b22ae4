"""Where ``AutoFlow`` starts, in both languages alike."""

import itertools

import numpy as np
import pyro
import pytest
from languages import COVARIANCE, MEAN, STILL, Regression, correlated, identity_flow, small, sub_sampled


@pytest.mark.slow_in_numpyro
def test_a_badly_scaled_and_collinear_posterior_is_found_in_few_steps(lang):
    target = Regression(lang)
    assert np.linalg.cond(target.covariance) > 1e8
    guide = lang.AutoFlow(target.model, identity_flow)
    result = lang.fit(target.model, guide, steps=20, num_particles=16, draws=2_000, progress=False)
    assert guide.start == "full_rank"
    assert target.log_evidence - result.elbo.mean < 0.01
    assert result.elbo.mean - target.log_evidence < max(4 * result.elbo.se, 1e-6)
    assert result.verdict.startswith("good")


def test_a_sub_sampled_likelihood_has_no_gaussian_to_start_at(lang):
    guide = lang.AutoFlow(sub_sampled(lang), small)
    lang.set_up(guide)
    assert guide.start == "init"
    pyro.clear_param_store()
    for start in ("full_rank", "mean_field", "laplace"):
        with pytest.raises(ValueError, match=f"start='{start}' is not possible: the likelihood is sub-sampled"):
            lang.set_up(lang.AutoFlow(sub_sampled(lang), small, start=start))


def test_sites_hidden_from_the_guide_leave_no_gaussian_to_start_at(lang):
    def model():
        a = lang.ppl.sample("a", lang.dist.Normal(0.0, 10.0))
        b = lang.ppl.sample("b", lang.dist.Normal(0.0, 10.0))
        lang.ppl.sample("y", lang.dist.Normal(a + b, 0.1), obs=lang.array(0.0))

    guide = lang.AutoFlow(lang.hide(model, ["b"]), small)
    lang.set_up(guide)
    assert guide.start == "init", "given one draw of b, a is sharp, and far from where it belongs"


@pytest.mark.parametrize("start", ["auto", "full_rank", "low_rank", "mean_field", "laplace", "draws", "init"])
def test_every_start_puts_the_guide_where_it_says(lang, start):
    draws = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, size=400)
    given = {"z": lang.array(draws)} if start == "draws" else start
    init = lang.init_to({"z": lang.array(MEAN - 1)})
    guide = lang.AutoFlow(correlated(lang), small, start=given, init_loc_fn=init, init_scale=0.5)
    z = lang.posterior_draws(guide, 4_000)
    assert guide.start == {"auto": "full_rank"}.get(start, start)
    covariance = {
        "draws": np.cov(draws.T),
        "init": 0.25 * np.eye(2),
        # the best Gaussian with independent coordinates has the precision's diagonal
        "mean_field": np.diag(1 / np.diag(np.linalg.inv(COVARIANCE))),
    }.get(start, COVARIANCE)
    mean = {"draws": draws.mean(0), "init": MEAN - 1}.get(start, MEAN)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.1)  # 4,000 draws: 5 standard errors are 0.08
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.12)


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("names", [*itertools.permutations(["a", "m", "z"])], ids="".join)
def test_draws_to_start_from_reach_their_own_sites_in_every_order(lang, names):
    """A language sorts some of its dictionaries by name, and the model has its own order."""
    means = {name: 10.0 * i for i, name in enumerate(names)}
    shapes = dict(zip(names, [(), (2,), ()], strict=True))

    def model():
        for name in names:
            lang.ppl.sample(name, lang.dist.Normal(lang.array(np.zeros(shapes[name])), 1.0).to_event(len(shapes[name])))

    rng = np.random.default_rng(0)
    draws = {n: lang.array(mean + 0.1 * rng.standard_normal((300, *shapes[n]))) for n, mean in means.items()}
    result = lang.fit(model, lang.AutoFlow(model, identity_flow, start=draws), draws=100, **STILL)
    for name, value in result.sample(200).items():
        np.testing.assert_allclose(np.asarray(value).mean(0), np.full(shapes[name], means[name]), atol=0.1)


def test_draws_to_start_from_may_be_of_bounded_sites(lang):
    def model():
        lang.ppl.sample("scale", lang.dist.Gamma(2.0, 2.0))
        lang.ppl.sample("share", lang.dist.Dirichlet(lang.array(np.ones(3))))

    rng = np.random.default_rng(0)
    draws = {"scale": lang.array(rng.gamma(2.0, 0.5, 300)), "share": lang.array(rng.dirichlet(np.ones(3), 300))}
    guide = lang.AutoFlow(model, small, start=draws)
    z = lang.posterior_draws(guide, 4_000)
    log_scale = np.log(np.asarray(draws["scale"]))
    assert z.shape == (4_000, 3)
    assert z[:, 0].mean() == pytest.approx(log_scale.mean(), abs=5 * log_scale.std() / 4_000**0.5)
    assert z[:, 0].std() == pytest.approx(log_scale.std(), rel=0.1)


def test_initial_values_that_the_model_rejects_are_replaced(lang):
    def model(bias=0.0):
        a = lang.ppl.sample("a", lang.dist.Normal(lang.array(0.0), 1.0))
        share = lang.xp.exp(a) / (1 + lang.xp.exp(a))  # nan far out
        lang.ppl.sample("y", lang.dist.Bernoulli(share + bias), obs=lang.array(1.0))

    far = lang.init_to({"a": lang.array(1e4)})
    guide = lang.AutoFlow(model, identity_flow, init_loc_fn=far)
    draws = lang.posterior_draws(guide, 4_000)
    assert guide.start == "full_rank"
    # the mean is 0.413, of the prior times the logistic function; the Gaussian's a little off
    np.testing.assert_allclose(draws.mean(), 0.413, atol=0.1)
    pyro.clear_param_store()
    with pytest.raises(ValueError, match="Bernoulli"):
        lang.set_up(lang.AutoFlow(model, identity_flow, init_loc_fn=far), np.nan)


def test_options_that_the_guide_does_not_have_are_errors_that_name_those_it_has(lang):
    with pytest.raises(
        ValueError, match="start must be one of auto, full_rank, low_rank, mean_field, laplace, init, or draws"
    ):
        lang.AutoFlow(correlated(lang), start="advi")
    with pytest.raises(ValueError, match="quality must be one of quick, standard, thorough; got 'best'"):
        lang.AutoFlow(correlated(lang), quality="best")
