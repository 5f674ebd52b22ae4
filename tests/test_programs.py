"""What NumPyro's fits compile: few programs, no single operations, and none in a second process with JAX's cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import ppl_flows as pf
from ppl_flows.numpyro import AutoFlow, fit
from ppl_flows.numpyro.compile_once import Program, computed, random_key
from ppl_flows.numpyro.compiler_effort import BEST, FULL, GOOD, QUICK, compile_with, options_for

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def schools(y, sigma):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


@pytest.fixture
def compiled():
    """Names of the programs that XLA compiles from here on."""
    names = []

    def listen(event, _, fun_name="", **__):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


# --- how many


def test_a_fit_from_its_guide_to_weighted_draws_compiles_seventeen_programs(compiled):
    result = fit(schools, AutoFlow(schools), Y, SIGMA, steps=40, draws=500, progress=False)
    assert 5 < len(compiled) <= 17, compiled
    compiled.clear()
    result.sample(300)
    result.reweighted(300)
    assert compiled == []
    fit(schools, AutoFlow(schools), Y, SIGMA, steps=40, draws=500, progress=False)
    assert compiled == [], "the second fit is of the same programs"


def test_a_model_that_cannot_be_traced_is_set_up_by_its_operations():
    def model():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        if not isinstance(z, jax.core.Tracer):
            seen.append(float(z))

    seen = []
    guide = AutoFlow(model, start="init")
    handlers.seed(guide, 0)()
    assert guide.latent_dim == 1

    def stubborn():
        seen.append(float(numpyro.sample("z", dist.Normal(0.0, 1.0))))

    guide = AutoFlow(stubborn, start={"z": np.array([0.0, 1.0, 2.0])})
    handlers.seed(guide, 0)()
    assert guide.start == "draws"
    assert len(seen) > 0


@pytest.mark.slow
def test_what_a_model_keeps_from_its_first_run_are_arrays():
    kept = {}

    def model():
        if "x" not in kept:
            kept["x"] = jnp.log(jnp.asarray([1.0, 2.0, 3.0]))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(z * kept["x"], 1.0), obs=np.ones(3))

    result = fit(model, AutoFlow(model, pf.iaf), steps=5, draws=100, progress=False)
    assert not isinstance(kept["x"], jax.core.Tracer)
    assert np.isfinite(result.elbo.mean)


class Shifted(dist.Distribution):
    """A normal that does not tell JAX of its array, as many a user's class."""

    support = dist.constraints.real

    def __init__(self, loc):
        self.loc = loc
        super().__init__(jnp.shape(loc), ())

    def sample(self, key, sample_shape=()):
        return self.loc + jax.random.normal(key, sample_shape + self.batch_shape)

    def log_prob(self, value):
        return dist.Normal(self.loc, 1.0).log_prob(value)


def test_a_distribution_that_hides_its_arrays_keeps_them():
    def model():
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("z", Shifted(mu))

    guide = AutoFlow(model, pf.iaf, informed=False)
    handlers.seed(guide, 0)()
    assert jnp.shape(guide.prototype_trace["z"]["fn"].loc) == ()
    assert not isinstance(guide.prototype_trace["z"]["fn"].loc, jax.core.Tracer)


# --- the pieces


def test_computed_gives_what_the_function_gives():
    def f(x=2.0):
        return {"b": jnp.exp(jnp.asarray(x)), "a": [dist.Normal(jnp.asarray(x) + 1, 1.0), "word", None]}

    one, other = computed(f), f()
    assert [*one] == ["a", "b"]  # as a tree has it
    np.testing.assert_allclose(one["b"], other["b"])
    np.testing.assert_allclose(one["a"][0].loc, 3.0)
    assert one["a"][1:] == ["word", None]
    assert computed(lambda: "nothing to compute") == "nothing to compute"


def test_keys_of_a_seed_differ_by_stream_and_from_the_hosts(compiled):
    keys = [random_key(0), random_key(0, 1), random_key(1), random_key(2**40)]
    assert compiled == []
    words = {tuple(np.asarray(jax.random.key_data(key))) for key in [*keys, jax.random.key(0), jax.random.key(1)]}
    assert len(words) == 6
    assert jax.random.uniform(random_key(3)) == jax.random.uniform(random_key(3))


def test_xla_tries_as_hard_as_pays(compiled):
    def f(x):
        return jnp.sin(x).sum()

    small, large = (jax.jit(f).trace(np.ones(n, np.float32)).jaxpr for n in (10, 10**6))
    assert options_for(small, 1) == QUICK
    assert options_for(large, 10) == GOOD
    assert options_for(large, 10**2) == BEST
    assert options_for(large, 10**4) == FULL
    looped = jax.jit(lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, length=1_000)[0])
    assert options_for(looped.trace(np.ones(100, np.float32)).jaxpr, 1) == QUICK
    assert options_for(looped.trace(np.ones(100, np.float32)).jaxpr, 100) == GOOD
    program = Program(f, calls=3)
    values = [program(np.ones(n, np.float32)) for n in (4, 4, 5)]
    np.testing.assert_allclose(values, np.sin(1) * np.array([4, 4, 5]), rtol=1e-6)
    assert compiled == ["jit(f)", "jit(f)"]


def test_options_that_an_xla_does_not_have_are_left_out(monkeypatch):
    monkeypatch.setattr("ppl_flows.numpyro.compiler_effort._unknown", set())
    lowered = jax.jit(lambda x: x + 1).lower(np.float32(1))
    program = compile_with(lowered, {"xla_no_such_option": True, **QUICK})
    assert program(np.float32(1)) == 2


# --- a second process

SCRIPT = """
import json, sys
import jax
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
sys.path.insert(0, sys.argv[1])
from test_programs import SIGMA, Y, schools
from ppl_flows.numpyro import AutoFlow, fit
losses = fit(schools, AutoFlow(schools), Y, SIGMA, steps=20, draws=100, progress=False).losses
events = {name: sum(event.endswith(name) for event in seen) for name in ("cache_hits", "cache_misses")}
print(json.dumps(events | {"loss": float(losses[-1])}))
"""


@pytest.mark.slow
def test_a_second_process_takes_all_programs_from_jaxs_cache(tmp_path):
    # the host adds up the terms of an ELBO in the order of a set: another one in every process without this seed
    cache = {"PYTHONHASHSEED": "0"}
    cache |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
        done = subprocess.run(command, env=os.environ | cache, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    first, second = found
    assert first["cache_misses"] > 5
    assert second["cache_misses"] == 0
    assert second["cache_hits"] >= first["cache_misses"]
    assert second["loss"] == first["loss"]
