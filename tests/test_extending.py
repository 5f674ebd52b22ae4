"""A package of somebody else: its classes obey the laws (``cases.foreign``), train, and are kept in files."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pyro.distributions
import pytest
import torch
from cases import LIBRARIES, points
from foreign_flows import FourierFeatures, Givens, Laplace, Markov, TanhStep
from scipy import stats

import ppl_flows as pf
from ppl_flows import numpyro as pfn
from ppl_flows import pyro as pfp
from ppl_flows.core.params import flatten

TESTS = Path(__file__).parent
FLOW = pf.Chain(
    {
        "turn": Givens(2),
        "couplings": pf.real_nvp(2, conditioner=FourierFeatures(8), flow_layers=2),
        "steps": pf.Inverse(pf.MaskedAutoregressive(2, TanhStep(), conditioner=Markov())),
    }
)


@pytest.mark.parametrize("shell", [pfp, pfn], ids=["pyro", "numpyro"])
def test_foreign_parts_train_in_both_languages_and_in_a_file(shell, tmp_path):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((200, 2))
    data = np.stack([z[:, 0], z[:, 0] ** 2 + 0.3 * z[:, 1]], axis=-1).astype("float32")
    array = torch.tensor if shell is pfp else jnp.asarray
    fit = shell.fit_density(FLOW, array(data), base=Laplace(2), steps=60, batch_size=100, lr=2e-2, progress=False)
    assert fit.losses[-5:].mean() < fit.losses[:5].mean() - 0.1
    start = dict(flatten(fit.bijection.init(np.random.default_rng(0))))
    assert all(np.any(np.asarray(a) != start[name]) for name, a in flatten(fit.params))
    pf.save(tmp_path / "flow.safetensors", fit.bijection, fit.params)
    pf.save(tmp_path / "base.safetensors", fit.base, fit.base_params)
    other, dtype = (pfn, jnp.asarray) if shell is pfp else (pfp, torch.tensor)
    base, base_params = pf.load(tmp_path / "base.safetensors")
    moved = other.Flow(*pf.load(tmp_path / "flow.safetensors"), base=other.BaseDistribution(base, base_params))
    here, there = np.asarray(fit.flow.log_prob(array(data)).tolist()), moved.log_prob(dtype(data)).tolist()
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_the_foreign_base_is_scipys_laplace(library):
    base, rng = Laplace(3), np.random.default_rng(2)
    params = {"loc": rng.standard_normal(3), "log_scale": 0.3 * rng.standard_normal(3)}
    x = rng.standard_normal((5, 3))
    expected = stats.laplace.logpdf(x, params["loc"], np.exp(params["log_scale"])).sum(-1)
    found = base.log_prob(library.params(params), library.array(x))
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("shell", "host"), [(pfp, pyro.distributions), (pfn, numpyro.distributions)], ids=["pyro", "numpyro"]
)
def test_the_foreign_base_is_drawn_from_in_the_hosts(shell, host):
    params = {"loc": np.array([1.0, -2.0]), "log_scale": np.array([0.0, 0.5])}
    base = shell.BaseDistribution(Laplace(2), params)
    draws = base.sample((20_000,)) if shell is pfp else base.sample(jax.random.key(0), (20_000,))
    for i in range(2):
        theirs = stats.laplace(params["loc"][i], np.exp(params["log_scale"][i]))
        assert stats.kstest(np.asarray(draws)[:, i], theirs.cdf).pvalue > 1e-3
    assert isinstance(base, host.Distribution)


def test_an_inverse_in_length_passes_is_exact_and_takes_that_many(monkeypatch):
    layer = pf.MaskedAutoregressive(5, conditioner=Markov())
    params = {name: a + 0.3 for name, a in layer.init(np.random.default_rng(0)).items()}
    network, passes = type(layer._network), []
    call = network.__call__
    monkeypatch.setattr(network, "__call__", lambda *args: passes.append(1) or call(*args))
    y, log_det = layer.forward(params, points(layer))
    assert len(passes) == 1
    back, back_log_det = layer.inverse(params, y)
    assert len(passes) == 1 + 5
    np.testing.assert_allclose(back, points(layer), rtol=0, atol=1e-12)
    np.testing.assert_allclose(back_log_det, -log_det, rtol=0, atol=1e-12)


def test_a_class_that_is_not_registered_is_refused_and_the_error_says_what_to_call(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Flipped(pf.Bijection):
        dim: int

        def _forward(self, params, x, context):
            return -x, 0 * x[..., 0]

        _inverse = _forward

    with pytest.raises(ValueError, match=r"call pf\.register\(Flipped\) first"):
        pf.save(tmp_path / "flow.safetensors", Flipped(2), {})
    assert pf.register(Flipped) is Flipped
    pf.save(tmp_path / "flow.safetensors", Flipped(2), {})
    assert pf.load(tmp_path / "flow.safetensors") == (Flipped(2), {})


def test_a_file_with_a_class_of_somebody_else_names_it_where_it_is_not_registered(tmp_path):
    path = tmp_path / "flow.safetensors"
    pf.save(path, Givens(2), Givens(2).init(np.random.default_rng(0)))
    code = f"import ppl_flows as pf\ntry: pf.load({str(path)!r})\nexcept ValueError as error: print(error)"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout
    assert "unknown class 'Givens' in the file; if it is your own, pf.register it before loading" in out


@dataclasses.dataclass(frozen=True)
class Coupling(pf.Bijection):
    """A name that is taken."""

    dim: int
    _forward = _inverse = None


@pytest.mark.parametrize(
    ("cls", "error", "message"),
    [
        (Coupling, ValueError, "has the name 'Coupling' already; give yours another"),
        (int, TypeError, "takes a frozen dataclass that subclasses pf.Bijection"),
        (pf.nsf, TypeError, "takes a frozen dataclass that subclasses pf.Bijection"),
    ],
)
def test_what_cannot_be_registered_is_an_error(cls, error, message):
    with pytest.raises(error, match=message):
        pf.register(cls)


def test_the_page_shows_the_files_and_its_check_runs():
    blocks = re.findall(r"```python\n(.*?)```", (TESTS.parent / "docs" / "extending.md").read_text(), re.DOTALL)
    files = {path.read_text() for path in (TESTS / "foreign_flows").glob("*.py") if path.stem != "__init__"}
    assert files == set(blocks[:-1])
    exec(blocks[-1], {})
