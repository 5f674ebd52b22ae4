"""``fit_amortized`` on simulations that were made before."""

import h5py
import numpy as np
import pytest
from sources import peak_of_memory

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro

SHELLS = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}
SMALL = {"steps": 150, "batch_size": 100, "lr": 1e-2, "patience": None, "progress": False}


def model_of(lang):
    """Of a location and a scale: three rows of data."""

    def model(y):
        z = lang.ppl.sample("z", lang.dist.Normal(lang.array(0.0), 1.0))
        s = lang.ppl.sample("s", lang.dist.Uniform(lang.array(1.0), 2.0))
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("y", lang.dist.Normal(z, s), obs=y)

    return model


def simulations(n):
    rng = np.random.default_rng(0)
    z, s = rng.standard_normal(n), rng.uniform(1, 2, n)
    return {"z": z, "s": s, "y": z[:, None] + s[:, None] * rng.standard_normal((n, 3))}


def fit(lang, given, **options):
    flow = options.pop(
        "flow", lambda dim, context_dim: pf.maf(dim, flow_layers=1, hidden=(16,), context_dim=context_dim)
    )
    shell = SHELLS[lang.ppl.__name__]
    return shell.fit_amortized(model_of(lang), lang.array(np.zeros(3)), simulations=given, flow=flow, **SMALL | options)


def posterior_mean(y):
    """Of z, by a grid of s, given which all is normal."""
    s = np.linspace(1, 2, 201)
    variance, rest = 1 + s**2 / 3, ((y - y.mean()) ** 2).sum()
    weights = np.exp(-0.5 * y.mean() ** 2 / variance - 0.5 * rest / s**2) / (np.sqrt(variance) * s**2)
    return (weights * y.mean() / variance).sum() / weights.sum()


@pytest.mark.slow_in_numpyro
def test_simulations_on_disk_give_the_posterior(lang, tmp_path):
    rows = simulations(10_000)
    np.save(tmp_path / "y.npy", rows["y"])
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["s"] = rows["s"]
    with h5py.File(tmp_path / "s.h5") as file:
        stored = {"z": rows["z"], "s": file["s"], "y": np.load(tmp_path / "y.npy", mmap_mode="r")}
        found = fit(lang, stored, validation=0.05)
    losses = found.density.losses
    assert np.isfinite(losses).all()
    assert losses[-30:].mean() < losses[:10].mean() - 0.01, "it starts at the linear regression, near the optimum"
    assert found.density.validation_losses.min() == pytest.approx(losses[-30:].mean(), abs=0.1)
    for y in (np.array([0.5, 1.0, 1.5]), np.array([-2.0, -1.0, -1.5])):
        draws = found.sample(4_000, lang.array(y))
        assert (
            abs(float(np.mean(np.asarray(draws["z"]))) - posterior_mean(y)) < 0.1
        )  # 0.013 of 4,000 draws, and the fit
        assert 1 < np.asarray(draws["s"]).min() < np.asarray(draws["s"]).max() < 2
    again = fit(lang, rows, validation=0.05)
    np.testing.assert_array_equal(again.density.losses, losses)


@pytest.mark.slow
def test_sets_of_stored_rows_train_an_encoder(lang):
    encoder = pf.SetEncoder(size=4, hidden=(8,))
    found = fit(lang, simulations(5_000), encoder=encoder, steps=100)
    assert found.density.losses[-20:].mean() < found.density.losses[:10].mean() - 0.02
    assert np.asarray(found.sample(10, lang.array(np.ones(3)))["z"]).shape == (10,)


@pytest.mark.long
def test_memory_grows_neither_with_stored_simulations_nor_with_those_made_in_every_step(lang, tmp_path):
    def given(n):
        arrays = {}
        for site, shape in {"z": (n,), "s": (n,), "y": (n, 3)}.items():
            array = np.lib.format.open_memmap(tmp_path / f"{site}{n}.npy", "w+", "float32", shape)
            for first in range(0, n, 10_000):
                draws = np.random.default_rng(first).standard_normal(array[first : first + 10_000].shape)
                array[first : first + 10_000] = 1 + draws % 1 if site == "s" else draws
            array.flush()
            arrays[site] = np.load(tmp_path / f"{site}{n}.npy", mmap_mode="r")
        return arrays

    few, many = given(50_000), given(2_000_000)  # 40 MB

    def grown(simulations, **options):
        with peak_of_memory() as found:
            fit(lang, simulations, validation=0.0, **options)
        return found[0]

    for _ in range(2):  # the first time for what is compiled, and what allocators keep
        stored = grown(few, steps=40)
        short, long = (grown(None, batch_size=4_000, steps=steps) for steps in (40, 240))
    assert grown(many, steps=40) < stored + 16
    assert long < short + 16, "800,000 simulations more, 32 MB"


def without(site):
    return {name: rows for name, rows in simulations(200).items() if name != site}


MISTAKES = {
    "a site lacks": (without("s"), {}, r"for every latent and every data site of the model: 's': \(n,\), got none"),
    "another site": (simulations(200) | {"t": np.zeros(200)}, {}, r"'t': none, got \(n,\)"),
    "a shape": (simulations(200) | {"y": np.zeros((200, 4))}, {}, r"'y': \(n, 3\), got \(n, 4\)"),
    "numbers of rows": (simulations(200) | {"y": np.zeros((9, 3))}, {}, "with one n, got numbers of rows {'z': 200, "),
    "few": (simulations(50), {}, "simulations must be at least 100, got 50"),
    "no site": ({}, {}, "with one n, got numbers of rows {}"),
    "rounds": (simulations(200), {"rounds": 2}, "rounds make simulations of their own; give a number"),
    "not finite": (
        simulations(200) | {"y": np.full((200, 3), np.inf)},
        {},
        "simulations have numbers at site 'y' that",
    ),
    "outside": (simulations(200) | {"s": np.full(200, 3.0)}, {}, "200 of 200 simulations have latents .* outside"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_say_what_is_wrong(lang, name):
    given, options, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        fit(lang, given, **options)


def test_a_list_of_simulations_is_none_of_these(lang):
    with pytest.raises(TypeError, match="simulations must be a whole number, None, or a dict"):
        fit(lang, [1, 2])
