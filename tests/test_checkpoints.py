"""A fit that goes on after its process was killed: the very numbers of one that nothing stopped, in both languages."""

import errno
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
import pyro
import pytest
import torch
from killed_fit import KINDS, STEPS
from languages import LANGUAGES, correlated, identity_flow

import ppl_flows as pf
import ppl_flows.numpyro
import ppl_flows.pyro
from ppl_flows.inference import checkpoint as checkpoints
from ppl_flows.safe_files import FileFormatError, read, write

SHELLS = {"pyro": ppl_flows.pyro, "numpyro": ppl_flows.numpyro}
SHORT = {"steps": 60, "num_particles": 4, "draws": 20, "tolerance": None, "checkpoint_every": 0, "progress": False}


def kill(kind, times, folder):
    """What ``killed_fit.py`` prints; programs of JAX are compiled once for all its processes."""
    caches = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    script = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "killed_fit.py"), kind, str(times), folder]
    done = subprocess.run(script, env=os.environ | caches, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["pyro", "numpyro"])
@pytest.mark.slow_in_numpyro
def test_a_killed_fit_ends_as_one_that_nothing_stopped(kind, tmp_path):
    report = kill(kind, 2, tmp_path)
    assert report["same"]
    assert report["steps"] == sorted(report["steps"])
    assert report["steps"][-1] < STEPS


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_it_does_so_wherever_it_is_killed(kind, tmp_path):
    """20 kills in each language and more, each in another process."""
    assert kill(kind, 5, tmp_path)["same"]


class KilledError(Exception):
    """In place of a kill."""


def until(step):
    """A callback that ends the fit as a kill does."""

    def callback(at, loss, params):
        if at >= step:
            raise KilledError

    return callback


def fit(lang, path, *, callback=None, **options):
    """As in a new process."""
    pyro.clear_param_store()
    model = correlated(lang)
    guide = lang.AutoFlow(model, identity_flow, start="init")
    return lang.fit(model, guide, checkpoint=path, callback=callback, **{**SHORT, **options})


def assert_same(a, b):
    np.testing.assert_array_equal(a.losses, b.losses)
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.map(np.asarray, r.params) for r in (a, b)))


OPTIMIZERS = [
    ("pyro", lambda: pyro.optim.ClippedAdam({"lr": 1e-2})),
    (
        "pyro",
        lambda: pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.9}),
    ),
    ("pyro", lambda: partial(torch.optim.SGD, lr=1e-3, momentum=0.9)),
    ("numpyro", lambda: optax.sgd(1e-3, momentum=0.9)),
    pytest.param("numpyro", lambda: numpyro.optim.Adam(1e-2), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("lang", "optimizer"), OPTIMIZERS, indirect=["lang"])
def test_optimisers_of_the_hosts_go_on_too(lang, optimizer, tmp_path):
    with pytest.raises(KilledError):
        fit(lang, tmp_path / "fit", callback=until(30), optimizer=optimizer())
    resumed = fit(lang, tmp_path / "fit", optimizer=optimizer())
    assert_same(resumed, fit(lang, None, optimizer=optimizer()))


@pytest.mark.parametrize("compile", [None, "jit"])
def test_a_compiled_fit_goes_on_compiled(compile, float64, tmp_path, monkeypatch):
    monkeypatch.setattr(ppl_flows.pyro.compile.replay, "JIT_STEPS", 20)
    again = partial(fit, LANGUAGES["pyro"], compile=compile, anneal=0.5)
    with pytest.raises(KilledError):
        again(tmp_path / "fit", callback=until(30))
    assert_same(again(tmp_path / "fit"), again(None))


def test_a_finished_fit_is_there_without_a_step(lang, tmp_path):
    calls = []
    first = fit(lang, tmp_path / "fit", callback=lambda *_: calls.append(1))
    kept = (tmp_path / "fit").read_bytes()
    again = fit(lang, tmp_path / "fit", callback=lambda *_: calls.append(1))
    assert_same(first, again)
    assert first.elbo == again.elbo
    assert len(calls) == 20
    assert (tmp_path / "fit").read_bytes() == kept


def test_an_interrupted_fit_goes_on(lang, tmp_path):
    def press(step, loss, params):
        if step == 30:
            os.kill(os.getpid(), signal.SIGINT)

    assert fit(lang, tmp_path / "fit", callback=press, checkpoint_every=1e6).interrupted
    seen = []
    resumed = fit(lang, tmp_path / "fit", callback=lambda step, *_: seen.append(step))
    assert seen[0] == 33
    assert not resumed.interrupted
    assert_same(resumed, fit(lang, None))


@pytest.mark.slow_in_numpyro
def test_a_checkpoint_of_another_fit_is_refused_by_what_differs_and_kept(lang, tmp_path):
    def model(x, scale=1.0):
        z = lang.ppl.sample("z", lang.dist.Normal(0.0, 1.0))
        with lang.ppl.plate("rows", 3):
            lang.ppl.sample("x", lang.dist.Normal(z, scale), obs=x)

    def run(x, flow=identity_flow, scale=1.0, **options):
        pyro.clear_param_store()
        guide = lang.AutoFlow(model, flow, start="init")
        return lang.fit(model, guide, lang.array(x), scale=scale, checkpoint=path, **{**SHORT, "lr": 0.01, **options})

    path, x = tmp_path / "fit", np.array([1.0, 2.0, 3.0])
    with pytest.raises(KilledError):
        run(x, callback=until(30))
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=r"of another fit: lr was 0.01, is 0.02; delete the file or give another path"):
        run(x, lr=0.02)
    with pytest.raises(ValueError, match=r"num_particles was 4, is 5; .*seed was 0, is 1; argument 1 has other values"):
        run(x + 1, num_particles=5, seed=1)
    with pytest.raises(
        ValueError, match=r"argument 1 was .*float64 \(3,\), is .*float64 \(1,\); scale was 1.0, is 2.0"
    ):
        run(x[:1], scale=2.0)
    with pytest.raises(ValueError, match=r"flows was .*SinhArcsinh.* is .*transformer=Affine"):
        run(x, flow=lambda dim: pf.Elementwise(dim, pf.Affine()))
    assert path.read_bytes() == kept
    assert len(run(x).losses) == 60


def test_a_model_with_other_numbers_bound_or_another_code_is_another_fit(lang, tmp_path):
    def model(scale):
        lang.ppl.sample("z", lang.dist.Normal(0.0, scale))

    def another(scale):
        lang.ppl.sample("z", lang.dist.Normal(1.0, scale))

    def around(scale):
        return lambda: model(scale)

    def run(model, path):
        pyro.clear_param_store()
        guide = lang.AutoFlow(model, identity_flow, start="init")
        return lang.fit(model, guide, checkpoint=tmp_path / path, **SHORT)

    for path, first, second, said in (
        ("partial", partial(model, 1.0), partial(model, 2.0), r"'bound' was \[\"1.0\"\], is"),
        ("keywords", partial(model, scale=1.0), partial(model, scale=2.0), "'scale' was 1.0, is 2.0"),
        ("closure", around(1.0), around(2.0), "'scale' was 1.0, is 2.0"),
        ("code", partial(model, 1.0), partial(another, 1.0), "'code' was"),
    ):
        losses = run(first, path).losses
        np.testing.assert_array_equal(run(first, path).losses, losses)
        with pytest.raises(ValueError, match=f"of another fit: .*{said}"):
            run(second, path)


def test_another_base_of_a_density_is_another_fit(lang, tmp_path):
    shell = {torch: ppl_flows.pyro, jnp: ppl_flows.numpyro}[lang.xp]
    data, scales = np.random.default_rng(0).standard_normal((20, 2)), (1.0, 5.0)
    bases = [lang.dist.Normal(lang.array(np.zeros(2)), scale).to_event(1) for scale in scales]
    options = {"steps": 2, "standardize": False, "progress": False, "checkpoint": tmp_path / "density"}
    for _ in range(2):
        shell.fit_density(pf.TriangularAffine(2), lang.array(data), base=bases[0], **options)
    with pytest.raises(ValueError, match=r"of another fit: base 'base_dist' 'scale' has other values"):
        shell.fit_density(pf.TriangularAffine(2), lang.array(data), base=bases[1], **options)


def test_another_precision_is_named(tmp_path):
    with pytest.raises(KilledError):
        fit(LANGUAGES["pyro"], tmp_path / "fit", callback=until(30))
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match=r"default dtype was torch.float32, is torch.float64"):
            fit(LANGUAGES["pyro"], tmp_path / "fit")
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("lang", "optimizer"), OPTIMIZERS[2:4], indirect=["lang"])
def test_another_optimiser_is_named(lang, optimizer, tmp_path):
    with pytest.raises(KilledError):
        fit(lang, tmp_path / "fit", callback=until(30))
    with pytest.raises(ValueError, match=r"optimizer was None, is '(torch.optim|optax)"):
        fit(lang, tmp_path / "fit", optimizer=optimizer())


def damaged(data):
    middle = len(data) - 20
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "change", [lambda data: b"a text", lambda data: data[:-1], damaged], ids=["text", "cut", "bit"]
)
def test_a_file_that_is_no_checkpoint_is_an_error_and_stays(lang, change, tmp_path):
    with pytest.raises(KilledError):
        fit(lang, tmp_path / "fit", callback=until(30))
    changed = change((tmp_path / "fit").read_bytes())
    (tmp_path / "fit").write_bytes(changed)
    with pytest.raises(FileFormatError, match="fit"):
        fit(lang, tmp_path / "fit")
    assert (tmp_path / "fit").read_bytes() == changed


def test_a_file_of_a_flow_is_not_taken_for_a_checkpoint(lang, tmp_path):
    flow = pf.Elementwise(2)
    pf.save(tmp_path / "fit", flow, flow.init(np.random.default_rng(0)))
    with pytest.raises(FileFormatError, match="checkpoint"):
        fit(lang, tmp_path / "fit")


def test_a_forged_checkpoint_is_a_file_format_error(lang, tmp_path):
    with pytest.raises(KilledError):
        fit(lang, tmp_path / "fit", callback=until(30))
    metadata, arrays = read(tmp_path / "fit", (checkpoints.FORMAT,))
    content = json.loads(metadata["checkpoint"])
    content["training"] = {"dict": []}
    text = json.dumps(content)
    metadata |= {"checkpoint": text, "sha256": checkpoints._digest(text, arrays)}
    write(tmp_path / "fit", arrays, metadata)
    with pytest.raises(FileFormatError):
        fit(lang, tmp_path / "fit")


def test_a_disk_that_is_full_warns_and_the_fit_goes_on(lang, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    with pytest.warns(UserWarning, match="could not be written, the fit goes on: .*No space left") as seen:
        assert len(fit(lang, tmp_path / "fit").losses) == 60
    assert {w.filename for w in seen} == {__file__}


def test_options_of_checkpoints_are_checked(lang, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be seconds, 0 or more, got -1"):
        fit(lang, tmp_path / "fit", checkpoint_every=-1)
    with pytest.raises(FileNotFoundError, match="there is no directory"):
        fit(lang, tmp_path / "nowhere" / "fit")


def test_parameters_that_only_later_steps_have_are_an_error_at_once(tmp_path):
    calls = []

    def guide():
        calls.append(1)
        loc = pyro.param("loc", torch.tensor(0.0)) + (pyro.param("late", torch.tensor(0.0)) if len(calls) > 20 else 0.0)
        pyro.sample("z", pyro.distributions.Normal(loc, 1.0))

    def model():
        pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))

    with pytest.raises(
        ValueError, match=r"cannot go on from a file: parameters 'late' was absent, is .*checkpoint=None"
    ):
        ppl_flows.pyro.fit(model, guide, checkpoint=tmp_path / "fit", **SHORT)


def test_it_is_written_as_often_as_told(lang, tmp_path, monkeypatch):
    written, write = [], checkpoints.write
    monkeypatch.setattr(checkpoints, "write", lambda *args: written.append(1) or write(*args))
    fit(lang, tmp_path / "fit", checkpoint_every=1e6)
    assert len(written) == 2, "soon after the start, and at the end"


def encoder(lang):
    if lang.ppl is pyro:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.SiLU())

    def encode(rows):
        return jnp.tanh(rows @ numpyro.param("w", jnp.ones((2, 3))))

    return encode


@pytest.mark.slow_in_numpyro
def test_a_density_goes_on_with_its_base_encoder_averages_and_best_parameters(lang, tmp_path):
    def run(path, *, validation=0.25, shift=0.0, callback=None):
        rng = np.random.default_rng(0)
        data, context = rng.standard_t(3, (60, 2)), rng.standard_normal((60, 2))
        return SHELLS[lang.ppl.__name__].fit_density(
            pf.Chain([pf.Coupling(2, context_dim=3, conditioner=pf.MLP((4,))), pf.BatchNorm(2)]),
            lang.array(data + shift),
            context=lang.array(context),
            encoder=encoder(lang),
            base=pf.StudentT(2),
            steps=40,
            batch_size=20,
            lr=0.1,
            validation=validation,
            checkpoint=path,
            checkpoint_every=0,
            callback=callback,
            progress=False,
        )

    with pytest.raises(KilledError):
        run(tmp_path / "fit", callback=until(20))
    resumed, whole, finished = run(tmp_path / "fit"), run(None), run(tmp_path / "fit")
    context = lang.array(np.ones((1, 2)))
    for other in (resumed, finished):
        np.testing.assert_array_equal(other.losses, whole.losses)
        np.testing.assert_array_equal(other.validation_losses, whole.validation_losses)
        same = [jax.tree.map(np.asarray, [r.params, r.base_params]) for r in (other, whole)]
        jax.tree.map(np.testing.assert_array_equal, *same)
        encoded = [r.encoder(context) for r in (other, whole)]
        np.testing.assert_array_equal(*(a.detach().numpy() if lang.ppl is pyro else a for a in encoded))
    with pytest.raises(ValueError, match=r"validation was 0.25, is 0.5; data has other values; delete"):
        run(tmp_path / "fit", validation=0.5, shift=1.0)


@pytest.mark.slow_in_numpyro
def test_an_amortised_fit_goes_on(lang, tmp_path):
    def model(x=None):
        z = lang.ppl.sample("z", lang.dist.Normal(0.0, 1.0))
        lang.ppl.sample("x", lang.dist.Normal(z, 1.0), obs=x)

    def run(path, *, simulations=100, callback=None):
        return (
            SHELLS[lang.ppl.__name__]
            .fit_amortized(
                model,
                x=lang.array(0.0),
                flow=lambda dim, context_dim: pf.Elementwise(dim, context_dim=context_dim),
                simulations=simulations,
                patience=None,
                steps=20,
                checkpoint=path,
                checkpoint_every=0,
                callback=callback,
                progress=False,
            )
            .density
        )

    with pytest.raises(KilledError):
        run(tmp_path / "fit", callback=until(10))
    assert_same(run(tmp_path / "fit"), run(None))
    with pytest.raises(ValueError, match=r"data was .* \(100, 1\), is .* \(120, 1\)"):
        run(tmp_path / "fit", simulations=120)
