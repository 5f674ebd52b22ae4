"""One SVI step on two models: how many times as fast as Pyro's own SVI with AutoIAFNormal.

All ``iaf`` guides: three affine autoregressive layers, two hidden layers as wide as the latents, relu, Adam, the
ordinary reparameterised gradient. AutoFlow ends in two affine maps besides. ``AutoFlow()`` is the default flow with
path gradients, which is another, dearer guide. CPU seconds on one core, medians of rounds in which all variants take
their turn; compilation and the first steps are not in them, and have a column of their own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from timing import one_core, ratios

one_core()

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions
import optax
import pyro
import pyro.distributions
import torch
from fit_loop import loop_of
from numpyro.infer.autoguide import AutoIAFNormal as NumPyroIAF
from pyro import poutine
from pyro.infer.autoguide import AutoIAFNormal as PyroIAF

import ppl_flows as pf
from ppl_flows.numpyro import AutoFlow as NumPyroFlow
from ppl_flows.numpyro import fit
from ppl_flows.pyro import AutoFlow as PyroFlow
from ppl_flows.pyro.compile.replay import Replay
from ppl_flows.pyro.compile.step import capture_step
from ppl_flows.pyro.eager_step import EagerSteps
from ppl_flows.pyro.flow_handlers import PathGradients

Y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=np.float32)
SIGMA = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=np.float32)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(1_000, 50)).astype(np.float32)
LABELS = (RNG.random(1_000) < 1 / (1 + np.exp(-X @ (0.5 * RNG.normal(size=50))))).astype(np.float32)
PLAN = np.tile([1.0, 1e-3, 1.0], (5_000, 1))  # weight of the model, learning rate, share in the mean
STEPS = 20  # of the slowest variant in its turn; the others take as many times more as they are faster


def schools(ppl: Any, dist: Any, array: Callable) -> Callable:
    y, sigma = array(Y), array(SIGMA)

    def model():
        mu = ppl.sample("mu", dist.Normal(0.0, 5.0))
        tau = ppl.sample("tau", dist.HalfCauchy(5.0))
        with ppl.plate("schools", 8):
            theta = ppl.sample("theta", dist.Normal(mu, tau))
            ppl.sample("y", dist.Normal(theta, sigma), obs=y)

    return model


def regression(ppl: Any, dist: Any, array: Callable) -> Callable:
    x, labels = array(X), array(LABELS)

    def model():
        with ppl.plate("columns", 50):
            w = ppl.sample("w", dist.Normal(0.0, 1.0))
        with ppl.plate("rows", 1_000):
            ppl.sample("y", dist.Bernoulli(logits=w @ x.T), obs=labels)

    return model


MODELS = {"eight schools": (schools, 10), "regression": (regression, 50)}


def recipe(dim: int) -> pf.Bijection:
    return pf.iaf(dim, flow_layers=3, hidden=(dim, dim), activation="relu")


def in_pyro(make: Callable, dim: int, particles: int, backends: list[str]) -> tuple[dict, dict]:
    """Variants, each a function that takes so many steps, and the seconds that their preparation took."""
    model = make(pyro, pyro.distributions, torch.tensor)
    elbo = pyro.infer.Trace_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    svi = pyro.infer.SVI(model, PyroIAF(model, [dim, dim], num_transforms=3), pyro.optim.Adam({"lr": 1e-3}), elbo)
    runs: dict[str, Callable] = {"Pyro AutoIAFNormal": lambda n: [svi.step() for _ in range(n)]}
    seconds = dict.fromkeys(runs, 0.0)
    for label, flow, estimator in (("AutoFlow(iaf)", recipe, "reparam"), ("AutoFlow()", None, "path")):
        guide = PyroFlow(model, flow)
        guide._pyro_name = label  # two guides in one store
        guide()

        scored = PathGradients(estimator=estimator)(guide)

        def weighted_model(weight):
            with poutine.scale(scale=weight):
                return model()

        # inductor would take minutes for the default flow
        for backend in ("eager", *(b for b in backends if flow or b != "inductor")):
            steps = EagerSteps(elbo, weighted_model, lambda _, scored=scored: scored(), 10.0)
            list(steps.run(PLAN[:1]))
            start = time.process_time()
            if backend != "eager":
                steps = Replay(steps, capture_step(steps, annealed=False), backend)
            name = f"{label} {backend}"
            seconds[name] = time.process_time() - start
            runs[name] = lambda n, steps=steps: list(steps.run(PLAN[:n]))
    return runs, seconds


def in_numpyro(make: Callable, dim: int, particles: int) -> tuple[dict, dict]:
    from jax.example_libraries import stax

    model = make(numpyro, numpyro.distributions, jnp.array)
    elbo = numpyro.infer.Trace_ELBO(num_particles=particles)
    guides = {
        "NumPyro AutoIAFNormal": NumPyroIAF(model, num_flows=3, hidden_dims=[dim, dim], nonlinearity=stax.Relu),
        "NumPyro AutoFlow(iaf)": NumPyroFlow(model, recipe),
    }
    runs, seconds = {}, {}
    for label, guide in guides.items():
        svi = numpyro.infer.SVI(model, guide, optax.adam(1e-3), elbo)
        start = time.process_time()
        state = svi.init(jax.random.key(0))
        update = jax.jit(svi.update)
        block = jax.jit(lambda s, n, svi=svi: jax.lax.fori_loop(0, n, lambda _, s: svi.update(s)[0], s))

        def one_by_one(n, state=state, update=update):
            for _ in range(n):
                state, loss = update(state)
            jax.block_until_ready(loss)

        one_by_one(1)
        seconds[f"{label} svi.update"] = time.process_time() - start
        runs[f"{label} svi.update"] = one_by_one
        runs[f"{label} many per dispatch"] = lambda n, state=state, block=block: jax.block_until_ready(block(state, n))
        seconds[f"{label} many per dispatch"] = seconds[f"{label} svi.update"]
    start = time.process_time()
    runs[f"{label} fit"] = loop_of_fit(model, NumPyroFlow(model, recipe, start="init"), particles)
    seconds[f"{label} fit"] = time.process_time() - start
    return runs, seconds


def loop_of_fit(model: Callable, guide: Any, particles: int) -> Callable:
    """Takes so many steps in the dispatches of a ``fit`` of 2,000: with its clipping, averaging and checks."""
    options = {"num_particles": particles, "tolerance": None, "estimator": "reparam", "progress": False}
    steps = loop_of(lambda: fit(model, guide, steps=2_000, **options))

    def run(n: int) -> None:
        for first in range(0, n, 100):
            steps(first, min(first + 100, n))

    return run


def per_step(runs: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Times as fast as the first, step by step."""
    steps = {}
    for name, run in runs.items():
        run(5)
        start = time.process_time()
        run(STEPS)
        once = max((time.process_time() - start) / STEPS, 1e-6)
        steps[name] = int(np.clip(0.1 / once, STEPS, 5_000))  # about a tenth of a second a turn
    found = ratios({name: (lambda run=run, n=steps[name]: run(n)) for name, run in runs.items()}, rounds)
    first = steps[next(iter(runs))]
    return {name: steps[name] / first / ratio for name, ratio in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", default="jit,inductor", help="of compile=, comma separated")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns, names = {}, []
    for model, (make, dim) in MODELS.items():
        for particles in (1, 16):
            pyro.clear_param_store()
            runs, seconds = in_pyro(make, dim, particles, options.backends.split(","))
            more, their_seconds = in_numpyro(make, dim, particles)
            speeds, seconds = per_step(runs | more, options.rounds), seconds | their_seconds
            columns[f"{model}, {particles}"] = {n: f"{speeds[n]:.1f} ({seconds[n]:.0f} s)" for n in speeds}
            names = list(speeds)
    print("|", "times as fast (CPU seconds before the first step) |", " | ".join(columns), "|")
    print("|---" * (1 + len(columns)) + "|")
    for name in names:
        print("|", name, "|", " | ".join(column[name] for column in columns.values()), "|")


if __name__ == "__main__":
    main()
