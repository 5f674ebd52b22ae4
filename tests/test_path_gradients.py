"""Path gradients: what they are at the posterior, on average, and beside a model that trains."""

from functools import partial

import numpy as np
import numpyro
import numpyro.distributions
from languages import COVARIANCE, MEAN, SHORT, correlated, identity_flow, small

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.core.initialisation import initial_params
from ppl_flows.core.params import flatten, map_params


def at_the_posterior(lang):
    """A guide whose affine map is the posterior of ``correlated``, after a flow that is the identity."""
    guide = lang.AutoFlow(correlated(lang), small, start="init")
    lang.set_up(guide)
    l = np.linalg.cholesky(COVARIANCE)
    log_factor = np.tril(l, -1) + np.diag(np.log(np.diag(l)))

    def exact(params):
        # networks of zeros: the identity
        zeros = map_params(lambda _, a: lang.array(np.zeros(np.shape(a))), params["flow"])
        return {**params, "flow": zeros, "affine": {"l": lang.array(log_factor), "b": lang.array(MEAN)}}

    return guide, lang.set_params(guide, exact)


def test_at_the_exact_posterior_the_path_gradient_is_zero_for_every_draw(lang):
    guide, params = at_the_posterior(lang)
    path = lang.gradients(correlated(lang), guide, params, "path", repeats=5, particles=1)
    np.testing.assert_allclose(path, 0, atol=1e-9)  # float64: rounding of scores of size 10
    reparam = lang.gradients(correlated(lang), guide, params, "reparam", repeats=5, particles=1)
    assert np.abs(reparam).max() > 0.1, "the noise that the path gradient is free of"


def test_path_and_ordinary_gradients_have_the_same_mean(lang):
    guide = lang.AutoFlow(correlated(lang), small, start="init", init_scale=1.0)
    lang.set_up(guide)
    rng = np.random.default_rng(0)
    noisy = partial(map_params, lambda _, a: lang.array(np.asarray(a) + 0.2 * rng.standard_normal(np.shape(a))))
    params = lang.set_params(guide, noisy)
    path, reparam = (
        lang.gradients(correlated(lang), guide, params, estimator, repeats=30, particles=200)
        for estimator in ("path", "reparam")
    )
    se = np.sqrt((path.var(0, ddof=1) + reparam.var(0, ddof=1)) / 30)
    moving = se > 0  # masked weights have no gradient
    assert moving.sum() > 20
    t = (path.mean(0) - reparam.mean(0))[moving] / se[moving]
    assert np.abs(t).max() < 5, "standard errors"
    assert np.abs(path.mean(0)[moving] / se[moving]).max() > 10, "a mean that is not just noise"


def test_a_flow_in_the_model_trains_beside_a_guide_on_the_path(lang):
    prior = pf.real_nvp(2, flow_layers=2, hidden=(8,))

    def model():
        z = lang.ppl.sample("z", lang.flow("prior", prior))
        lang.ppl.sample("y", lang.dist.Normal(z, 0.5).to_event(1), obs=lang.array([2.0, -2.0]))

    result = lang.fit(model, lang.AutoFlow(model, identity_flow, start="init"), estimator="path", **SHORT)
    trained = dict(flatten(result.params["prior"])) if lang.ppl is numpyro else result.params
    for path, start in flatten(initial_params(prior, 0)):
        after = trained[path] if lang.ppl is numpyro else trained[f"prior.{path}"]
        assert not np.array_equal(np.asarray(after), np.asarray(start)), f"{path} did not train"
    assert result.losses[-20:].mean() < result.losses[:20].mean() - 1
