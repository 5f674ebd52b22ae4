"""How many MiB a process grows by: ``python memory_of_a_process.py numpyro``; one line per kind of work."""

import ctypes
import gc
import importlib
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np

import ppl_flows as pf

os.environ.setdefault("JAX_PLATFORMS", "cpu")
LANGUAGE = sys.argv[1]
ppl, dist = importlib.import_module(LANGUAGE), importlib.import_module(f"{LANGUAGE}.distributions")
shell = importlib.import_module(f"ppl_flows.{LANGUAGE}")
array = importlib.import_module("torch" if LANGUAGE == "pyro" else "jax.numpy").asarray


def resident() -> float:
    """MiB of this process, when all that can be given back is."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def model():
    z = ppl.sample("z", dist.Normal(array(np.zeros(2, "float32")), 1.0).to_event(1))
    ppl.sample("y", dist.Normal(z[..., 0] * z[..., 1], 1.0), obs=array(np.float32(1.0)))


SMALL = partial(pf.iaf, flow_layers=1, hidden=(8,))


def fit(seed, flow=SMALL, start="auto", **options):
    if LANGUAGE == "pyro":
        ppl.clear_param_store()
    guide = shell.AutoFlow(model, flow, start=start)
    shell.fit(model, guide, steps=20, num_particles=4, draws=100, progress=False, seed=seed, **options)


def score(seed):
    FLOW.log_prob(array(np.random.default_rng(seed).standard_normal((5, 4)).astype("float32")))


def make_and_drop(seed):
    flow = shell.Flow(pf.nsf(4, flow_layers=2, hidden=(512, 512)), seed=seed)
    flow.log_prob(array(np.zeros((2, 4), "float32")))


FLOW = shell.Flow(pf.guide_flow(4))
WORK = {"fits": (fit, 50), "scores": (score, 500), "flows": (make_and_drop, 140)}
if LANGUAGE == "pyro":
    WORK["jit_fits"] = partial(fit, flow=pf.iaf, start="init", compile="jit"), 20
for name, (work, times) in WORK.items():
    for i in range(3):
        work(i)
    before = resident()
    for i in range(times):
        work(3 + i)
    print(f"grown_by_{name} {resident() - before:.1f}", flush=True)
