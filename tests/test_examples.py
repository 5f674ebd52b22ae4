"""The code of the README and of the inventory, and the examples, run."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pyro
import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.filterwarnings("ignore:to_arviz. the verdict", "ignore:Estimated shape parameter of Pareto")
def test_the_readmes_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_pyro, in_numpyro, in_arviz = (block.replace("deaths)\nprint", "deaths, steps=20)\nprint") for block in BLOCKS)
    for quick_start in (in_pyro, in_numpyro):
        names: dict = {}
        for block in (quick_start, in_arviz):
            exec(block, names)
        assert len(names["result"].losses) <= 20
        assert np.isfinite(names["result"].elbo.mean)
        assert set(names["data"]["posterior"].data_vars) == {"intercept", "slope"}


def test_the_quick_starts_are_twins():
    """Only the imports and the host's own names differ."""
    pyro_block, numpyro_block = BLOCKS[:2]
    as_numpyro = pyro_block.replace("pyro", "numpyro").replace("torch.tensor", "jnp.array").splitlines()
    assert [line for line in as_numpyro if line != "import torch"] == [
        line for line in numpyro_block.splitlines() if line != "import jax.numpy as jnp"
    ]


def test_the_blocks_of_what_there_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "inventory.md").read_text(), re.S)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(block.replace("steps=2000", "steps=20"), names)
    assert names["d"].sample().shape == (4,)
    nodes = pyro.poutine.trace(names["hierarchical"]).get_trace(names["table"][:, :2]).nodes
    assert nodes["z"]["value"].shape == (500, 2)


@pytest.mark.slow
def test_the_demo_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    eight_schools = __import__("eight_schools")
    # processes would load both frameworks again
    monkeypatch.setattr(eight_schools, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
    monkeypatch.setattr(eight_schools, "FLOWS", {"AutoFlow": None})
    try:
        out = eight_schools.main(steps=20, figure=str(tmp_path / "figure.png"))
    finally:
        sys.modules.pop("eight_schools")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert np.isfinite(list(out["rows"].values())).all()
    assert len(out["rows"]) == 4
    for name, (_, in_float64) in out["log_prob_changes"].items():
        assert in_float64 < 1e-5, name
    assert "reference" in capsys.readouterr().out


@pytest.mark.long
def test_eight_schools_runs_and_beats_mean_field(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # in its processes too
    eight_schools = __import__("eight_schools")
    try:
        out = eight_schools.main(steps=200, figure=str(tmp_path / "figure.png"))
    finally:
        sys.modules.pop("eight_schools")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(out["rows"]) == 6
    for name, (_, in_float64) in out["log_prob_changes"].items():
        assert in_float64 < 1e-5, name
    for language in ("Pyro", "NumPyro"):
        mean_field, flow = out["rows"][language, "mean field"], out["rows"][language, "AutoFlow(iaf)"]
        assert flow[0] < mean_field[0] - 1.0, "after a tenth of the steps the flow is ahead by more than a nat"
        assert flow[0] > -4 * flow[1], "an ELBO above the log evidence is a bug"
    assert "reference" in capsys.readouterr().out


def test_the_demos_reference_region_is_that_of_the_reference_draws():
    shared = ROOT.parent / "shared" / "data" / "posteriordb" / "eight_schools-eight_schools_noncentered.draws.npz"
    if not shared.exists():
        pytest.skip("reference draws are not in this checkout (../shared/data/posteriordb)")
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from eight_schools import REFERENCE, exact_log_density
    finally:
        sys.path.pop(0)
    stored = np.load(shared)
    names = list(stored["names"])
    for site, moments in REFERENCE.items():
        i = names.index(site)
        np.testing.assert_allclose(moments, (stored["mean"][i], stored["sd"][i]), atol=0.006)
    theta, log_tau = np.linspace(-40, 60, 400), np.linspace(-7, 5, 400)
    density = np.exp(exact_log_density(theta, log_tau))
    density /= density.sum()
    draws = stored["draws"][:, names.index("theta[1]")], np.log(stored["draws"][:, names.index("tau")])
    np.testing.assert_allclose((density.sum(0) * theta).sum(), draws[0].mean(), atol=0.4)
    np.testing.assert_allclose((density.sum(1) * log_tau).sum(), draws[1].mean(), atol=0.1)
    np.testing.assert_allclose(((density.sum(0)) * theta**2).sum(), (draws[0] ** 2).mean(), rtol=0.1)


@pytest.fixture
def example(monkeypatch):
    """``example(language, name)``: the module of an example, which are all called alike in both languages."""
    loaded = []

    def load(language, name):
        monkeypatch.syspath_prepend(str(ROOT / "examples" / language))
        sys.modules.pop(name, None)
        loaded.append(name)
        return __import__(name)

    monkeypatch.setenv("MPLBACKEND", "agg")
    yield load
    for name in loaded:
        sys.modules.pop(name, None)


TINY = {
    "image_glow": {"flow": "nice", "out": "."},
    "angles": {"folds": 2, "out": "."},
    "density": {"flow_layers": 1, "out": "."},
    "bayesian_flow": {"out": "."},
    "amortised": {"simulations": 200, "tests": 2, "out": "."},
    "prior": {"draws": 20, "groups": 10, "chains": 2},
    "vae": {"latent": 2, "hidden": 4},
}
FITS = ("fit", "fit_density", "fit_amortized")


@pytest.mark.filterwarnings("ignore:num_chains=2 is more than available_cpu")
@pytest.mark.parametrize(
    ("name", "language"),
    [
        *((name, "pyro") for name in TINY),
        *(  # which compiles for long
            pytest.param(name, "numpyro", marks=pytest.mark.long if name in ("prior", "vae") else pytest.mark.slow)
            for name in TINY
        ),
    ],
)
def test_an_example_trains_its_flows_and_prints_finite_numbers(language, name, example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module, fits = example(language, name), []

    def recorded(fit):
        def run(*args, **options):
            fits.append([])
            return fit(*args, **options, callback=lambda step, loss, params: fits[-1].append(numbers_of(params)))

        return run

    for fit in FITS:
        if hasattr(module, fit):
            monkeypatch.setattr(module, fit, recorded(getattr(module, fit)))
    out = module.main(steps=20, **TINY[name])
    assert np.all(np.isfinite(list(out.values()) if isinstance(out, dict) else out))
    assert fits
    for blocks in fits:
        assert blocks[-1] != blocks[0], "the parameters did not move"
    assert re.search(r"-?\d+\.\d+", capsys.readouterr().out)
    assert name in ("prior", "vae") or list(tmp_path.glob("*.png"))


def numbers_of(params):
    return [leaf.tolist() for leaf in jax.tree.leaves(dict(params))]


@pytest.mark.long
@pytest.mark.parametrize(("language", "flow"), [("pyro", "glow"), ("pyro", "nice"), ("numpyro", "tarflow")])
def test_the_image_example_runs_and_learns(language, flow, example, tmp_path, capsys):
    main = example(language, "image_glow").main
    few, more = (main(flow, steps=steps, out=str(tmp_path)) for steps in (2, 30))
    assert more < few - 0.05
    assert f"{flow}: {more:.3f} bits per dimension" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {f"{flow}_{what}_{language}.png" for what in ("samples", "between")}


@pytest.mark.slow
@pytest.mark.parametrize("language", ["pyro", "numpyro"])
def test_the_flow_of_angles_is_ahead_of_von_mises(language, example, tmp_path, capsys):
    numbers = example(language, "angles").main(steps=80, folds=2, out=str(tmp_path))
    assert numbers["flow"] > -np.log(2 * np.pi) + 0.1, "at first it is uniform"
    assert numbers["flow"] > numbers["von Mises"]
    assert f"flow: {numbers['flow']:.3f} nats" in capsys.readouterr().out
    assert (tmp_path / f"angles_{language}.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("language", ["pyro", "numpyro"])
def test_flows_of_a_table_are_ahead_of_a_gaussian_and_of_a_linear_regression(language, example, tmp_path, capsys):
    numbers = example(language, "density").main(steps=100, flow_layers=2, out=str(tmp_path))
    assert numbers["flow"] > numbers["Gaussian"] + 0.1, "untrained it is behind"
    assert numbers["conditional flow"] > numbers["linear regression"] + 0.1
    assert f"conditional flow: {numbers['conditional flow']:.3f} nats per left-out row" in capsys.readouterr().out
    assert (tmp_path / f"density_{language}.png").exists()


@pytest.mark.long
@pytest.mark.parametrize("language", ["pyro", "numpyro"])
def test_more_data_make_the_bayesian_flow_surer(language, example, tmp_path, capsys):
    numbers = example(language, "bayesian_flow").main(steps=250, out=str(tmp_path))
    assert numbers["width, 100"] < 0.8 * numbers["width, 20"]
    assert numbers["log-likelihood, 100"] > numbers["log-likelihood, 20"] + 0.1
    assert f"width, 20 irises: {numbers['width, 20']:.3f}" in capsys.readouterr().out
    assert (tmp_path / f"bayesian_flow_{language}.png").exists()


@pytest.mark.long
@pytest.mark.parametrize("language", ["pyro", "numpyro"])
def test_the_amortised_example_comes_near_the_exact_posteriors(language, example, tmp_path, capsys):
    numbers = example(language, "amortised").main(simulations=2_000, steps=200, tests=4, out=str(tmp_path))
    assert numbers["mean error / sd"] < 1.5, "untrained it is 2.0"
    assert f"mean error / sd: {numbers['mean error / sd']:.3f}" in capsys.readouterr().out
    assert (tmp_path / f"calibration_{language}.png").exists()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:num_chains=2 is more than available_cpu")
@pytest.mark.parametrize("language", ["pyro", "numpyro"])
def test_the_learned_population_comes_near_the_true_one_and_nuts_runs_on_it(language, example, capsys):
    numbers = example(language, "prior").main(steps=300, draws=20, groups=100, chains=2)
    assert numbers["flow"] < numbers["normal"] - 0.03
    assert np.isfinite(numbers["r_hat"])
    assert f"flow: energy distance of the learned population to the true one {numbers['flow']:.3f}" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["image_glow", "angles", "bayesian_flow", "amortised", "prior", "density"])
def test_the_examples_are_twins(name):
    """Only the imports, the arrays of the language and its random numbers differ."""
    texts = [(ROOT / "examples" / host / f"{name}.py").read_text() for host in ("pyro", "numpyro")]
    lines = [text.replace("numpyro", "pyro").replace("NumPyro", "Pyro").splitlines() for text in texts]
    assert len(set(lines[0]) & set(lines[1])) > 0.55 * len(lines[0])
