"""``fit(compile=)`` in Pyro: a replay is the eager fit; what cannot be replayed is named; and every recipe."""

import ctypes
import inspect
import itertools
import os
import subprocess
import sys
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import perturbed
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import ppl_flows as pf
from ppl_flows.pyro import AutoFlow, AutoLocalFlow, FitError, Flow, fit, flow
from ppl_flows.pyro.compile import replay as replays
from ppl_flows.pyro.compile.capture import CompileError
from ppl_flows.pyro.compile.replay import has_compiler
from ppl_flows.pyro.compile.step import capture_step
from ppl_flows.pyro.eager_step import EagerSteps
from ppl_flows.pyro.flow_handlers import PathGradients

SHORT = {"steps": 30, "num_particles": 4, "draws": 10, "lr": 3e-2, "tolerance": None, "progress": False}
Y = torch.tensor([1.0, -2.0, 0.5, 3.0])


def groups():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("groups", 2):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=Y[:2])


def one_latent():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=Y[0])


def local():
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", 4, subsample_size=2) as rows:
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=Y[rows])


def flow_prior():
    prior = flow("prior", pf.nsf(2, flow_layers=1, bins=3, hidden=(4,)), base=pf.StudentT(2))
    with pyro.plate("rows", 4):
        z = pyro.sample("z", prior)
        pyro.sample("y", dist.Normal(z.sum(-1), 0.5), obs=Y)


def normalised():
    """Running averages, which every training step moves."""
    data = torch.stack([Y, Y**2], dim=-1)
    with pyro.plate("rows", 4):
        bijection = pf.Chain([pf.Coupling(2, conditioner=pf.MLP((4,))), pf.BatchNorm(2)])
        pyro.sample("x", flow("density", bijection, training=True), obs=data)


def nothing():
    """Nothing is latent."""


def tiny(recipe):
    return partial(recipe, flow_layers=1, hidden=(6,))


CASES = {
    "default flow, path gradients": (
        groups,
        lambda: AutoFlow(groups, lambda d: pf.guide_flow(d, flow_layers=2), start="init"),
        {"estimator": "path"},
    ),
    "iaf, path gradients": (groups, lambda: AutoFlow(groups, tiny(pf.iaf), start="init"), {"estimator": "path"}),
    "nsf, reparameterised": (groups, lambda: AutoFlow(groups, tiny(pf.nsf), start="init"), {}),
    "maf, particles one by one": (
        groups,
        lambda: AutoFlow(groups, tiny(pf.maf), start="init"),
        {"vectorize_particles": False, "num_particles": 2},
    ),
    "local latents, sub-sampled": (
        local,
        lambda: AutoLocalFlow(local, "rows", flow=tiny(pf.nsf), local_flow=tiny(pf.real_nvp)),
        {"num_particles": 1, "estimator": "path"},
    ),
    "a flow in the model, the host's guide": (flow_prior, lambda: AutoNormal(flow_prior), {"anneal": 0.5}),
    "running averages": (normalised, lambda: nothing, {"num_particles": 1}),
}


@pytest.fixture
def captures(monkeypatch):
    """One entry for every capture."""
    seen = []
    monkeypatch.setattr(
        replays, "capture_step", lambda *args, **kwargs: seen.append(1) or capture_step(*args, **kwargs)
    )
    return seen


def run(model, make, mode, **options):
    """A fit from the start."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return fit(model, make(), compile=mode, **(SHORT | options))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "one by one" in n else n for n in CASES])
def test_a_compiled_fit_is_the_eager_one(name, captures):
    model, make, options = CASES[name]
    start = run(model, make, False, **(options | {"steps": 1, "lr": 1e-12})).params
    eager = run(model, make, False, **options)
    assert not captures
    replay = run(model, make, "jit", **options)
    assert len(captures) == 1
    np.testing.assert_allclose(replay.losses, eager.losses, rtol=1e-4, atol=1e-4)  # float32, 30 steps apart
    assert replay.params.keys() == eager.params.keys() == start.keys()
    for key, value in eager.params.items():
        torch.testing.assert_close(replay.params[key], value, rtol=1e-4, atol=1e-4)
    assert replay.elbo.mean == pytest.approx(eager.elbo.mean, abs=1e-4)
    assert np.median(replay.losses[-10:]) < np.median(replay.losses[:10])
    assert all(not torch.equal(start[key], value) for key, value in replay.params.items() if "prior_base" not in key)


def test_a_fit_that_converges_ends_at_the_same_step():
    options = {"steps": 400, "num_particles": 16, "tolerance": 0.1}
    ends = [len(run(one_latent, lambda: AutoNormal(one_latent), mode, **options).losses) for mode in (False, "jit")]
    assert ends[0] == ends[1] < 400


def test_single_steps_that_are_not_finite_are_skipped_and_counted():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("y", torch.where(torch.frac(20 * z).abs() < 0.2, torch.nan, -((z + 1.0) ** 2)))

    with pyro.validation_enabled(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the host's, of NaN
        eager, replay = (run(model, lambda: AutoNormal(one_latent), m, num_particles=1) for m in (False, "jit"))
    assert replay.skipped == eager.skipped > 0
    np.testing.assert_allclose(replay.losses, eager.losses, rtol=1e-4, atol=1e-4)  # NaN at the same steps
    for key, value in eager.params.items():
        torch.testing.assert_close(replay.params[key], value, rtol=1e-4, atol=1e-4)


def test_a_fit_that_is_no_longer_finite_ends_with_the_last_finite_parameters():
    def model():
        p = pyro.param("p", torch.tensor(0.0))
        pyro.sample("y", dist.Normal(torch.where(p > 0.3, torch.nan, p), 1.0), obs=torch.tensor(2.0))

    caught = []
    warnings.simplefilter("ignore")  # the host's, of NaN; pytest forgets it after the test
    for mode in (False, "jit"):
        with pytest.raises(FitError, match="not finite since step") as error:
            run(model, lambda: nothing, mode, num_particles=1, steps=60)
        caught.append(error.value)
        assert pyro.param("p").item() == error.value.params["p"].item() > 0.3
    assert caught[0].step == caught[1].step > 5
    assert len(caught[0].losses) == len(caught[1].losses)
    torch.testing.assert_close(caught[1].params["p"], caught[0].params["p"], rtol=1e-5, atol=0)


# --- what cannot be replayed


def scored():
    pyro.sample("z", dist.Poisson(pyro.param("rate", torch.tensor(2.0))))


def branches():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z if z > 0 else 2 * z, 1.0), obs=torch.tensor(1.0))


def draws_with_numpy():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(np.random.default_rng().normal()))


COUNT, HIDDEN = torch.zeros(1), ctypes.py_object(torch.zeros(1))


def counts():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=COUNT.add_(0.0).sum())


def counts_unseen():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=HIDDEN.value.add_(0.0).sum())


def boolean_index():
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.factor("y", -(z[z > 0] ** 2).sum())


def poisson():
    z = pyro.sample("z", dist.Poisson(3.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(1.0))


def mixture():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    k = pyro.sample("k", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
    pyro.sample("y", dist.Normal(z + k, 1.0), obs=torch.tensor(1.0))


REASONS = [
    (mixture, lambda: AutoNormal(one_latent), "enumerated"),
    (poisson, lambda: scored, "'z' has no reparameterised draws"),
    (branches, lambda: AutoNormal(one_latent), "reads the value of a tensor"),
    (draws_with_numpy, lambda: AutoNormal(one_latent), "gives another result than its replay"),
    (counts, lambda: AutoNormal(one_latent), "may change 'COUNT'"),
    (counts_unseen, lambda: AutoNormal(one_latent), "in place that outlives the step"),
    (boolean_index, lambda: AutoNormal(boolean_index), "depends on values"),
]


@pytest.mark.parametrize(("model", "make", "reason"), REASONS, ids=lambda x: getattr(x, "__name__", ""))
def test_what_cannot_be_replayed_is_named(model, make, reason):
    options = {"steps": 5, "num_particles": 1, "vectorize_particles": False}
    with pytest.warns(UserWarning, match=reason) as seen:
        result = run(model, make, "jit", **options)
    assert len([w for w in seen if "compile" in str(w.message)]) == 1
    assert len(result.losses) == 5
    with pytest.raises(CompileError, match=f"{reason}.*compile=False"):
        run(model, make, "strict", **options)


def step_with_wrong_gradients(monkeypatch, wrong):
    """Compiled steps give another gradient in those of their calls for which ``wrong`` is true."""
    right, calls = replays.compile_step, []

    def altered(step, example, backend):
        made = right(step, example, backend)

        def changed(*args):
            calls.append(1)
            loss, x, m, *rest = made(*args)
            return loss, x, m * (1.01 if wrong(len(calls)) else 1.0), *rest

        return changed

    monkeypatch.setattr(replays, "compile_step", altered)


def test_a_replay_that_is_wrong_is_not_used_and_leaves_the_fit_as_it_was(monkeypatch):
    step_with_wrong_gradients(monkeypatch, lambda call: True)
    with pytest.warns(UserWarning, match="another result than its replay"):
        replay = run(groups, lambda: AutoNormal(groups), "jit")
    np.testing.assert_array_equal(replay.losses, run(groups, lambda: AutoNormal(groups), False).losses)


def test_a_gradient_that_differs_at_one_point_alone_is_compared_again(monkeypatch):
    monkeypatch.setattr(replays, "CHECK_STEPS", 10)
    step_with_wrong_gradients(
        monkeypatch, lambda call: call in (2, 14)
    )  # the second comparison before use, and one later
    checked = []
    agree = replays.Replay._gradients_agree
    monkeypatch.setattr(replays.Replay, "_gradients_agree", lambda *a: checked.append(agree(*a)) or checked[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay = run(groups, lambda: AutoNormal(groups), "jit")
    assert checked == [True, False, True, False, True, True, True]  # the last at the end
    np.testing.assert_allclose(replay.losses, run(groups, lambda: AutoNormal(groups), False).losses, rtol=1e-4)


def test_a_model_that_changes_later_goes_on_in_python_from_where_it_last_agreed(monkeypatch, captures):
    monkeypatch.setattr(replays, "CHECK_STEPS", 20)
    calls = ctypes.c_long(0)  # which the look at Python's state does not see

    def model():
        calls.value += 1
        mu = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.tensor(1.0 if calls.value < 8 else 30.0))

    make = lambda: AutoNormal(one_latent)  # noqa: E731
    with pytest.warns(UserWarning, match="changes from step to step") as seen:
        result = run(model, make, "jit", num_particles=1, steps=50)
    assert len(seen) == len(captures) == 1
    assert len(result.losses) == 50
    assert np.isfinite(result.losses).all()
    # after a first look and two eager steps came the capture, two comparisons, and one whenever 20 replays were full at
    # the end of a block (of two steps): the second of these was the eighth call, and undid what came since the first
    assert (result.losses[2:22] < 100).all()
    assert (result.losses[22:] > 100).all()


@pytest.mark.parametrize("mode", [None, "auto"])
def test_the_default_leaves_short_fits_alone_and_takes_the_compiler_for_long_ones_only(mode, monkeypatch, captures):
    make = lambda: AutoNormal(one_latent)  # noqa: E731
    run(one_latent, make, mode, steps=replays.JIT_STEPS)
    assert not captures
    run(one_latent, make, mode, steps=replays.JIT_STEPS + 1)
    assert len(captures) == 1
    taken = []
    monkeypatch.setattr(replays, "Replay", lambda eager, step, backend: taken.append(backend) or eager)
    for jit, inductor in ((20, 10**6), (10, 20)):
        monkeypatch.setattr(replays, "JIT_STEPS", jit)
        monkeypatch.setattr(replays, "INDUCTOR_STEPS", inductor)
        monkeypatch.setattr(replays, "has_compiler", lambda: True)
        run(one_latent, make, mode)
    monkeypatch.setattr(replays, "has_compiler", lambda: False)
    run(one_latent, make, mode)
    assert taken == ["jit", "inductor", "jit"]
    for wrong in ("yes", True, 0):
        with pytest.raises(ValueError, match="compile must be one of"):
            run(one_latent, make, wrong)


# --- the default: compiled where that pays, silent where it cannot be


@pytest.fixture
def soon(monkeypatch):
    """Fits are compiled from a few steps on."""
    monkeypatch.setattr(replays, "JIT_STEPS", 10)


@pytest.mark.parametrize(("model", "make", "reason"), REASONS, ids=lambda x: getattr(x, "__name__", ""))
def test_the_default_says_in_the_log_why_a_fit_is_not_compiled(model, make, reason, soon, caplog):
    options = {"steps": 12, "num_particles": 1, "vectorize_particles": False}
    caplog.set_level("INFO", "ppl_flows")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(model, make, None, **options)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ppl_flows"]
    assert reason in line


@pytest.mark.parametrize(
    "host", [{"loss": Trace_ELBO()}, {"optimizer": partial(torch.optim.SGD, lr=1e-3)}], ids=["loss", "optimizer"]
)
def test_a_loss_or_an_optimiser_of_the_host_is_not_compiled_by_default(host, soon, captures):
    taken = {"loss": "num_particles", "optimizer": "lr"}[next(iter(host))]  # which the host has its own
    options = {name: value for name, value in SHORT.items() if name != taken}
    result = fit(one_latent, AutoNormal(one_latent), **options, **host)
    assert len(result.losses) == SHORT["steps"]
    assert not captures


class Warming:
    """A model whose data are others from its thirtieth run on."""

    def __init__(self):
        self.runs = 0

    def __call__(self):
        self.runs += 1
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(1.0 if self.runs < 30 else 30.0))


class Slotted:
    __slots__ = ("runs",)


def counted(where):
    """A function that counts its calls: in a closure, a global, an attribute, a default, a slot, or an iterator."""
    n, cell, slotted, numbers = [0], 0, Slotted(), itertools.count()
    slotted.runs = 0

    def in_list():
        n[0] += 1

    def in_cell():
        nonlocal cell
        cell += 1

    def in_global():
        COUNTS["calls"] = COUNTS.get("calls", 0) + 1

    def in_attribute():
        in_attribute.calls = getattr(in_attribute, "calls", 0) + 1

    def in_default(seen=[]):  # noqa: B006
        seen.append(1)

    def in_slot():
        slotted.runs += 1

    def in_iterator():
        next(numbers)

    return locals()[where]


COUNTS = {}
PLACES = ["in_list", "in_cell", "in_global", "in_attribute", "in_default", "in_slot", "in_iterator"]


@pytest.mark.parametrize("where", PLACES)
def test_a_model_that_counts_its_runs_is_not_replayed(where, soon, caplog):
    count = counted(where)

    def model():
        count()
        one_latent()

    caplog.set_level("INFO", "ppl_flows")
    run(model, lambda: AutoNormal(one_latent), None)
    assert "each run of the model or guide may change" in caplog.text


def test_what_a_model_changes_after_many_runs_is_not_missed(soon):
    options = {"num_particles": 1, "steps": 60}
    losses = [run(Warming(), lambda: AutoNormal(one_latent), mode, **options).losses for mode in (False, None)]
    np.testing.assert_array_equal(*losses)
    assert losses[0][-1] > 100


def test_what_a_callback_changes_is_seen_from_the_next_step_on(soon, captures, caplog):
    losses = []
    caplog.set_level("INFO", "ppl_flows")
    for mode in (False, None):
        model = Warming()
        model.y = 1.0
        seen = []

        def changed(model=model):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(model.y))

        def callback(step, loss, params, model=model, seen=seen):
            seen.append(step)
            model.y = 30.0 if step >= 30 else 1.0

        losses.append(run(changed, lambda: AutoNormal(one_latent), mode, steps=60, callback=callback).losses)
        assert seen == [*range(3, 61, 3)]
    assert len(captures) == 1
    assert "the callback changed" in caplog.text
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert losses[0][31] > 100 > losses[0][29]


def test_the_last_steps_are_compared_before_they_count(monkeypatch, soon):
    calls = ctypes.c_long(0)  # which the look at Python's state does not see

    def model():
        calls.value += 1
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(1.0 if calls.value < 7 else 30.0))

    with pytest.warns(UserWarning, match="fit goes on without being compiled.*changes from step to step"):
        result = run(model, lambda: AutoNormal(one_latent), None, num_particles=1, steps=50)
    assert len(result.losses) == 50
    assert (result.losses[2:] > 100).all()


# files of tests in which Pyro fits; without tests that count what the model is run for
FITS = "amortized checkpoints callbacks density estimators examples fit guide_life guide_sites guide_starts handlers "
FITS += "informed_guides interrupts joint_prior path_gradients plain_flows pyro saved_fits state supports threads"
COUNTING = (
    "numpyro",
    "goes_on_compiled",
    "meets_nan",
    "steps_that_are_not_finite",
    "parameters_that_only_later_steps_have",
)


@pytest.mark.slow
@pytest.mark.skipif("FITS_TWICE" not in os.environ, reason="runs a third of the tests again: make test-compiled")
def test_every_fit_of_tests_and_examples_is_the_eager_one_by_default(tmp_path):
    report, here = tmp_path / "report", Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-p", "fits_twice", "-p", "no:cacheprovider", "-n", "0", "-q"]
    command += ["-k", " and ".join(f"not {word}" for word in COUNTING), *(f"test_{name}.py" for name in FITS.split())]
    done = subprocess.run(
        command, check=False, cwd=here, env=os.environ | {"REPORT": str(report)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3_000:]
    kinds = Counter(line.split()[0] for line in report.read_text().splitlines())
    assert kinds.keys() == {"compiled", "reason"}, report.read_text()
    assert kinds["compiled"] > 100 > 2 * kinds["reason"] > 0


@pytest.mark.long
def test_inductor_replays_the_eager_fit(monkeypatch):
    if not has_compiler():
        pytest.skip("inductor needs a C++ compiler, and there is none.")
    eager, replay = (run(one_latent, lambda: AutoNormal(one_latent), m, steps=30) for m in (False, "inductor"))
    np.testing.assert_allclose(replay.losses, eager.losses, rtol=1e-4, atol=1e-4)
    for key, value in eager.params.items():
        torch.testing.assert_close(replay.params[key], value, rtol=1e-4, atol=1e-4)


# --- every recipe


def example_step(recipe, estimator):
    """The captured step of a guide with this flow, and what made it."""

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=Y[:2])

    pyro.clear_param_store()
    guide = AutoFlow(model, recipe, start="init")

    scored = PathGradients(estimator=estimator)(guide)
    eager = EagerSteps(Trace_ELBO(), lambda _: model(), lambda _: scored(), 10.0)
    list(eager.run(np.array([[1.0, 1e-2, 1.0]])))
    return capture_step(eager, annealed=False), eager


# to draw, or with path gradients to score, these iterate until they have converged
ITERATE = {"flowpp", "gaussianization", "bernstein_flow", "sos_flow", "residual_flow", "ffjord"}
ITERATE_TO_SCORE = {"naf", "umnn", "bnaf", "planar_flow", "sylvester_flow"}
SMALL = {"flow_layers": 1, "hidden": (4,), "bins": 3, "components": 2, "degree": 3}


def recipes():
    found = {name: getattr(pf, name) for name in pf.recipes.__all__}
    return {n: f for n, f in found.items() if "dim" in inspect.signature(f).parameters}


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_is_captured_or_its_iteration_is_named(name):
    recipe = recipes()[name]
    options = {k: v for k, v in SMALL.items() if k in inspect.signature(recipe).parameters}
    recipe = partial(recipe, **options)
    # a step with path gradients has all that an ordinary one has
    for estimator in ("reparam", "path") if name in ITERATE_TO_SCORE else ("path",):
        if name in ITERATE or (estimator == "path" and name in ITERATE_TO_SCORE):
            with pytest.raises(CompileError, match="no closed form"):
                example_step(recipe, estimator)
            continue
        step, eager = example_step(recipe, estimator)
        parameters = [p.detach() + 0.1 * torch.randn_like(p) for p in eager.names]
        for p, moved in zip(eager.names, parameters, strict=True):
            p.data.copy_(moved)
        torch.manual_seed(3)
        loss, *gradient = step.gradient(*parameters, torch.ones(3))
        torch.manual_seed(3)
        expected, _ = eager.gradient(1.0)
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        norm = torch.cat([g.reshape(-1) for g in gradient[: len(parameters)]]).norm()
        scale = torch.clamp(eager.clip / norm, max=1.0)  # the eager gradient is clipped
        for p, g in zip(eager.names, gradient, strict=False):
            expected = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(scale * g, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")  # of pure functions
@pytest.mark.parametrize("recipe", [pf.real_nvp, pf.nsf, pf.maf, pf.nice], ids=lambda r: r.__name__)
def test_torch_compile_takes_a_density_as_one_graph(recipe, float64):
    bijection = recipe(3, flow_layers=2, hidden=(8,))
    density = Flow(bijection, perturbed(bijection))
    transform, base = density.transforms[0], density.base_dist

    @partial(torch.compile, fullgraph=True, backend="aot_eager")
    def log_prob(params, y):
        x, log_det = bijection.inverse(params, y)
        return base.log_prob(x) + log_det

    y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    leaves, expected = list(transform.parameters()), density.log_prob(y)
    torch.testing.assert_close(log_prob(transform.params, y), expected)
    ours = torch.autograd.grad(log_prob(transform.params, y).sum(), leaves)
    torch.testing.assert_close(ours, torch.autograd.grad(expected.sum(), leaves))
