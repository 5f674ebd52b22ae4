"""Fits in several threads, and models with a flow in several processes."""

import subprocess
import sys
import threading

import numpy as np
import pyro
import pytest
from languages import correlated, identity_flow

from ppl_flows.inference.one_at_a_time import _lock as one_at_a_time_lock

OPTIONS = {"steps": 20, "num_particles": 4, "draws": 20, "progress": False, "tolerance": None}


def fit_often(lang, model, name, fits, found):
    """The losses and draws of fits of one guide; in Pyro's store its parameters have the name of its class."""
    guide = type(name, (lang.AutoFlow,), {})(model, identity_flow, start="init")
    for seed in range(fits):
        result = lang.fit(model, guide, seed=seed, **OPTIONS)
        found.append((result.losses, np.asarray(result.sample(3)["z"])))


@pytest.mark.parametrize("fits", [2, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.slow_in_numpyro
def test_threads_that_fit_at_once_find_what_each_finds_alone(lang, fits):
    model, names = correlated(lang), ("First", "Second")
    alone, together = ({name: [] for name in names} for _ in range(2))
    for name in names:
        fit_often(lang, model, name, fits, alone[name])
    pyro.clear_param_store()
    threads = [threading.Thread(target=fit_often, args=(lang, model, name, fits, together[name])) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        assert len(together[name]) == fits, "an exception ended the thread"
        for (losses, draws), (expected, expected_draws) in zip(together[name], alone[name], strict=True):
            np.testing.assert_array_equal(losses, expected)
            np.testing.assert_array_equal(draws, expected_draws)


@pytest.mark.slow_in_numpyro
def test_a_fit_is_loaded_when_no_other_thread_runs_models(lang, tmp_path):
    model = correlated(lang)
    lang.fit(model, lang.AutoFlow(model, identity_flow, start="init"), **OPTIONS).save(tmp_path / "fit")
    pyro.clear_param_store()
    loaded = []
    thread = threading.Thread(target=lambda: loaded.append(lang.AutoFlow.load(tmp_path / "fit", model)))
    with one_at_a_time_lock:
        thread.start()
        thread.join(0.2)
        assert not loaded
    thread.join()
    assert loaded


PYRO_CHAINS = """
import numpy as np, pyro, pyro.distributions as dist, pyro.infer.mcmc.api as api, torch
import ppl_flows as pf
from ppl_flows.pyro import Flow
from pyro.infer import NUTS

api.mp.cpu_count = lambda: 4  # with two cores Pyro runs its chains one after the other
bijection = pf.maf(2, flow_layers=1, hidden=(4,))
prior = Flow(bijection, bijection.init(np.random.default_rng(0))).detach()

def model(y):
    z = pyro.sample("z", prior)
    pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)

if __name__ == "__main__":
    for context in ("fork", "spawn"):
        options = {"num_samples": 5, "warmup_steps": 5, "num_chains": 2, "disable_progbar": True}
        mcmc = api.MCMC(NUTS(model), mp_context=context, **options)
        mcmc.run(torch.tensor(0.3))
        print(context, tuple(mcmc.get_samples(group_by_chain=True)["z"].shape))
"""


@pytest.mark.slow
def test_pyros_chains_in_processes_take_a_flow_prior(tmp_path):
    script = tmp_path / "chains.py"
    script.write_text(PYRO_CHAINS)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.splitlines() == ["fork (2, 5, 2)", "spawn (2, 5, 2)"], done.stderr
