"""Sets of i.i.d. rows: their order says nothing, their number may be any, and the posterior is the exact one."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from scipy import stats

import ppl_flows as pf
from ppl_flows.core.params import map_params
from ppl_flows.encoders.given_set import GivenSet, fewer_rows, with_rows
from ppl_flows.inference.observations import Observations, set_axes

ROWS, FEATURES, OTHERS = 6, 3, 2
LIBRARIES = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jax.numpy.asarray}


def given_set(pooling):
    """A flow given a set, and parameters away from their start."""
    encoder = pf.SetEncoder(pooling, size=5, hidden=(8, 8))
    part = pf.Coupling(2, conditioner=pf.MLP((6,)), context_dim=5)
    made = GivenSet(part, encoder=encoder, rows=ROWS, features=FEATURES, others=OTHERS)
    rng = np.random.default_rng(0)
    return made, map_params(lambda _, a: a + 0.2 * rng.standard_normal(a.shape), made.init(rng))


def context(rows, count):
    """Of four sets."""
    others = np.random.default_rng(2).normal(size=(4, OTHERS))
    return np.concatenate([rows.reshape(4, -1), np.full((4, 1), float(count)), others], -1)


@pytest.mark.parametrize("library", ["numpy", "torch", pytest.param("jax", marks=pytest.mark.slow)])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_neither_order_nor_padding_of_a_set_changes_a_flow_and_a_row_does(pooling, library):
    made, params = given_set(pooling)
    array = LIBRARIES[library]
    params = map_params(lambda _, a: array(a), params)
    rng = np.random.default_rng(1)
    rows, y = rng.normal(size=(4, ROWS, FEATURES)), array(rng.normal(size=(4, 2)))
    x, log_det = made.inverse(params, y, array(context(rows, 4)))
    moved = rows.copy()
    moved[:, :4] = rows[:, [2, 0, 3, 1]]
    moved[:, 4:] = 1e3
    same = {"order and padding": made.inverse(params, y, array(context(moved, 4)))}
    fewer = with_rows(made, 4)
    assert fewer.init(np.random.default_rng(0)).keys() == params.keys()
    same["fewer places"] = fewer.inverse(params, y, array(context(rows[:, :4], 4)))
    for what, (again, log_det_again) in same.items():  # float64: sums in another order
        np.testing.assert_allclose(np.asarray(again), np.asarray(x), rtol=1e-10, err_msg=what)
        np.testing.assert_allclose(np.asarray(log_det_again), np.asarray(log_det), rtol=1e-9, err_msg=what)
    other, _ = made.inverse(params, y, array(context(rows, 5)))
    assert np.abs(np.asarray(other) - np.asarray(x)).max() > 1e-4, "the fifth row counts"
    back, _ = made.forward(params, x, array(context(rows, 4)))
    np.testing.assert_allclose(np.asarray(back), np.asarray(y), atol=1e-10)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_padding_of_a_set_has_no_gradient_and_rows_have_a_finite_one(pooling):
    made, params = given_set(pooling)
    params = map_params(lambda _, a: torch.as_tensor(a), params)
    rng = np.random.default_rng(1)
    given = torch.as_tensor(context(rng.normal(size=(4, ROWS, FEATURES)), 1)).requires_grad_()
    made.inverse(params, torch.as_tensor(rng.normal(size=(4, 2))), given)[0].sum().backward()
    of_rows = given.grad[:, : ROWS * FEATURES].reshape(4, ROWS, FEATURES)
    assert torch.isfinite(given.grad).all()
    assert (of_rows[:, 0] != 0).all()
    assert (of_rows[:, 1:] == 0).all()


def test_a_flow_given_a_set_is_saved(tmp_path):
    made, params = given_set("attention")
    pf.save(tmp_path / "flow", made, params)
    again, loaded = pf.load(tmp_path / "flow")
    assert again == made
    np.testing.assert_array_equal(loaded["encoder"]["attention"]["keys"], params["encoder"]["attention"]["keys"])


def test_every_size_of_a_set_is_drawn_and_the_first_rows_are_kept():
    u = np.linspace(0, 1, 1_000, endpoint=False)
    given = np.tile(context(np.zeros((4, ROWS, FEATURES)), ROWS)[:1], (1_000, 1))
    drawn = fewer_rows(given, u, ROWS, FEATURES)
    counts = drawn[:, ROWS * FEATURES]
    assert sorted(set(counts)) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(np.delete(drawn, ROWS * FEATURES, 1), np.delete(given, ROWS * FEATURES, 1))


def test_a_context_holds_the_rows_of_a_plate_one_after_the_other():
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=(50, 2, ROWS)), "n": rng.normal(size=(50, 3)), "y": rng.normal(size=(50, ROWS))}
    observations = Observations.from_rows(data, encoder=False, axes={"x": -1, "y": -1})
    assert observations.sizes == (3, 3)
    found = observations(data)
    assert found.shape == (50, ROWS * 3 + 1 + 3)
    assert set(found[:, ROWS * 3]) == {ROWS}
    swapped = {name: v if name == "n" else v[..., ::-1] for name, v in data.items()}
    rows, again = (f[:, : ROWS * 3].reshape(50, ROWS, 3) for f in (found, observations(swapped)))
    np.testing.assert_allclose(again, rows[:, ::-1])
    with pytest.raises(ValueError, match="the same number of rows"):
        observations.rows({**data, "y": data["y"][:, :2]})


def test_the_rows_of_a_set_are_those_of_one_plate_without_latents():
    assert set_axes({"y": {"rows": -1, "groups": -2}, "x": {}}, {"z": {"groups": -1}}, None) == {"y": -1}
    for plates, latents, plate in (({"y": {}}, {}, None), ({"y": {"a": -1, "b": -2}}, {}, None), ({"y": {}}, {}, "a")):
        with pytest.raises(ValueError, match="must be those of one plate"):
            set_axes(plates, latents, plate)
    with pytest.raises(ValueError, match="unknown pooling 'max'"):
        pf.SetEncoder("max")
    with pytest.raises(ValueError, match="last width that heads=3 divides"):
        pf.SetEncoder("attention", heads=3)


def normal_model(lang):
    """The mean of rows whose noise is known: ``y_i ~ N(z, 1)``, ``z ~ N(0, 2)``."""

    def model(y):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), lang.array(2.0)))
        with lang.ppl.plate("rows", len(y)):
            lang.ppl.sample("y", lang.dist.Normal(z, lang.array(1.0)), obs=y)

    return model


def normal_given(dim, *, context_dim):
    return pf.Elementwise(dim, pf.Affine(), context_dim=context_dim, conditioner=pf.MLP((16,)))


def shell(lang):
    return __import__(f"ppl_flows.{lang.ppl.__name__}", fromlist=["fit_amortized"])


@pytest.mark.slow_in_numpyro
def test_a_set_encoder_trains_and_takes_data_of_any_number_of_rows(lang, tmp_path):
    options = {"flow": normal_given, "encoder": pf.SetEncoder(size=4, hidden=(16, 16)), "steps": 80, "lr": 1e-2}
    fit = shell(lang).fit_amortized(
        normal_model(lang), lang.array(np.zeros(5)), simulations=500, batch_size=64, progress=False, **options
    )
    assert fit.density.losses[-20:].mean() < fit.density.losses[:5].mean() - 0.2
    y = np.random.default_rng(0).normal(size=9)
    with pytest.warns(UserWarning, match="sets of up to 5 rows, and these data have 9"):
        draws = [np.asarray(fit.sample(50, lang.array(v.copy()))["z"]) for v in (y, y[::-1], y[:2])]
    np.testing.assert_allclose(draws[1], draws[0], atol=1e-8)
    assert np.abs(draws[2] - draws[0]).max() > 0.1
    fit.save(tmp_path / "fit")
    loaded = shell(lang).load_amortized(tmp_path / "fit", normal_model(lang))
    with pytest.warns(UserWarning, match="sets of up to 5 rows"):
        again = np.asarray(loaded.sample(50, lang.array(y))["z"])
    np.testing.assert_allclose(again, draws[0], rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("simulations", [20_000, None])
def test_the_posterior_of_a_set_of_any_size_is_the_exact_one(lang, pooling, simulations):
    encoder = pf.SetEncoder(pooling, size=8, hidden=(32, 32))
    fit = shell(lang).fit_amortized(
        normal_model(lang),
        lang.array(np.zeros(30)),
        flow=normal_given,
        encoder=encoder,
        simulations=simulations,
        steps=2_000,
        batch_size=128,
        lr=3e-3,
        progress=False,
    )
    rng, ranks = np.random.default_rng(1), []
    for size in (1, 3, 10, 30):
        variance, off = 1 / (1 / 4 + size), []
        for seed in range(20):
            z = 2 * rng.normal()
            y = z + rng.normal(size=size)
            draws = np.asarray(fit.sample(2_000, lang.array(y), seed=seed)["z"])
            off.append(((draws.mean() - variance * y.sum()) / variance**0.5, draws.std() / variance**0.5 - 1))
            ranks.append((draws < z).mean())
        assert np.sqrt(np.mean(np.square(off), 0)).max() < 0.2, size
    assert stats.kstest(ranks, "uniform").pvalue > 1e-3
