"""A block of coefficients that the model's log density places: its laws, where it is chosen, and that it lasts."""

from functools import cache, partial

import jax.numpy as jnp
import numpy as np
import pyro
import pytest
import torch
from languages import LANGUAGES, SHORT, assert_moved, small
from test_informed_map import Found

import ppl_flows as pf
from ppl_flows.core.namespace import namespace
from ppl_flows.inference import find_start
from ppl_flows.inference.conditional_gaussian import Conditional

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 4))
Y = X @ np.array([2.0, -1.0, 0.0, 0.0]) + 0.5 + 0.7 * RNG.standard_normal(12)


def horseshoe(lang, y=Y):
    """Not centred: no prior places anything."""
    ppl, dist = lang.ppl, lang.dist
    tau = ppl.sample("tau", dist.HalfCauchy(lang.array(1.0)))
    z = ppl.sample("z", dist.Normal(lang.array(np.zeros(4)), 1.0).to_event(1))
    scale = ppl.sample("scale", dist.HalfCauchy(lang.array(np.ones(4))).to_event(1))
    alpha = ppl.sample("alpha", dist.Normal(lang.array(0.0), 5.0))
    sigma = ppl.sample("sigma", dist.HalfNormal(lang.array(5.0)))
    mean = alpha[..., None] + (z * scale * tau[..., None]) @ lang.array(X).T
    ppl.sample("y", dist.Normal(mean, sigma[..., None]).to_event(1), obs=lang.array(y))


def logistic(lang):
    """Centred, with a scale of the coefficients: their prior places them, too."""
    ppl, dist = lang.ppl, lang.dist
    s = ppl.sample("s", dist.HalfNormal(lang.array(2.0)))
    beta = ppl.sample("beta", dist.Normal(lang.array(np.zeros(4)), s[..., None]).to_event(1))
    theta = ppl.sample("theta", dist.Normal(lang.array(0.0), s))
    logits = theta[..., None] + beta @ lang.array(X).T
    ppl.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=lang.array(Y > 0.5))


def priors_as_factors(lang):
    ppl, dist = lang.ppl, lang.dist
    s = ppl.sample("s", dist.HalfNormal(lang.array(2.0)))
    flat = dist.Normal(lang.array(np.zeros(4)), 100.0).to_event(1)
    beta = ppl.sample("beta", flat)
    ppl.factor("prior", dist.Normal(lang.array(0.0), s[..., None]).log_prob(beta).sum(-1))
    ppl.sample("y", dist.Normal(beta @ lang.array(X).T, 1.0).to_event(1), obs=lang.array(Y))


MODELS = {
    "horseshoe": (horseshoe, ("z", "alpha")),
    "logistic": (logistic, ("beta",)),
    "factors": (priors_as_factors, ("beta",)),
}


def regression(scale):
    """Mean and covariance of the coefficients of ``X``, and of the intercept, with priors and noise of these scales."""
    design = np.concatenate([X * scale["z"], np.ones((12, 1))], axis=1)
    covariance = np.linalg.inv(design.T @ design / scale["sigma"] ** 2 + np.diag([1.0, 1.0, 1.0, 1.0, 1 / 25]))
    return covariance @ design.T @ Y / scale["sigma"] ** 2, covariance


# --- the laws


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_a_standard_normal_becomes_the_gaussian_of_gradient_and_precision(make, float64):
    rng = np.random.default_rng(1)
    root, reference, gradient, w = (rng.standard_normal(s) for s in ((3, 5, 5), (5,), (3, 5), (3, 5)))
    precision = root @ root.swapaxes(-1, -2) + np.eye(5)
    given = Conditional(make(reference), make(gradient), make(precision))
    u, log_det = given.place(make(w))
    again, back = given.unplace(u)
    np.testing.assert_allclose(again, w, atol=1e-10)
    np.testing.assert_allclose(back, -np.asarray(log_det), atol=1e-12)
    np.testing.assert_allclose(log_det, -0.5 * np.linalg.slogdet(precision)[1], atol=1e-10)
    at_zero = np.asarray(given.place(make(0 * w))[0])
    np.testing.assert_allclose(at_zero, reference + np.linalg.solve(precision, gradient[..., None])[..., 0], atol=1e-10)
    columns = [np.asarray(given.place(make(np.broadcast_to(row, (3, 5))))[0]) - at_zero for row in np.eye(5)]
    jacobian = np.stack(columns, axis=-1)
    np.testing.assert_allclose(np.triu(jacobian, 1), 0, atol=1e-12)
    np.testing.assert_allclose(jacobian @ jacobian.swapaxes(-1, -2), np.linalg.inv(precision), atol=1e-10)


@pytest.mark.parametrize("make", [np.asarray, torch.tensor, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_a_matrix_that_is_not_positive_definite_is_nan_alone(make):
    factor, inverse = (
        np.asarray(a) for a in namespace(make(np.eye(2))).cholesky(make(np.stack([4 * np.eye(2), -np.eye(2)])))
    )
    np.testing.assert_array_equal([factor[0], inverse[0]], [2 * np.eye(2), 0.5 * np.eye(2)])
    assert np.isnan(factor[1]).any()
    assert np.isnan(inverse[1]).any()


@pytest.mark.parametrize("name", MODELS)
def test_the_map_with_a_block_is_exact_and_triangular_with_the_block_last(lang, name):
    make, block = MODELS[name]
    found = Found(lang, partial(make, lang), block=block)
    assert found.map.block == block
    assert set(block) <= set(found.map.placed)
    y, log_det, jacobian = found.run("forward", found.x)
    again, back, _ = found.run("inverse", y)
    np.testing.assert_allclose(again, found.x, atol=1e-8)
    assert back == pytest.approx(-log_det, abs=1e-8)
    at = found.map.block_at
    order = [*np.setdiff1d(np.arange(found.map.dim), at), *at]
    jacobian = jacobian[np.ix_(order, order)]
    np.testing.assert_allclose(np.triu(jacobian, 1), 0, atol=1e-9)
    assert np.abs(np.tril(jacobian, -1)[-len(at) :, : -len(at)]).max() > 1e-3, "the others move the block"
    assert log_det == pytest.approx(np.log(np.diag(jacobian)).sum(), abs=1e-8)


def test_given_the_others_a_gaussian_block_is_the_exact_conditional(lang):
    found = Found(lang, partial(horseshoe, lang), block=("z", "alpha"))
    x, at = found.x.copy(), found.map.block_at
    x[at] = 0
    y, _, jacobian = found.run("forward", x)
    values = {site.name: np.exp(y[site.at]) for site in found.map.sites}
    mean, covariance = regression({"z": values["scale"] * values["tau"], "sigma": values["sigma"]})
    np.testing.assert_allclose(y[at], mean, rtol=1e-8)
    own = jacobian[np.ix_(at, at)]
    np.testing.assert_allclose(own @ own.T, covariance, rtol=1e-8, atol=1e-12)


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("name", MODELS)
def test_many_rows_are_placed_as_one_is(lang, name):
    make, block = MODELS[name]
    found = Found(lang, partial(make, lang), block=block)
    rows = np.random.default_rng(5).standard_normal((2, 150, found.map.dim))
    for way in ("forward", "inverse"):
        y, log_det = (np.asarray(a) for a in getattr(found.map, way)(found.params, lang.array(rows)))
        assert (y.shape, log_det.shape) == (rows.shape, rows.shape[:-1])
        for i in ((0, 0), (1, 149)):
            alone, own, _ = found.run(way, rows[i])
            np.testing.assert_allclose(y[i], alone, rtol=1e-8, atol=1e-10)
            assert log_det[i] == pytest.approx(own, rel=1e-8, abs=1e-8)


# --- where it is chosen


def two_modes(lang):
    """Given their scales, the coefficients have two modes each: the log density is not concave between them."""
    with lang.ppl.plate("coefficients", 4):
        s = lang.ppl.sample("s", lang.dist.HalfCauchy(lang.array(1.0)))
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))
        lang.ppl.sample("y", lang.dist.Normal((z * s) ** 2, 0.5), obs=lang.array([4.0, 0.0, 0.0, 1.0]))


def long_block(lang):
    s = lang.ppl.sample("s", lang.dist.HalfCauchy(lang.array(np.ones(65))).to_event(1))
    z = lang.ppl.sample("z", lang.dist.Normal(lang.array(np.zeros(65)), 1.0).to_event(1))
    lang.ppl.sample("y", lang.dist.Normal(z * s, 0.5).to_event(1), obs=lang.array(np.arange(65.0) / 30))


def easy(lang):
    s = lang.ppl.sample("s", lang.dist.LogNormal(lang.array(0.0), 0.1))
    z = lang.ppl.sample("z", lang.dist.Normal(lang.array(np.zeros(3)), 1.0).to_event(1))
    lang.ppl.sample("y", lang.dist.Normal(z, s[..., None]).to_event(1), obs=lang.array(np.ones(3)))


def set_up(lang, model, **options):
    guide = lang.AutoFlow(partial(model, lang), small, **({"start": "mean_field"} | options))
    lang.set_up(guide)
    return guide


@pytest.mark.slow
def test_it_is_chosen_where_the_precision_of_a_block_varies(lang):
    guide = set_up(lang, horseshoe)
    assert guide.informed == ("z", "alpha")
    assert "informed=['z', 'alpha']" in repr(guide)
    pyro.clear_param_store()
    assert set_up(lang, horseshoe, informed=False).informed == ()
    pyro.clear_param_store()
    with pytest.raises(ValueError, match="informed=True, but no latent site has a prior"):
        set_up(lang, horseshoe, informed=True)


@pytest.mark.parametrize(
    ("model", "reached", "looked_at"), [(two_modes, True, True), (long_block, True, False), (easy, False, False)]
)
def test_other_models_have_none(lang, model, reached, looked_at, monkeypatch):
    """Where no site may be in a block, or the start leaves little, the log density is not even asked."""
    calls, looks, plain = [], [], find_start.block_start

    def watched(coordinates, *args, **kwargs):
        calls.append(coordinates)
        of = coordinates.of

        def counted(informed):
            looks.append(informed.block)
            return of(informed)

        monkeypatch.setattr(coordinates, "of", counted)
        return plain(coordinates, *args, **kwargs)

    monkeypatch.setattr(find_start, "block_start", watched)
    assert set_up(lang, model).informed == ()
    assert (bool(calls), bool(looks)) == (reached, looked_at)


# --- what it does


@cache
def trained(lang):
    """Model, guide and result, and the parameters before; once for several tests."""
    model = partial(horseshoe, lang)
    guide = lang.AutoFlow(model, small, start="mean_field", seed=2)
    lang.set_up(guide, lang.array(Y))
    before = lang.parameters(guide)
    return model, guide, lang.fit(model, guide, lang.array(Y), **SHORT), before


@pytest.mark.slow
@pytest.mark.slow_in_numpyro
def test_a_fit_trains_and_beats_the_guide_without_a_block(lang):
    model, guide, result, before = trained(lang)
    assert guide.informed == ("z", "alpha")
    after = lang.parameters(guide, result)
    assert_moved(before, {name: after[name] for name in before})
    assert result.losses[-20:].mean() < result.losses[:20].mean()
    pyro.clear_param_store()
    plain = lang.AutoFlow(model, small, start="mean_field", seed=2, informed=False)
    assert result.elbo.mean > lang.fit(model, plain, lang.array(Y), **SHORT).elbo.mean + 0.3


@pytest.mark.slow
def test_given_the_others_draws_are_those_of_the_conditional(lang):
    _, _, result, _ = trained(lang)
    draws = {n: np.asarray(v) for n, v in result.sample(400).items()}
    off = []
    for i in range(400):
        mean, covariance = regression({"z": draws["scale"][i] * draws["tau"][i], "sigma": draws["sigma"][i]})
        off.append(np.linalg.solve(np.linalg.cholesky(covariance), np.append(draws["z"][i], draws["alpha"][i]) - mean))
    off = np.stack(off)
    assert np.abs(off.mean(0)).max() < 0.3
    assert np.abs(off.std(0) - 1).max() < 0.3


@pytest.mark.slow_in_numpyro
def test_a_call_without_arguments_has_those_of_the_set_up_and_others_count(lang):
    _, guide, result, _ = trained(lang)
    w = lang.array(np.random.default_rng(0).standard_normal(11))
    params = () if lang.ppl is pyro else (result.params,)

    def at(*args):
        moved = guide.get_transform(*params, *args)(w)
        return np.asarray(moved.detach() if lang.ppl is pyro else moved)

    np.testing.assert_array_equal(at(), at(lang.array(Y)))
    block = guide.bijection.parts[-1].block_at
    moved = np.abs(at(lang.array(Y + 1)) - at()) > 1e-6
    assert moved[block].any()
    assert not np.delete(moved, block).any()


@pytest.mark.slow_in_numpyro
@pytest.mark.parametrize("writer", ["pyro", "numpyro"])
def test_a_saved_fit_comes_back_in_either_language(lang, writer, tmp_path):
    _, original, saved, _ = trained(LANGUAGES[writer])
    saved.save(tmp_path / "fit")
    pyro.clear_param_store()
    guide, result = lang.AutoFlow.load(tmp_path / "fit", partial(horseshoe, lang), lang.array(Y))
    assert guide.informed == original.informed
    assert repr(result) == repr(saved)
    rows = np.random.default_rng(0).standard_normal((5, 11))
    theirs = original.get_posterior() if writer == "pyro" else original.get_posterior(saved.params)
    ours = guide.get_posterior() if lang.ppl is pyro else guide.get_posterior(result.params)
    scores = [p.log_prob(language.array(rows)) for p, language in ((ours, lang), (theirs, LANGUAGES[writer]))]
    scores = [np.asarray(s.detach() if isinstance(s, torch.Tensor) else s) for s in scores]
    np.testing.assert_allclose(*scores, rtol=1e-4)
    assert result.reweighted(20)["z"].shape == (20, 4)
    result.save(tmp_path / "again")
    assert repr(pf.load(tmp_path / "again")) == repr(pf.load(tmp_path / "fit"))
    pyro.clear_param_store()
    _, without = lang.AutoFlow.load(tmp_path / "fit", partial(horseshoe, lang, y=None))
    with pytest.raises(ValueError, match="the guide is informed: it draws by runs of its model"):
        without.sample(5)


def test_pyros_state_is_loaded_before_the_first_call(float64):
    lang = LANGUAGES["pyro"]
    model = partial(horseshoe, lang)
    guide = lang.AutoFlow(model, small, start="mean_field")
    lang.fit(model, guide, **(SHORT | {"steps": 5}))
    state = {name: value.clone() for name, value in guide.state_dict().items()}
    expected = guide.get_posterior().log_prob(torch.ones(11))
    pyro.clear_param_store()
    new = lang.AutoFlow(model, small)
    new.load_state_dict(state)
    new()
    assert (new.start, new.informed) == ("loaded", ("z", "alpha"))
    torch.testing.assert_close(new.get_posterior().log_prob(torch.ones(11)), expected)


@pytest.mark.slow
def test_a_compiled_fit_in_pyro_is_the_eager_one(float64):
    lang = LANGUAGES["pyro"]
    results = []
    for mode in (False, "jit"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        options = {"steps": 15, "num_particles": 4, "draws": 20, "tolerance": None, "progress": False}
        guide = lang.AutoFlow(partial(horseshoe, lang), small, start="mean_field")
        results.append(lang.fit(partial(horseshoe, lang), guide, compile=mode, **options))
    np.testing.assert_allclose(results[1].losses, results[0].losses, rtol=1e-6)
